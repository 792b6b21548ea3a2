"""DICOM SEG and RTSTRUCT objects to label masks of the scans they were drawn on.

They are read after the images of their source, so that one way serves scans of this source and of earlier ingests: the
crosswalk knows which scans were made of a series, and of which instances. Masks go through the same repair as images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medml.catalogue.archive import AnnotationFile, Archive, DrawingRules, series_name
from medml.catalogue.class_tables import give_classes
from medml.catalogue.quality_masks import mask_findings
from medml.catalogue.quality_rules import QualityLimits
from medml.catalogue.tree import outcome_of
from medml.errors import GeometryError, MedmlError, NotFound, Refusal
from medml.geometry import flip_lps_ras, from_source, source_affine, source_shape
from medml.io import dicom_seg, rtstruct
from medml.io.files import mask_digest
from medml.io.nifti_write import save_nifti
from medml.io.scans import Staged, place_scans, read_scan
from medml.io.structures import LabelMap, References, SourceSlices, layers_of
from medml.records.candidate import FileState
from medml.records.scan import Annotation, Finding, Outcome, Scan, SourceGrid, Volume

__all__ = ["KINDS", "AnnotationFile", "Archive", "Drawing", "DrawingRules", "annotate", "draw", "series_name"]

KINDS = {**dict.fromkeys(dicom_seg.SEGMENTATION, "dicom_seg"), rtstruct.STRUCTURE_SET: "rtstruct"}


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """One annotation file and one scan that it was drawn on: what a reading process is given.

    Attributes
    ----------
    slices : SourceSlices
        Of the scan's source.
    elsewhere : frozenset of str
        SOP instance UIDs of other scans that the file was drawn on too.
    """

    file: AnnotationFile
    scan: Scan
    slices: SourceSlices
    elsewhere: frozenset[str]
    files: int = 1

    @property
    def source(self) -> str:
        """Of the file, as a candidate has it; so are those below."""
        return self.file.source

    @property
    def stamp(self) -> str:
        """Changes when the file or the rules do."""
        return self.file.stamp

    @property
    def locator(self) -> dict[str, Any]:
        """Where the file is; private."""
        return {"kind": self.file.kind, "files": [str(self.file.path)]}

    @property
    def seen(self) -> tuple[FileState, ...]:
        """What the walk saw of the file."""
        return self.file.seen

    @property
    def bytes(self) -> int:
        """How much work it is: the file and a volume to lay it on."""
        return sum(size for _, size, _ in self.seen if size > 0) + int(np.prod(self.slices.shape))


def annotate(
    files: Sequence[AnnotationFile],
    archive: Archive,
    read: Callable[[Sequence[Drawing]], Sequence[Any]],
) -> Iterator[Outcome]:
    """Draw each file on the scans it names, store the masks, and yield its outcome; give the classes of tables.

    Parameters
    ----------
    read : callable
        Does `draw` for each drawing, in a limited process; gives an `Outcome`, or something with a ``staged``.
    """
    known = archive.crosswalk.by_stamp([file.stamp for file in files]) if files else {}
    for file in files:
        if file.kind == "classes":
            yield from give_classes(file, archive)
            continue
        yield _known(file, known.get(file.stamp), archive) or _annotate(file, archive, read)


def draw(drawing: Drawing) -> list[tuple[np.ndarray, Annotation]]:
    """Read an annotation file onto one scan: masks (I, J, K) on its grid, and what each is.

    Raises
    ------
    Refusal
        If the file does not fit the scan, or is damaged.
    """
    file, rules = drawing.file, drawing.file.rules
    labels = dict(rules.labels)
    if file.kind == "dicom_seg":
        structures, findings = dicom_seg.read_segments(
            file.path, drawing.slices, threshold=rules.threshold, elsewhere=drawing.elsewhere
        )
    else:
        wanted = frozenset(labels[value] for value in labels if value) or None
        structures, findings = rtstruct.read_regions(
            file.path, drawing.slices, wanted=wanted, elsewhere=drawing.elsewhere
        )
    maps, more = layers_of(structures, drawing.slices.shape, labels=labels, overlaps=rules.overlaps)
    masks = [_on_scan(layer, drawing.scan) for layer in maps]
    return [(mask, _annotation(mask, layer, drawing, findings + more)) for mask, layer in zip(masks, maps, strict=True)]


def stage_masks(drawing: Drawing, drawn: Sequence[tuple[np.ndarray, Annotation]], folder: Path) -> Staged:
    """Write masks into ``folder``, which must not exist; `place_scans` adds them to the scan's own."""
    folder.mkdir()
    for mask, annotation in drawn:
        volume = Volume(mask[None], np.array(drawing.scan.affine), drawing.scan.geometry)
        save_nifti(folder / str(annotation.file), volume)
    return Staged(folder, drawing.scan, tuple(annotation for _, annotation in drawn))


