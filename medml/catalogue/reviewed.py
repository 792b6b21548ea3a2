"""What a person said about a model's result, as an annotation that the next dataset can stand on.

A scan that nobody ingested becomes one of the catalogue first, read and named as ingest does it, without identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medml.catalogue.archive import Archive, series_name
from medml.catalogue.quality_masks import mask_findings
from medml.catalogue.quality_rules import QualityLimits
from medml.catalogue.scans import make_work
from medml.errors import Refusal
from medml.io.files import mask_digest
from medml.io.nifti_write import save_nifti
from medml.io.scans import Staged, place_scans, withdraw_annotations, work_folder, write_scan
from medml.records.candidate import Candidate
from medml.records.labels import LabelMeaning
from medml.records.scan import Annotation, Reviewed, Scan, Volume
from medml.store.crosswalk import Origin


@dataclass(frozen=True, slots=True)
class Terms:
    """What a model's labels are called.

    Attributes
    ----------
    labels : dict
        Value to name; of a segmenter with its background.
    """

    labels: dict[int, str]
    meanings: dict[int, LabelMeaning]
    multi_label: bool = False


def review_origin(model: str) -> str:
    """Return the origin of what was said about results of a model, whatever its version: ``review-<name>``."""
    return f"review-{model.partition('/')[0]}"


def stored_scan(archive: Archive, scan_id: str, content: str, *, dicom: bool) -> Scan | None:
    """Return the catalogue's scan of this name and these voxels; None if it has none.

    A DICOM series is known by its UIDs. Another file may be in under another name: by its voxels, if only one scan has
    them.
    """
    found = [scan for scan in archive.catalogue.by_id([scan_id]) if scan.content == content]
    if not found and not dicom:
        found = archive.catalogue.by_content([content])
    there = [scan for scan in found if archive.home.scan_folder(scan.scan_id).is_dir()]
    return there[0] if len(there) == 1 else None


def keep_scans(archive: Archive, parts: Sequence[Candidate], collection: str) -> list[Scan]:
    """Store the channels of a case as ingest does, and return their records in this order; what is in is not stored.

    Raises
    ------
    Refusal
        If one cannot be read.
    """
    kept = []
    for part in parts:
        work = make_work(part, collection, archive.pseudonyms)
        scan = work.files.scan
        dicom = part.locator.get("kind") == "dicom"
        known = stored_scan(archive, scan.scan_id, scan.content, dicom=dicom)
        if known is None:
            write_scan(archive.home, work.files.volume, scan, work.files.annotations, work.files.masks)
            archive.catalogue.add([scan], work.files.annotations)
            series = series_name(archive.pseudonyms, str(part.locator.get("series_uid", "")))
            archive.crosswalk.put([Origin(scan.scan_id, part.stamp, part.locator, series, scan.patient)])
        kept.append(known or scan)
    return kept


def keep_mask(archive: Archive, scan: Scan, mask: np.ndarray, terms: Terms, review: Reviewed) -> Annotation:
    """Store a reviewed mask (I, J, K) of a scan, in place of what an earlier review of this model said.

    Raises
    ------
    Refusal
        ``mask_grid`` if the mask has not the scan's shape.
    """
    if mask.shape != scan.shape:
        raise Refusal("mask_grid", f"the mask has the shape {mask.shape}, its image {scan.shape}")
    content = mask_digest(mask)
    findings = mask_findings(mask, None, scan.spacing_mm, terms.labels, None, QualityLimits())
    annotation = Annotation(
        scan_id=scan.scan_id,
        kind="mask",
        labels=dict(sorted(terms.labels.items())),
        origin=review_origin(review.model),
        file=f"mask-{content[:16]}.nii.gz",
        content=content,
        codes={value: meaning.code for value, meaning in sorted(terms.meanings.items()) if meaning.code},
        findings=tuple(findings),
        review=review,
    )
    return _put(archive, scan, annotation, mask)


def keep_classes(archive: Archive, scan: Scan, classes: Sequence[int], terms: Terms, review: Reviewed) -> Annotation:
    """Store reviewed classes of a scan, in place of what an earlier review of this model said."""
    text = json.dumps([sorted(terms.labels[value] for value in classes), sorted(terms.labels.items())])
    annotation = Annotation(
        scan_id=scan.scan_id,
        kind="class",
        labels=dict(sorted(terms.labels.items())),
        classes=tuple(sorted(classes)),
        multi_label=terms.multi_label,
        origin=review_origin(review.model),
        content=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        review=review,
    )
    return _put(archive, scan, annotation, None)


def withdraw_review(archive: Archive, scan: Scan, model: str) -> int:
    """Take back what a review said about a model's result, if anything; return how many annotations that was."""
    origin = review_origin(model)
    withdraw_annotations(archive.home, scan.scan_id, origin)
    return archive.catalogue.withdraw(scan.scan_id, origin)


def _put(archive: Archive, scan: Scan, annotation: Annotation, mask: np.ndarray | None) -> Annotation:
    """Write mask and record into the scan's folder, then the row."""
    withdraw_annotations(archive.home, scan.scan_id, annotation.origin)
    with work_folder(archive.home) as work:
        folder = work / "0"
        folder.mkdir()
        if mask is not None:
            save_nifti(folder / str(annotation.file), Volume(mask[None], np.array(scan.affine), scan.geometry))
        placed = place_scans(archive.home, [Staged(folder, scan, (annotation,))])
    stored = placed[0].annotations[0]
    archive.catalogue.add([], [stored])
    return stored
