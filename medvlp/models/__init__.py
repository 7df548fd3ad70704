"""Towers, pooling and the vision-language model."""
