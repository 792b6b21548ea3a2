"""The folder of one accepted scan: image.nii.gz, masks, scan.json, annotations.json.

A scan folder is staged in a work folder and renamed as a whole, so it is complete or not there. Many scans share the
waits for the disk: `place_scans` takes a group at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from medml.errors import MedmlError, NotFound, Refusal
from medml.io.files import (
    clear_disk_errors,
    content_digest,
    mask_digest,
    read_record,
    sweep_temporary,
    sync_filesystem,
    sync_path,
    temporary_path,
    write_atomic,
)
from medml.io.limits import STORED_LIMITS
from medml.io.nifti import read_checked
from medml.io.nifti_write import save_nifti
from medml.records.home import Home
from medml.records.scan import Annotation, Scan, Volume

IMAGE_FILE = "image.nii.gz"
MASK_FILE = "mask.nii.gz"
PREVIEW_FILE = "preview.jpg"
SCAN_FILE = "scan.json"
ANNOTATIONS_FILE = "annotations.json"
MANY_FOLDERS = 8

_SCAN_ID = re.compile(r"[0-9a-f]{24}")
_MASK_FILE = re.compile(r"mask[a-z0-9_-]{0,60}\.nii\.gz")
_ANNOTATIONS = TypeAdapter(tuple[Annotation, ...])


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A scan whose files lie in a folder of their own, not yet or already in its place."""

    folder: Path
    scan: Scan
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ScanFiles:
    """What goes into one scan folder.

    Attributes
    ----------
    masks : dict
        File name (``mask.nii.gz``) to labels (I, J, K) on the scan's canonical grid.
    preview : bytes
        A JPEG of a few slices, for the quality page; empty if the image is quickly drawn when it is wanted.
    """

    volume: Volume
    scan: Scan
    annotations: tuple[Annotation, ...] = ()
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    preview: bytes = b""


