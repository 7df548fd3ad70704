"""Pretraining on a dataset folder."""
