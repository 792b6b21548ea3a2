"""Phantoms as NIfTI files that are the same, byte for byte, whenever they are written."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from data_samples.phantom import Phantom, Style

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATIONS = ("LPS", "RAS", "LAS", "PIR")


def write_image(phantom: Phantom, path: Path) -> None:
    """Write the scan in HU, int16, in one of several orientations; ``.nii.gz`` is compressed."""
    _write(phantom, phantom.hounsfield.astype(np.int16), path)


def write_mask(phantom: Phantom, path: Path) -> None:
    """Write the labels on the grid of the phantom's image: 1 organ, 2 lesion."""
    _write(phantom, phantom.labels, path)


def _write(phantom: Phantom, voxels: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(voxels, LPS_TO_RAS @ phantom.affine_lps)
    if phantom.style is Style.NIFTI:
        wanted = nib.orientations.axcodes2ornt(ORIENTATIONS[phantom.number % len(ORIENTATIONS)])
        image = image.as_reoriented(
            nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), wanted)
        )
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    content = image.to_bytes()
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=6, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
