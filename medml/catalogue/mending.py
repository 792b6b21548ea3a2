"""What the policies may make of a volume with images at one place, or with gaps."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from medml.catalogue.axes import Axis, Value
from medml.catalogue.policies import Policies
from medml.catalogue.positions import along_normal, places_of
from medml.catalogue.stacks import Mark, Piece
from medml.errors import GeometryError
from medml.io.dicom import Header
from medml.io.dicom_pixels import read_stored

_RUN = Axis("missing_slice", "missing_slice", "run of slices", "run", lambda headers: [], shown=True)


def without_repeats(piece: Piece, policies: Policies) -> list[Piece]:
    """Take one of the images at one place whose pixels and rescale are the same, if the policy is to repair.

    Raises
    ------
    Refusal
        If the pixels of such images cannot be read.
    """
    if policies.duplicate_positions == "refuse" or len(piece.headers) == 1:
        return [piece]
    at: dict[int, list[Header]] = defaultdict(list)
    for place, header in zip(places_of(piece.headers).tolist(), piece.headers, strict=True):
        at[place].append(header)
    kept: list[Header] = []
    for same in at.values():
        kept.extend(same if len(same) > 1 and len(set(map(_content, same))) > 1 else same[:1])
    left = [header for header in piece.headers if header not in kept]
    return [Piece(tuple(kept), piece.marks, repeats=tuple(left))]


def split_at_gaps(piece: Piece, policies: Policies) -> list[Piece]:
    """Return the regular runs of a volume with gaps, if the policy is to split it; a slice alone is refused."""
    if policies.missing_slice == "refuse" or len(piece.headers) < 3:
        return [piece]
    along = along_normal(piece.headers)
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    spacing = float(np.median(gaps))
    breaks = np.flatnonzero(gaps > 1.5 * spacing)
    if not len(breaks) or len(set(places_of(piece.headers).tolist())) < len(along):
        return [piece]
    runs = [[piece.headers[index] for index in part] for part in np.split(order, breaks + 1)]
    return [_run(piece, run, float(along_normal(run).min()), index, len(runs)) for index, run in enumerate(runs)]


def _run(piece: Piece, run: Sequence[Header], first: float, index: int, of: int) -> Piece:
    mark = Mark(_RUN, "split", Value((first,), f"{first:.1f}"), index, of)
    refusal = None
    if len(run) == 1:
        refusal = GeometryError(
            "missing_slice", f"the slice at {first:.2f} mm stands alone between gaps, expected its neighbours"
        )
    repeats = piece.repeats if index == 0 else ()
    return Piece(tuple(run), (*piece.marks, mark), refusal, repeats)


def _content(header: Header) -> str:
    """Return what tells the pixels of two images apart."""
    stored = read_stored([header])
    scale = f"{header.slope} {header.intercept} {stored.dtype} {stored.shape}"
    return hashlib.sha256(scale.encode() + stored.tobytes()).hexdigest()
