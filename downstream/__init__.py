"""Zero-shot evaluation of a trained run."""