def write_scan(
    home: Home,
    volume: Volume,
    scan: Scan,
    annotations: Sequence[Annotation] = (),
    masks: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write one scan folder, durable when this returns; a folder that is there already is completed."""
    with work_folder(home) as work:
        place_scans(home, [stage_scan(work / "0", ScanFiles(volume, scan, tuple(annotations), masks or {}))])


@contextmanager
def work_folder(home: Home) -> Iterator[Path]:
    """Give a folder for staged scans, removed at the end; what killed processes left of theirs is swept before."""
    home.scans.mkdir(parents=True, exist_ok=True)
    sweep_temporary(home.scans)
    folder = temporary_path(home.scans / "work")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage_scan(folder: Path, item: ScanFiles) -> Staged:
    """Write the files of one scan into ``folder``, which must not exist; neither durable nor in its place yet.

    Raises
    ------
    Refusal
        If a mask does not fit its image.
    """
    _check(item)
    folder.mkdir()
    save_nifti(folder / IMAGE_FILE, item.volume)
    for name, mask in item.masks.items():
        save_nifti(folder / name, Volume(np.asarray(mask)[None], item.volume.affine, item.volume.geometry))
    if item.preview:
        (folder / PREVIEW_FILE).write_bytes(item.preview)
    (folder / SCAN_FILE).write_bytes(_record_bytes(item.scan))
    if item.annotations:
        (folder / ANNOTATIONS_FILE).write_bytes(_annotations_bytes(item.annotations))
    return Staged(folder, item.scan, item.annotations)


def place_scans(home: Home, items: Sequence[Staged]) -> list[Staged]:
    """Make staged scans durable and rename them to their places; return them as they are stored.

    A folder that is there already keeps what it has and is given what it lacks: files, annotations. Of a mask that
    differs from the one stored under its name both are kept, the new one as ``mask-<digest>.nii.gz``: frozen datasets
    may stand on the old one.
    """
    with clear_disk_errors(home.scans):
        _sync([item.folder for item in items])
        parents = sorted({_folder(home.scans, item.scan.scan_id).parent for item in items})
        for parent in parents:
            parent.mkdir(exist_ok=True)
        placed = [_place(home, item) for item in items]
        if len(parents) < MANY_FOLDERS or not sync_filesystem(home.scans):
            for parent in [*parents, home.scans] if parents else []:
                sync_path(parent)
    return placed


def update_record(home: Home, scan: Scan) -> None:
    """Replace the record of a stored scan, whose facts have changed at their source."""
    folder = _folder(home.scans, scan.scan_id)
    sweep_temporary(folder)
    write_atomic(folder / SCAN_FILE, lambda temporary: temporary.write_bytes(_record_bytes(scan)))


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


def withdraw_annotations(home: Home, scan_id: str, origin: str) -> None:
    """Take what one origin says out of ``annotations.json``; masks stay, frozen datasets may stand on them."""
    known = read_annotations(home.scans, scan_id)
    kept = tuple(annotation for annotation in known if annotation.origin != origin)
    if kept != known:
        path = _folder(home.scans, scan_id) / ANNOTATIONS_FILE
        write_atomic(path, lambda temporary: temporary.write_bytes(_annotations_bytes(kept)))


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


def _check(item: ScanFiles) -> None:
    shape = item.volume.voxels.shape[1:]
    if shape != item.scan.shape:
        raise Refusal("shape_mismatch", f"the image has the shape {shape}, its record says {item.scan.shape}")
    for name, mask in item.masks.items():
        _checked_name(name)
        if mask.shape != shape:
            raise Refusal("mask_grid", f"the mask has the shape {mask.shape}, its image {shape}")


def _sync(folders: Sequence[Path]) -> None:
    """Wait until the files of these folders, and the folders, are on the disk."""
    if len(folders) >= MANY_FOLDERS and sync_filesystem(folders[0]):
        return
    files = [folder / name for folder in folders for name in os.listdir(folder)]
    # Waits in parallel share the journal's commits; one after the other, each would pay its own.
    with ThreadPoolExecutor(min(16, len(files) + 1)) as threads:
        list(threads.map(sync_path, files))
        list(threads.map(sync_path, folders))


def _place(home: Home, item: Staged) -> Staged:
    folder = _folder(home.scans, item.scan.scan_id)
    try:
        item.folder.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        return _complete(folder, item)
    return replace(item, folder=folder)


def _complete(folder: Path, item: Staged) -> Staged:
    """Add to a folder that is there what it lacks; what it has is never overwritten."""
    known = read_annotations(folder.parent.parent, folder.name)
    stored = {annotation.file: annotation.content for annotation in known if annotation.file}
    annotations = tuple(_named_apart(item, annotation, folder, stored) for annotation in item.annotations)
    for name in sorted(os.listdir(item.folder)):
        if name != ANNOTATIONS_FILE and not (folder / name).exists():
            (item.folder / name).rename(folder / name)
    merged = known + tuple(annotation for annotation in annotations if annotation not in known)
    if merged != known:
        staged = item.folder / ANNOTATIONS_FILE
        staged.write_bytes(_annotations_bytes(merged))
        sync_path(staged)
        staged.rename(folder / ANNOTATIONS_FILE)
    sync_path(folder)
    shutil.rmtree(item.folder)
    return replace(item, folder=folder, annotations=annotations)


def _named_apart(item: Staged, annotation: Annotation, folder: Path, stored: Mapping[str, str]) -> Annotation:
    """Give a mask another name if one of other content is stored under its own."""
    file = annotation.file
    if file is None or not (folder / file).exists():
        return annotation
    # A mask without its annotation is what a kill between the two renames leaves.
    content = stored.get(file) or mask_digest(_read_stored(folder.parent.parent, item.scan, file)[0])
    if content == annotation.content:
        return annotation
    other = f"{file.removesuffix('.nii.gz')}-{annotation.content[:16]}.nii.gz"
    (item.folder / file).rename(item.folder / other)
    return annotation.model_copy(update={"file": other})


def _record_bytes(record: Scan) -> bytes:
    return json.dumps(record.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _annotations_bytes(annotations: tuple[Annotation, ...]) -> bytes:
    values = [annotation.model_dump(mode="json") for annotation in annotations]
    return json.dumps(values, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


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