def slices_of(scan: Scan, locator: Mapping[str, Any]) -> SourceSlices:
    """Return the source slices of a stored scan; see `slices_on`."""
    return slices_on(scan.source_grid, scan.geometry, locator)


def slices_on(grid: SourceGrid, geometry: str, locator: Mapping[str, Any]) -> SourceSlices:
    """Return the slices of a source that was read to this grid.

    Raises
    ------
    GeometryError
        ``grid_mismatch`` if the crosswalk does not know one instance for each slice.
    """
    shape, sop_uids = source_shape(grid), tuple(locator.get("sop_uids", ()))
    frames = tuple(locator.get("frames") or [0] * len(sop_uids))
    if len(sop_uids) != shape[2] or len(frames) != shape[2]:
        raise GeometryError(
            "grid_mismatch",
            f"the scan has {shape[2]} slices, of which {len(sop_uids)} instances are known; ingest its source again",
        )
    stacked = tuple(tuple(uids) for uids in locator.get("stacked", ()))
    if geometry == "none":
        return SourceSlices(shape, sop_uids, frames, None, None, stacked)
    known = source_affine(grid)
    affine = flip_lps_ras(np.asarray(grid.affine) if known is None else known)
    positions = [position for position in locator.get("positions", ()) if position is not None]
    regular = affine[:3, 3] + np.arange(shape[2])[:, None] * affine[:3, 2]
    origins = np.array(positions, dtype=float) if len(positions) == shape[2] else regular
    return SourceSlices(shape, sop_uids, frames, affine, origins, stacked)


def _known(file: AnnotationFile, name: str | None, archive: Archive) -> Outcome | None:
    """Return the outcome of a file that was read before, if all its scans and masks are still there."""
    if name is None:
        return None
    locator = archive.crosswalk.locator(name)
    scan_ids = [str(scan_id) for scan_id in locator.get("scans", ())]
    stored = [a for a in archive.catalogue.annotations(scan_ids) if a.origin.startswith(f"{file.kind}-")]
    if not scan_ids or {annotation.scan_id for annotation in stored} != set(scan_ids):
        return None
    drawn = set(locator.get("contents", ()))
    findings = [finding for a in stored if a.content in drawn for finding in a.findings]
    return _accepted(file, "known_annotation", scan_ids, findings)


def _annotate(file: AnnotationFile, archive: Archive, read: Callable[[Sequence[Drawing]], Sequence[Any]]) -> Outcome:
    try:
        drawings = _drawings(file, archive)
    except Refusal as refusal:
        return outcome_of(file.source, "refused", refusal.code, str(refusal))
    except MedmlError:
        raise
    except Exception as error:
        # pydicom raises whatever it likes on damaged files; its text may quote them.
        reason = f"the object could not be read ({type(error).__name__}); it is damaged or of an unusual kind"
        return outcome_of(file.source, "refused", "undecodable", reason)
    entries = list(read(drawings))
    bad = next((entry for entry in entries if isinstance(entry, Outcome)), None)
    if bad is not None:
        return bad
    placed = place_scans(archive.home, [entry.staged for entry in entries])
    annotations = [annotation for staged in placed for annotation in staged.annotations]
    archive.catalogue.add([], annotations)
    scan_ids = list(dict.fromkeys(staged.scan.scan_id for staged in placed))
    name = f"annotation-{hashlib.sha256(file.stamp.encode()).hexdigest()[:24]}"
    contents = sorted({annotation.content for annotation in annotations})
    locator = {"kind": file.kind, "files": [str(file.path)], "scans": scan_ids, "contents": contents}
    from medml.store.crosswalk import Origin  # the processes that draw need no database

    archive.crosswalk.put([Origin(name, file.stamp, locator)])
    findings = [finding for annotation in annotations for finding in annotation.findings]
    return _accepted(file, "annotation", scan_ids, (*findings, *_owner_findings(file, placed, archive)))


