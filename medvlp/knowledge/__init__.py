"""What the words mean: concepts, findings, prompts, which pairs match."""
