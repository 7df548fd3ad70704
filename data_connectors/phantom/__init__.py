"""A synthetic hospital with known truth."""
