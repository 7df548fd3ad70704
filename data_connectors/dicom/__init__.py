"""DICOM in; volumes, images and clips out, or a refusal that says why."""
