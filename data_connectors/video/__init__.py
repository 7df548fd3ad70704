"""Lecture videos, clips and transcripts."""
