"""Masks on the grid of their source."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medml.io.nifti import write_on_grid
from medml.records.scan import SourceGrid

SCAN_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


def write_mask(out: Path, scan_id: str, mask: np.ndarray, grid: SourceGrid) -> Path:
    """Write labels (I, J, K) of the canonical grid as ``masks/<scan id>.nii.gz`` on the source's own grid."""
    path = named(out, "masks", scan_id, ".nii.gz")
    write_on_grid(path, mask, grid)
    return path


def named(out: Path, folder: str, scan_id: str, suffix: str) -> Path:
    """Return ``out/folder/<scan id><suffix>``.

    Raises
    ------
    ValueError
        If the scan id is not one of ours; it would name a file elsewhere.
    """
    if not SCAN_ID.fullmatch(scan_id):
        raise ValueError(f"scan id {scan_id!r} cannot name a file; expected letters and digits")
    return out / folder / f"{scan_id}{suffix}"
