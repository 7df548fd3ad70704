"""Folders of PNG, JPEG and NIfTI files with a table; visuals with labels and texts out."""
