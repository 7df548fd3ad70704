"""Pseudonyms and text scrubbing."""
