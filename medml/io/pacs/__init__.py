"""A PACS by DICOMweb or by DICOM's own protocol: what is there, fetched to files, files sent."""
