"""DICOM series to NIfTI files, geometry proved, with no catalogue: values as stored, a few slices in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medml.catalogue.parts import ProvedSeries, RefusedSeries
from medml.catalogue.series import group_series, prove_series
from medml.errors import Refusal
from medml.geometry import flip_lps_ras
from medml.io.dicom import Header, affine_of, check_values, has_geometry, read_header, read_series
from medml.io.dicom_frames import expand
from medml.io.dicom_padding import fill_padding
from medml.io.dicom_pixels import read_slabs, stored_type
from medml.io.files import write_atomic
from medml.io.nifti_header import new_header
from medml.io.nifti_write import NiftiWriter, save_nifti
from medml.records.scan import Volume

SLAB_BYTES = 32 << 20


def convert_series(folder: Path, out: Path) -> None:
    """Convert the one series of a folder to ``out`` (``.nii``, or ``.nii.gz`` to compress it).

    Axes are column, row and slice along +normal, as the source has them; ingest turns them to RAS+. Integers stay as
    stored, with slope and intercept in the NIfTI header, where all slices share them. A series that needs repair, is
    a stack or in colour is converted as ingest would.

    Raises
    ------
    Refusal
        If the folder holds no series, several, or one that cannot be proved.
    """
    parts = _parts(folder)
    for part in parts:
        if isinstance(part, RefusedSeries):
            raise part.refusal
    if len(parts) != 1 or not isinstance(parts[0], ProvedSeries):
        raise Refusal("several_series", f"the folder holds {len(parts)} images, expected 1; name one series' folder")
    _convert(parts[0], out)


def convert_folder(folder: Path, out: Path) -> tuple[list[Path], list[Refusal]]:
    """Convert every image of a folder to ``out/0001.nii`` and so on; return the files, and why others are refused."""
    written: list[Path] = []
    refusals: list[Refusal] = []
    for part in _parts(folder):
        if isinstance(part, RefusedSeries):
            refusals.append(part.refusal)
            continue
        try:
            _convert(part, path := out / f"{len(written) + 1:04d}.nii")
            written.append(path)
        except Refusal as refusal:
            refusals.append(refusal)
    return written, refusals


def _parts(folder: Path) -> list[ProvedSeries | RefusedSeries]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = (read_header(path) for path in files)
    headers = [frame for header in found if header is not None for frame in expand(header)]
    return [part for group in group_series(headers) for part in prove_series(group)]


def _convert(part: ProvedSeries, out: Path) -> None:
    first = part.headers[0]
    compress = out.name.endswith(".gz")
    if part.repair or part.components or not has_geometry(first) or stored_type(first).kind not in "iu":
        volume = read_series(part.headers, components=max(1, len(part.components)), repair=part.repair)[0]
        write_atomic(out, lambda temporary: save_nifti(temporary, volume, compress=compress))
    else:
        write_atomic(out, lambda temporary: _stream(part.headers, temporary, compress=compress))


def _stream(headers: Sequence[Header], out: Path, *, compress: bool) -> None:
    """Write slab by slab: decoded, checked and gone before the next."""
    check_values(headers)
    first = headers[0]
    scales = [(1.0 if header.slope is None else header.slope, header.intercept or 0.0) for header in headers]
    shared = scales[0] if len(set(scales)) == 1 else None
    kind = stored_type(first) if shared is not None else np.dtype(np.float32)
    shape = (1, first.columns, first.rows, len(headers))
    header = new_header(
        np.broadcast_to(np.zeros((), kind), shape), Volume(np.empty(0), flip_lps_ras(affine_of(headers)))
    )
    header.set_slope_inter(*(shared or (1.0, 0.0)))
    count = max(1, SLAB_BYTES // (first.rows * first.columns * kind.itemsize))
    done = 0
    with NiftiWriter(out, header, compress=compress) as file:
        for slab in read_slabs(headers, count):
            fill_padding(slab, headers[done : done + len(slab)])
            if shared is None:
                slab = _rescaled(slab, scales[done : done + len(slab)])
            file.write(slab)
            done += len(slab)


def _rescaled(slab: np.ndarray, scales: Sequence[tuple[float, float]]) -> np.ndarray:
    slopes, intercepts = (np.reshape(column, (-1, 1, 1)) for column in zip(*scales, strict=True))
    return (slab * slopes + intercepts).astype(np.float32)
