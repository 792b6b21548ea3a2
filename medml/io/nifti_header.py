"""The header of a NIfTI file: checked when read, built new when written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medml.errors import GeometryError, Refusal
from medml.geometry import canonical_grid, spacing_of
from medml.io.streams import read_head
from medml.records.scan import Finding, SourceGrid, Volume

MAX_COMPONENTS = 16
MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # by the length code of xyzt_units: metre, mm, micron
Conflict = Literal["refuse", "sform", "qform"]
FIRST_VOXEL = 352

# nibabel ships no types for its headers.
Nifti1Header: Any = nib.Nifti1Header
Nifti2Header: Any = nib.Nifti2Header


@dataclass(frozen=True, slots=True, eq=False)
class NiftiHeader:
    """What the header of a NIfTI file says, checked; no voxel was read.

    Attributes
    ----------
    components : int
        Length of the fourth axis (or the fifth, for vectors); 1 if there is none.
    grid : SourceGrid
        Shape of the three spatial axes as in the file, 1 where the file has fewer; and where they lie, in RAS mm.
    slope, intercept : float
        Stored value to real value.
    """

    components: int
    grid: SourceGrid
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    findings: tuple[Finding, ...]


def parse_header(file: BinaryIO, *, conflict: Conflict = "refuse", pair: bool = False) -> NiftiHeader:
    """Parse and check the header at the beginning of a NIfTI file, compressed or not.

    Parameters
    ----------
    conflict : "refuse", "sform" or "qform"
        What counts where both forms are set and put a corner more than half a voxel apart.
    pair : bool
        Whether the voxels lie in a file of their own.
    """
    block = read_head(file, 540)
    try:
        if Nifti1Header.may_contain_header(block):
            header = _parsed(Nifti1Header, block[:348])
        elif Nifti2Header.may_contain_header(block):
            header = _parsed(Nifti2Header, block[:540])
        else:
            raise _not_nifti(block)
        shape, components = _shape(tuple(int(n) for n in header.get_data_shape()))
        slope, intercept = (1.0, 0.0) if header.get_slope_inter()[0] is None else header.get_slope_inter()
        grid, findings = _grid(header, shape, conflict)
        dtype = header.get_data_dtype()
    except (HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise Refusal("damaged_header", f"the NIfTI header is damaged: {error}") from None
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < 0:
        raise Refusal(
            "damaged_header", f"the voxels are said to begin at byte {offset:g}; expected them near the header"
        )
    if bytes(header["magic"]).startswith(b"ni") != pair:
        kind = ("one file", "a pair") if pair else ("a pair", "one file")
        raise Refusal(
            "damaged_header",
            f"the header is that of {kind[0]}, found {kind[1]}; give .hdr and .img, or .nii, their own",
        )
    if dtype.kind == "c":
        raise Refusal(
            "complex_voxels", f"voxels of type {dtype}; store magnitude, or real and imaginary part, as numbers"
        )
    if dtype.names is not None:
        raise Refusal("colour_voxels", "colour voxels (RGB24 or RGBA32); store the three colours as a fourth axis")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise Refusal("unsupported_dtype", f"voxels of type {dtype}; expected real numbers of at most 64 bits")
    return NiftiHeader(components, grid, dtype, float(slope), float(intercept or 0.0), int(offset), findings)


def _parsed(kind: Any, block: bytes) -> Any:
    """Return the header as it is: nibabel's checks raise on the worst, but would set other values right unasked."""
    kind(block)
    header = kind(block, check=False)
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # "which should never happen" (nifti1.h), and then means 1
    return header


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


def _grid(header: Any, shape: tuple[int, int, int], conflict: Conflict) -> tuple[SourceGrid, tuple[Finding, ...]]:
    """Return the grid in mm and findings about it: sform if its code is set, else qform, else pixdim."""
    coded = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    findings: list[Finding] = []
    if coded == (True, True):
        affine, findings = _either(header.get_sform(), header, shape, conflict)
    elif coded[0]:
        affine = header.get_sform()
    elif coded[1]:
        affine = _qform(header)
    else:
        _check_pixdim(header)
        affine = header.get_base_affine()
        findings.append(
            Finding(
                code="no_orientation",
                severity="warning",
                message="neither sform nor qform is set: axes are taken as left, anterior, superior, sizes from pixdim",
                advice="check left and right against the source, or convert the file again",
            )
        )
    scale, units = _unit(header)
    affine, thin = _with_thickness(np.asarray(affine, dtype=float) * scale, shape)
    return canonical_grid(shape, affine), (*findings, *units, *thin, *_shear(affine))


