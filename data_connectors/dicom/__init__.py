"""DICOM series, images and cine loops in; volumes, images and clips out, or an explained refusal."""
