"""De-identification of DICOM by PS3.15 Annex E: the table as data, the engine over raw elements, one file at a time."""
