"""The header of a NIfTI file: checked when read, built new when written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medml.errors import GeometryError, Refusal
from medml.geometry import canonical_grid, spacing_of
from medml.io.streams import read_head
from medml.records.scan import Finding, Volume

MAX_COMPONENTS = 16
MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
FIRST_VOXEL = 352

# nibabel ships no types for its headers.
Nifti1Header: Any = nib.Nifti1Header
Nifti2Header: Any = nib.Nifti2Header


@dataclass(frozen=True, slots=True, eq=False)
class NiftiHeader:
    """What the header of a NIfTI file says, checked; no voxel was read.

    Attributes
    ----------
    shape : tuple of int
        The three spatial axes as in the file; 1 where the file has fewer.
    components : int
        Length of the fourth axis (or the fifth, for vectors); 1 if there is none.
    affine : ndarray of shape (4, 4)
        Source voxel index to RAS mm.
    slope, intercept : float
        Stored value to real value.
    """

    shape: tuple[int, int, int]
    components: int
    affine: np.ndarray
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    findings: tuple[Finding, ...]


def parse_header(file: BinaryIO) -> NiftiHeader:
    """Parse and check the header at the beginning of a NIfTI file, compressed or not."""
    block = read_head(file, 540)
    try:
        if Nifti1Header.may_contain_header(block):
            header = Nifti1Header(block[:348])
        elif Nifti2Header.may_contain_header(block):
            header = Nifti2Header(block[:540])
        else:
            raise _not_nifti(block)
        shape, components = _shape(tuple(int(n) for n in header.get_data_shape()))
        slope, intercept = (1.0, 0.0) if header.get_slope_inter()[0] is None else header.get_slope_inter()
        affine, findings = _affine(header, shape)
        dtype = header.get_data_dtype()
    except (HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise Refusal("damaged_header", f"the NIfTI header is damaged: {error}") from None
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < 0:
        raise Refusal(
            "damaged_header", f"the voxels are said to begin at byte {offset:g}; expected them near the header"
        )
    if dtype.names is not None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise Refusal(
            "unsupported_dtype", f"voxels of type {dtype} (colour, complex or extended); expected real numbers"
        )
    return NiftiHeader(shape, components, affine, dtype, float(slope), float(intercept or 0.0), int(offset), findings)


def _not_nifti(block: bytes) -> Refusal:
    if 348 in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")):
        return Refusal("not_nifti", "an Analyze header, whose orientation is unknown; convert it to NIfTI")
    return Refusal("not_nifti", "no NIfTI header at the beginning of the file; expected NIfTI-1 or NIfTI-2")


def _shape(dims: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    i, j, k = (*dims, 1, 1, 1)[:3]
    rest = [n for n in dims[3:] if n != 1]
    if len(rest) > 1:
        raise Refusal("too_many_dimensions", f"the shape is {dims}; expected three axes in space and at most one more")
    components = rest[0] if rest else 1
    if components > MAX_COMPONENTS:
        raise Refusal(
            "too_many_components",
            f"{components} volumes in one file, expected at most {MAX_COMPONENTS} channels; split a time series first",
        )
    return (i, j, k), components


def _affine(header: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """Return the affine in mm (sform if its code is set, else qform, else pixdim) and findings about it."""
    findings = []
    if int(header["sform_code"]) > 0:
        affine = header.get_sform()
        if int(header["qform_code"]) > 0:
            findings += _disagreement(affine, header, shape)
    elif int(header["qform_code"]) > 0:
        try:
            affine = header.get_qform()
        except (HeaderDataError, ValueError) as error:
            raise GeometryError("bad_affine", f"the qform is damaged: {error}") from None
    else:
        affine = header.get_base_affine()
        findings.append(
            Finding(
                code="no_orientation",
                severity="warning",
                message="neither sform nor qform is set: axes are taken as left, anterior, superior, sizes from pixdim",
                advice="check left and right against the source, or convert the file again",
            )
        )
    unit = header.get_xyzt_units()[0]
    scale = np.array([[MM_PER_UNIT.get(unit, 1.0)]] * 3 + [[1.0]])
    affine, thin = _with_thickness(np.asarray(affine, dtype=float) * scale, shape)
    canonical_grid(shape, affine)
    return affine, (*findings, *thin, *_shear(affine))


def _disagreement(sform: np.ndarray, header: Any, shape: tuple[int, int, int]) -> list[Finding]:
    """Compare sform and qform at the far corner: other tools may take the one we do not."""
    try:
        qform = header.get_qform()
    except (HeaderDataError, ValueError):
        return []
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in shape), 1]], dtype=float)
    apart = float(np.abs(corners @ (sform - qform).T).max())
    if not apart > 0.5 * max(spacing_of(sform)):
        return []
    return [
        Finding(
            code="affines_disagree",
            severity="warning",
            message=f"sform and qform put a corner {apart:.2f} apart; the sform is taken",
            numbers={"apart": apart},
            advice="check the position against another image of the patient",
        )
    ]


def _with_thickness(affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[Finding]]:
    """Give an image of one slice a third axis where its header has none: 1 mm along the normal."""
    if shape[2] != 1 or not np.isfinite(affine).all() or np.linalg.norm(affine[:3, 2]) > 1e-6:
        return affine, []
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    length = float(np.linalg.norm(normal))
    if length < 1e-9:
        return affine, []
    affine = affine.copy()
    affine[:3, 2] = normal / length
    finding = Finding(code="no_thickness", severity="warning", message="one slice of unknown thickness; taken as 1 mm")
    return affine, [finding]


def _shear(affine: np.ndarray) -> list[Finding]:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if cosine < 0.01:
        return []
    degrees = math.degrees(math.asin(min(1.0, cosine)))
    return [
        Finding(
            code="sheared",
            severity="warning",
            message=f"the axes are {degrees:.1f} degrees from a right angle",
            numbers={"degrees": degrees},
            advice="distances along the axes hold; angles do not, until it is resampled",
        )
    ]


def new_header(voxels: np.ndarray, volume: Volume) -> Any:
    """Build a header from shape, type and affine alone; every text field stays blank."""
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(voxels.dtype.newbyteorder("<"))
    components, *shape = voxels.shape
    header.set_data_shape((*shape, components) if components > 1 else tuple(shape))
    known = volume.geometry == "mm"
    code = 1 if known else 2
    affine = np.asarray(volume.affine, dtype=float)
    header.set_qform(affine, code=code, strip_shears=True)
    if not np.allclose(header.get_qform(), affine, atol=1e-3 * min(spacing_of(affine))):
        header["qform_code"] = 0
    header.set_sform(affine, code=code)
    header.set_xyzt_units("mm" if known else "unknown")
    header.set_slope_inter(1.0, 0.0)
    header["vox_offset"] = FIRST_VOXEL
    header["magic"] = b"n+1"
    return header
