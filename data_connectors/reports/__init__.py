"""Radiology reports."""
