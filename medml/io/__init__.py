"""Every file format: the only home of pydicom, highdicom, nibabel and Pillow."""
