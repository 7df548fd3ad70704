"""Zip and tar archives read in place: members by name, in memory, never unpacked to disk."""
