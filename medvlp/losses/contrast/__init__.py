"""Contrast of samples and texts, whole or token by token."""
