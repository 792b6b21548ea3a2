"""The folder of one accepted scan: image.nii.gz, masks, scan.json, annotations.json.

A scan folder is made under a temporary name and renamed as a whole, so it is complete or not there. Many scans share
the waits for the disk: `write_scans` takes up to 64 at a time.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from medml.errors import MedmlError, NotFound, Refusal
from medml.io.files import (
    clear_disk_errors,
    content_digest,
    dump_json,
    dump_record,
    mask_digest,
    read_record,
    sweep_temporary,
    sync_path,
    temporary_path,
    write_atomic,
    write_json,
    write_record,
)
from medml.io.limits import STORED_LIMITS
from medml.io.nifti import read_checked, save_nifti
from medml.records.home import Home
from medml.records.scan import Annotation, Scan, Volume

IMAGE_FILE = "image.nii.gz"
MASK_FILE = "mask.nii.gz"
SCAN_FILE = "scan.json"
ANNOTATIONS_FILE = "annotations.json"
GROUP_SIZE = 64

_SCAN_ID = re.compile(r"[0-9a-f]{24}")
_MASK_FILE = re.compile(r"mask[a-z0-9_-]{0,60}\.nii\.gz")
_ANNOTATIONS = TypeAdapter(tuple[Annotation, ...])


@dataclass(frozen=True, slots=True, eq=False)
class ScanFiles:
    """What goes into one scan folder.

    Attributes
    ----------
    masks : dict
        File name (``mask.nii.gz``) to labels (I, J, K) on the scan's canonical grid.
    """

    volume: Volume
    scan: Scan
    annotations: tuple[Annotation, ...] = ()
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)


def write_scan(
    home: Home,
    volume: Volume,
    scan: Scan,
    annotations: Sequence[Annotation] = (),
    masks: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write one scan folder; see `write_scans`."""
    write_scans(home, [ScanFiles(volume, scan, tuple(annotations), masks or {})])


def write_scans(home: Home, items: Iterable[ScanFiles]) -> None:
    """Write scan folders, durable when this returns; groups of 64 share the waits for the disk.

    A folder that is already there is left as it is, but for files that it lacks and annotations that are new.

    Raises
    ------
    Refusal
        If a mask does not fit its image, or differs from the one already stored under its name.
    """
    group: list[ScanFiles] = []
    for item in items:
        group.append(item)
        if len(group) == GROUP_SIZE:
            _write_group(home, group)
            group = []
    if group:
        _write_group(home, group)


def read_scan(scans: Path, scan_id: str) -> Scan:
    """Return the record of a stored scan."""
    return read_record(_folder(scans, scan_id) / SCAN_FILE, Scan)


def read_image(scans: Path, scan_id: str) -> Volume:
    """Return the image of a stored scan; its affine is the exact one of ``scan.json``."""
    scan = read_scan(scans, scan_id)
    return Volume(_read_stored(scans, scan, IMAGE_FILE), np.array(scan.affine), scan.geometry)


def read_mask(scans: Path, scan_id: str, file: str = MASK_FILE) -> Volume:
    """Return a mask (1, I, J, K) of a stored scan, on the image's grid."""
    scan = read_scan(scans, scan_id)
    return Volume(_read_stored(scans, scan, _checked_name(file)), np.array(scan.affine), scan.geometry)


def read_annotations(scans: Path, scan_id: str) -> tuple[Annotation, ...]:
    """Return what ``annotations.json`` of a stored scan says; the catalogue's table can be rebuilt from it."""
    path = _folder(scans, scan_id) / ANNOTATIONS_FILE
    try:
        return _ANNOTATIONS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise MedmlError(
            f"{scan_id}/{path.name}: not a list of annotations ({error.error_count()} problems); the file is damaged"
        ) from None


def verify_scan(scans: Path, scan: Scan, annotations: Iterable[Annotation]) -> list[str]:
    """Return what no longer holds of a stored scan: its record, and the digests of its image and masks."""
    wrong = []
    try:
        if read_scan(scans, scan.scan_id) != scan:
            wrong.append(f"scan {scan.scan_id}: {SCAN_FILE} differs from the catalogue")
        if content_digest(read_image(scans, scan.scan_id)) != scan.content:
            wrong.append(f"scan {scan.scan_id}: {IMAGE_FILE} is not what was ingested")
        for annotation in annotations:
            if annotation.file is None:
                continue
            mask = read_mask(scans, scan.scan_id, annotation.file).voxels[0]
            if mask_digest(mask) != annotation.content:
                wrong.append(f"scan {scan.scan_id}: {annotation.file} is not what was ingested")
    except MedmlError as error:
        wrong.append(f"scan {scan.scan_id}: {error}")
    return wrong


