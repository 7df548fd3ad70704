"""From configured sources to a dataset folder: plan, read in processes, link, split, account."""
