"""One candidate that was read, to the records and voxels that are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medml.catalogue.columns import keep_columns
from medml.catalogue.pairs import labels_of
from medml.catalogue.previews import preview_jpeg
from medml.catalogue.quality import assess, slice_axis_of
from medml.catalogue.quality_rules import QualityLimits
from medml.errors import Refusal
from medml.geometry import spacing_of
from medml.io.files import Pseudonyms, content_digest, mask_digest
from medml.io.scans import MASK_FILE, ScanFiles
from medml.records.candidate import Candidate, Reading
from medml.records.scan import Annotation, Scan

QUICKLY_READ = 1 << 18  # voxels; smaller images are drawn from their files when a page wants them


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A scan that is ready to be stored.

    Attributes
    ----------
    source, count, stamp, locator
        From the candidate; ``count`` is its number of files.
    """

    source: str
    count: int
    stamp: str
    locator: Mapping[str, Any]
    files: ScanFiles

    @property
    def scan_id(self) -> str:
        """The private name of the scan."""
        return self.files.scan.scan_id


def make_work(
    candidate: Candidate, collection: str, pseudonyms: Pseudonyms, limits: QualityLimits | None = None
) -> Work:
    """Read a candidate, look at its quality, and name the scan and what is known about it.

    Parameters
    ----------
    limits : QualityLimits
        Thresholds of the quality findings; the defaults if None.

    Raises
    ------
    Refusal
        If the candidate cannot be read.
    """
    reading = candidate.read()
    voxels, affine = reading.volume.voxels, reading.volume.affine
    content = content_digest(reading.volume)
    masks = {} if reading.mask is None else {MASK_FILE: reading.mask}
    spacing = spacing_of(affine) if reading.volume.geometry == "mm" else None
    third = reading.grid.axes.index(2)
    quality = assess(
        reading.volume,
        modality=candidate.modality,
        slice_axis=third if candidate.locator.get("kind") == "dicom" else slice_axis_of(spacing, third),
        masks=masks,
        labels=candidate.mask_labels,
        limits=limits,
    )
    i, j, k = voxels.shape[1:]
    scan = Scan(
        scan_id=pseudonyms.scan_id(candidate.identity, content),
        collection=collection,
        patient=pseudonyms.patient(*candidate.patient),
        study=pseudonyms.study(candidate.study),
        group=pseudonyms.group(candidate.group),
        channel=candidate.channel,
        channel_names=component_names(candidate.channel_names, voxels.shape[0]),
        modality=candidate.modality,
        shape=(i, j, k),
        affine=tuple(tuple(float(value) for value in row) for row in affine),
        geometry=reading.volume.geometry,
        spacing_mm=spacing,
        content=content,
        source_grid=reading.grid,
        columns=keep_columns({**candidate.columns, **reading.columns}),
        findings=(*reading.findings, *quality.findings),
        quality=quality.numbers,
        likeness=quality.likeness,
    )
    annotations = tuple(_annotations(candidate, reading, scan.scan_id))
    quick = voxels[0].size <= QUICKLY_READ
    preview = b"" if quick else preview_jpeg(reading.volume, masks.values(), modality=candidate.modality)
    return Work(
        candidate.source,
        candidate.files,
        candidate.stamp,
        candidate.locator,
        ScanFiles(reading.volume, scan, annotations, masks, preview),
    )


def component_names(names: tuple[str, ...], components: int) -> tuple[str, ...]:
    """Return one name per component: the source's, R, G and B for an unnamed colour picture, else numbers.

    Raises
    ------
    Refusal
        ``channel_count`` if the source names another number of components.
    """
    if len(names) == components:
        return names
    if len(names) > 1:
        raise Refusal("channel_count", f"the image has {components} components, its source names {len(names)}")
    return ("R", "G", "B") if components == 3 else tuple(f"channel_{n}" for n in range(components))


def _annotations(candidate: Candidate, reading: Reading, scan_id: str) -> list[Annotation]:
    found = []
    if reading.mask is not None:
        found.append(
            Annotation(
                scan_id=scan_id,
                kind="mask",
                labels=labels_of(reading.mask, candidate.mask_labels),
                origin=candidate.origin,
                file=MASK_FILE,
                content=mask_digest(reading.mask),
            )
        )
    if candidate.classes is not None:
        labels = dict(candidate.class_labels or {})
        held = [labels.get(value, str(value)) for value in candidate.classes]
        text = json.dumps([held, sorted(labels.items())])
        found.append(
            Annotation(
                scan_id=scan_id,
                kind="class",
                labels=labels,
                classes=candidate.classes,
                multi_label=candidate.multi_label,
                origin=candidate.origin,
                content=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            )
        )
    return found
