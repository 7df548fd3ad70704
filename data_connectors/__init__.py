"""The hospital's files in, samples out."""
