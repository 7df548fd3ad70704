"""Tracking, release, verification."""