def _unit(header: Any) -> tuple[np.ndarray, list[Finding]]:
    """Return what turns the rows of an affine into mm; without a unit, mm is what nearly every writer means."""
    code = int(header["xyzt_units"]) & 7
    if code > max(MM_PER_UNIT):
        raise Refusal("damaged_header", f"the NIfTI header is damaged: {code} is no unit of length")
    if code:
        return np.array([[MM_PER_UNIT[code]]] * 3 + [[1.0]]), []
    finding = Finding(
        code="unknown_units",
        severity="info",
        message="the header names no unit of length; taken as mm",
        advice="check a known distance if the writer may have meant metres or microns",
    )
    return np.ones((4, 1)), [finding]


def _qform(header: Any) -> np.ndarray:
    _check_pixdim(header)
    try:
        return np.asarray(header.get_qform())
    except (HeaderDataError, ValueError) as error:
        raise GeometryError("bad_affine", f"the qform is damaged: {error}") from None


def _check_pixdim(header: Any) -> None:
    """Refuse sizes that no voxel has: readers disagree on what a negative or absent one means."""
    used = np.asarray(header["pixdim"][1 : 1 + min(3, max(1, int(header["dim"][0])))], dtype=float)
    if not np.isfinite(used).all() or (used < 0).any() or (used[:2] == 0).any():
        sizes = " x ".join(f"{size:g}" for size in used)
        raise GeometryError("bad_affine", f"the voxel sizes (pixdim) are {sizes}; expected positive numbers")


def _either(
    sform: np.ndarray, header: Any, shape: tuple[int, int, int], conflict: Conflict
) -> tuple[np.ndarray, list[Finding]]:
    """Choose between two forms; those that agree are one, and the sform has no rounding of a quaternion."""
    try:
        qform = np.asarray(header.get_qform())
    except (HeaderDataError, ValueError):
        return sform, []
    corners = np.array([[0, 0, 0, 1], *([*row, 1] for row in np.diag(np.array(shape) - 1)), [*np.array(shape) - 1, 1]])
    apart = float(np.abs(corners @ (sform - qform).T).max())
    smallest = min(size for size in spacing_of(sform) if size > 0) if np.any(sform[:3, :3]) else 0.0
    if apart <= 0.5 * smallest or not (np.isfinite(sform).all() and np.isfinite(qform).all()):
        return sform, []
    text = f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])}) put a corner"
    text += f" {apart:.2f} apart, more than half a voxel ({smallest:.2f})"
    if conflict == "refuse":
        raise GeometryError(
            "affines_disagree", f"{text}; decide which is true and set affine_conflict to sform or qform"
        )
    finding = Finding(
        code="affines_disagree",
        severity="warning",
        message=f"{text}; the {conflict} is taken",
        numbers={"apart": apart},
        advice="check the position against another image of the patient",
    )
    return (sform if conflict == "sform" else _qform(header)), [finding]


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
    affine = np.asarray(volume.affine, dtype=float)
    kind = voxels.dtype.newbyteorder("<").str
    return _built(voxels.shape, kind, affine.tobytes(), volume.geometry == "mm").copy()


@lru_cache(maxsize=64)
def _built(shape: tuple[int, ...], kind: str, affine_bytes: bytes, known: bool) -> Any:
    """Build a header once for many images of one size: for a small one it is much of the work."""
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(np.dtype(kind))
    components, *space = shape
    header.set_data_shape((*space, components) if components > 1 else tuple(space))
    code = 1 if known else 2
    affine = np.frombuffer(affine_bytes).reshape(4, 4)
    header.set_qform(affine, code=code, strip_shears=True)
    if not np.allclose(header.get_qform(), affine, atol=1e-3 * min(spacing_of(affine))):
        header["qform_code"] = 0
    header.set_sform(affine, code=code)
    header.set_xyzt_units("mm" if known else "unknown")
    header.set_slope_inter(1.0, 0.0)
    header["vox_offset"] = FIRST_VOXEL
    header["magic"] = b"n+1"
    return header
