"""Folders of PNG and JPEG images with a table; images with labels and texts out."""
