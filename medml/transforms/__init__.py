"""Voxels in, voxels out: preprocessing (shared by training and inference), augmentation, postprocessing."""
