"""DICOM series and single images."""
