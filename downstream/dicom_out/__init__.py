"""Predictions as DICOM objects: masks (SEG) and findings (SR) about the images they came from.

What is written here is identified data: a PACS files it by the patient and study of its source
images, so those attributes are copied. It is written for its owner alone (mode 0600).
"""