def _write_group(home: Home, group: list[ScanFiles]) -> None:
    """Write new folders under temporary names, wait once for all of them, then rename them all."""
    for parent in {home.scan_folder(item.scan.scan_id).parent for item in group}:
        sweep_temporary(parent)
    pending: list[tuple[Path, Path]] = []
    with clear_disk_errors(home.scans):
        try:
            for item in group:
                folder = _folder(home.scans, item.scan.scan_id)
                _check(item)
                if folder.exists():
                    _complete(folder, item)
                else:
                    pending.append((temporary_path(folder), folder))
                    _fill(pending[-1][0], item)
            _commit(home, pending)
        finally:
            for temporary, _ in pending:
                shutil.rmtree(temporary, ignore_errors=True)


def _check(item: ScanFiles) -> None:
    shape = item.volume.voxels.shape[1:]
    if shape != item.scan.shape:
        raise Refusal("shape_mismatch", f"the image has the shape {shape}, its record says {item.scan.shape}")
    for name, mask in item.masks.items():
        _checked_name(name)
        if mask.shape != shape:
            raise Refusal("mask_grid", f"the mask has the shape {mask.shape}, its image {shape}")


def _fill(folder: Path, item: ScanFiles) -> None:
    folder.mkdir(parents=True)
    save_nifti(folder / IMAGE_FILE, item.volume)
    for name, mask in item.masks.items():
        save_nifti(folder / name, _mask_volume(item, mask))
    (folder / SCAN_FILE).write_text(dump_record(item.scan), encoding="utf-8")
    if item.annotations:
        (folder / ANNOTATIONS_FILE).write_text(_annotations_text(item.annotations), encoding="utf-8")


def _commit(home: Home, pending: list[tuple[Path, Path]]) -> None:
    files = [temporary / name for temporary, _ in pending for name in os.listdir(temporary)]
    # Waits in parallel share the journal's commits; one after the other, each would pay its own.
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(sync_path, files))
        list(threads.map(sync_path, [temporary for temporary, _ in pending]))
    for temporary, folder in pending:
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    for parent in {folder.parent for _, folder in pending}:
        sync_path(parent)
    if pending:
        sync_path(home.scans)


def _complete(folder: Path, item: ScanFiles) -> None:
    """Add to a folder that is there what it lacks; what it has is never overwritten."""
    if not (folder / IMAGE_FILE).exists():
        write_atomic(folder / IMAGE_FILE, lambda temporary: save_nifti(temporary, item.volume))
    for name, mask in item.masks.items():
        _add_mask(folder / name, item, mask)
    if not (folder / SCAN_FILE).exists():
        write_record(folder / SCAN_FILE, item.scan)
    known = read_annotations(folder.parent.parent, folder.name)
    merged = known + tuple(annotation for annotation in item.annotations if annotation not in known)
    if merged != known:
        write_json(folder / ANNOTATIONS_FILE, [annotation.model_dump(mode="json") for annotation in merged])


def _add_mask(path: Path, item: ScanFiles, mask: np.ndarray) -> None:
    if not path.exists():
        write_atomic(path, lambda temporary: save_nifti(temporary, _mask_volume(item, mask)))
        return
    stored = read_checked(path, limits=STORED_LIMITS).volume.voxels[0]
    if mask_digest(stored) != mask_digest(mask):
        raise Refusal(
            "mask_changed",
            f"scan {item.scan.scan_id} has another {path.name}; datasets may stand on it: store the new one as "
            "mask-2.nii.gz, or ingest into a new collection",
        )


def _mask_volume(item: ScanFiles, mask: np.ndarray) -> Volume:
    return Volume(np.asarray(mask)[None], item.volume.affine, item.volume.geometry)


def _annotations_text(annotations: tuple[Annotation, ...]) -> str:
    return dump_json([annotation.model_dump(mode="json") for annotation in annotations])


def _read_stored(scans: Path, scan: Scan, file: str) -> np.ndarray:
    path = _folder(scans, scan.scan_id) / file
    if not path.exists():
        raise NotFound(f"scan {scan.scan_id} has no {file}; ingest its source again")
    voxels = read_checked(path, limits=STORED_LIMITS).volume.voxels
    if voxels.shape[1:] != scan.shape:
        raise Refusal(
            "shape_mismatch",
            f"{file} of scan {scan.scan_id} has the shape {voxels.shape[1:]}, its record says {scan.shape}; "
            "the folder was changed, ingest its source again",
        )
    return voxels


def _folder(scans: Path, scan_id: str) -> Path:
    """Return the folder of a scan; only a well-formed id becomes a path."""
    if not _SCAN_ID.fullmatch(scan_id):
        raise NotFound(f"{scan_id!r} is not a scan id; expected 24 hexadecimal digits")
    return scans / scan_id[:2] / scan_id


def _checked_name(file: str) -> str:
    if not _MASK_FILE.fullmatch(file):
        raise Refusal("bad_file_name", f"{file!r} is not a mask's file name; expected mask….nii.gz in lower case")
    return file
