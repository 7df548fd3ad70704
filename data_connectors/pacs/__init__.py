"""Archives on the network, by DICOMweb and DIMSE: pulled, counted, then read like a folder."""