def _accepted(file: AnnotationFile, code: str, scan_ids: Sequence[str], findings: Sequence[Finding]) -> Outcome:
    once = {finding.model_dump_json(): finding for finding in findings}
    outcome = outcome_of(file.source, "accepted", code, "")
    return outcome.model_copy(update={"scan_ids": tuple(scan_ids), "findings": tuple(once.values())})


def _drawings(file: AnnotationFile, archive: Archive) -> list[Drawing]:
    """Return the scans that a file was drawn on.

    Raises
    ------
    Refusal
        ``dangling_reference`` if there is none.
    """
    references = (dicom_seg if file.kind == "dicom_seg" else rtstruct).read_references(file.path)
    found = [(scan, slices) for scan, slices in _scans_of(references, archive)]
    if references.images:
        found = [(scan, slices) for scan, slices in found if references.images & slices.instances]
    if not found:
        raise Refusal(
            "dangling_reference",
            f"none of the {len(references.series)} series and {len(references.images)} images it was drawn on is an "
            "accepted scan of this source or of the catalogue; ingest the images, or see why they were refused",
        )
    every = frozenset[str]().union(*(slices.instances for _, slices in found))
    return [Drawing(file, scan, slices, every - slices.instances) for scan, slices in found]


def _scans_of(references: References, archive: Archive) -> Iterator[tuple[Scan, SourceSlices]]:
    """Yield the scans of the series that a file names; if it names none, those of its studies."""
    names = [series_name(archive.pseudonyms, uid) for uid in references.series]
    scan_ids = archive.crosswalk.by_series(names)
    if not scan_ids and references.images:
        studies = [archive.pseudonyms.study(uid) for uid in references.studies if uid]
        scan_ids = [scan.scan_id for study in studies for scan in archive.catalogue.scans(study=study)]
    for scan_id in sorted(archive.catalogue.known(scan_ids)):
        try:
            locator = archive.crosswalk.locator(scan_id)
            scan = read_scan(archive.home.scans, scan_id)
        except NotFound:
            continue  # of another home, or its folder has gone: it cannot be drawn on
        if locator.get("sop_uids"):
            yield scan, slices_of(scan, locator)


def _on_scan(layer: LabelMap, scan: Scan) -> np.ndarray:
    mask = np.ascontiguousarray(from_source(layer.voxels, scan.source_grid))
    if mask.shape != scan.shape:
        raise GeometryError("grid_mismatch", f"the mask has the shape {mask.shape} on the scan, expected {scan.shape}")
    return mask


def _annotation(mask: np.ndarray, layer: LabelMap, drawing: Drawing, findings: tuple[Finding, ...]) -> Annotation:
    """Return the record of a mask; its origin and file are named by content, so that reading it again adds nothing."""
    content, labels = mask_digest(mask), dict(sorted(layer.labels.items()))
    name = hashlib.sha256(json.dumps([content, sorted(labels.items())]).encode()).hexdigest()
    seen = mask_findings(mask, None, drawing.scan.spacing_mm, None, None, QualityLimits())
    return Annotation(
        scan_id=drawing.scan.scan_id,
        kind="mask",
        labels=labels,
        origin=f"{drawing.file.kind}-{name[:12]}",
        file=f"mask-{content[:16]}.nii.gz",
        content=content,
        codes=dict(sorted(layer.codes.items())),
        findings=(*findings, *seen),
    )


def _owner_findings(file: AnnotationFile, placed: Sequence[Staged], archive: Archive) -> tuple[Finding, ...]:
    name = archive.pseudonyms.patient(*file.owner)
    if all(staged.scan.patient == name for staged in placed):
        return ()
    message = "it names another patient than its images do; the images count"
    return (Finding(code="patient_differs", severity="warning", message=message, advice="check who it belongs to"),)
