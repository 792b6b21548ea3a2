"""What a proved DICOM series says of itself to rules of selection."""

from __future__ import annotations

import numpy as np

from medml.catalogue.parts import ProvedSeries
from medml.geometry import plane_of
from medml.io.dicom import Header
from medml.records.selection import SeriesFacts


def series_facts(proved: ProvedSeries, modality: str) -> SeriesFacts:
    """Return the facts; of a stack, those of its first component."""
    headers = proved.headers[: len(proved.headers) // max(1, len(proved.components))]
    first = headers[0]
    normal = _normal(first)
    return SeriesFacts(
        modality=modality,
        body_part=first.body_part,
        plane="" if normal is None else plane_of(normal),
        pixel_mm=max(first.pixel_spacing) if first.pixel_spacing else None,
        slice_mm=_distance(headers, normal),
        slices=len(headers),
        description=first.description,
        protocol=first.protocol,
        image_type=tuple(value.strip().upper() for value in first.image_type),
        manufacturer=first.manufacturer,
        kernel=first.kernel,
        contrast=first.contrast,
    )


def _normal(header: Header) -> np.ndarray | None:
    """Return the direction across the slice; left and right, front and back are alike for a plane, so LPS will do."""
    if header.orientation is None:
        return None
    row, column = np.reshape(header.orientation, (2, 3))
    return np.asarray(np.cross(row, column))


def _distance(headers: tuple[Header, ...], normal: np.ndarray | None) -> float | None:
    """Return the median distance of neighbouring slices in mm; of a single one its thickness."""
    positions = [header.position for header in headers if header.position is not None]
    if normal is None or len(positions) < 2 or len(positions) < len(headers):
        return headers[0].thickness
    return float(np.median(np.abs(np.diff(np.sort(np.asarray(positions) @ normal)))))
