"""Preprocessing once: arrays on disk, in chunks of cases, each chunk proved by its digest before it is used.

Arrays are read by patch from a memory map: what was read stays in the system's memory as far as it reaches, and all
processes of a machine share it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch

from medml.errors import ConfigError, MedmlError, Refusal
from medml.io.files import read_record, sha256_file, write_atomic, write_record
from medml.io.scans import read_image, read_mask
from medml.records.dataset import Case
from medml.records.plan import Plan
from medml.records.record import Record
from medml.records.scan import Volume
from medml.transforms.preprocessing import preprocess, preprocess_mask, stack_channels

logger = logging.getLogger(__name__)

VERSION = 2
CASES_PER_CHUNK = 256
VOXELS_PER_CHUNK = 2_000_000  # of the scans; a chunk is what one process makes at a time
POINTS_PER_LABEL = 2000
RAM_SHARE = 0.5  # of all memory: what is larger is stored in 16 bits, half as much to read from the disk
SECONDS_PER_CASE, SECONDS_PER_VOXEL = 5e-3, 1e-7
START_SECONDS = 0.5  # of work, below which processes are not worth their start
PREPROCESSING = (
    "task",
    "dims",
    "modality",
    "channels",
    "spacing_mm",
    "anchor",
    "orientation",
    "crop_foreground",
    "size",
    "normalisation",
    "guided",
)


class Chunk(Record):
    """Some cases on disk: the shape (I, J, K) and labelled points of each, and the sha256 of each file."""

    cases: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    points: tuple[int, ...]
    files: dict[str, str]


class ChunkJob(Record):
    """What it takes to make one chunk."""

    number: int
    cases: tuple[Case, ...]
    plan: Plan
    scans: str
    folder: str
    dtype: Literal["float32", "float16"]


class Store:
    """Preprocessed cases, mapped into memory. In each file the arrays of a chunk's cases lie one after the other."""

    def __init__(self, folder: Path, chunks: Sequence[Chunk]) -> None:
        self._place: dict[str, tuple[int, int]] = {}
        self._arrays: list[dict[str, np.ndarray]] = []
        self._shapes: list[tuple[tuple[int, int, int], ...]] = []
        self._starts: list[dict[str, list[int]]] = []
        for number, chunk in enumerate(chunks):
            self._place.update({case: (number, row) for row, case in enumerate(chunk.cases)})
            self._arrays.append({name.split(".")[1]: _mapped(folder / name) for name in chunk.files})
            self._shapes.append(chunk.shapes)
            sizes = {"mask": map(math.prod, chunk.shapes), "points": chunk.points}
            self._starts.append({kind: [0, *itertools.accumulate(each)] for kind, each in sizes.items()})

    def image(self, case_id: str) -> np.ndarray:
        """Return the image (C, I, J, K), float32; not to be written to."""
        return self.stored(case_id).astype(np.float32, copy=False)

    def stored(self, case_id: str) -> np.ndarray:
        """Return the image (C, I, J, K) as it is stored, float32 or float16, for those who cut a piece out of it."""
        number, row = self._place[case_id]
        voxels, starts = self._arrays[number]["image"], self._starts[number]["mask"]
        channels = voxels.size // starts[-1]
        part: np.ndarray = voxels[channels * starts[row] : channels * starts[row + 1]]
        return part.reshape(channels, *self._shapes[number][row])

    def mask(self, case_id: str) -> np.ndarray:
        """Return the labels (I, J, K), uint8; of classifiers only if the plan is guided."""
        number, row = self._place[case_id]
        starts = self._starts[number]["mask"]
        part: np.ndarray = self._arrays[number]["mask"][starts[row] : starts[row + 1]]
        return part.reshape(self._shapes[number][row])

    def points(self, case_id: str) -> np.ndarray:
        """Return labelled voxels (N, 4): label, i, j, k; a sample of each label's, ordered by label."""
        number, row = self._place[case_id]
        starts = self._starts[number]["points"]
        part: np.ndarray = self._arrays[number]["points"][starts[row] : starts[row + 1]]
        return part


def open_store(
    cases: Sequence[Case],
    plan: Plan,
    *,
    scans: Path,
    cache: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Store:
    """Return the preprocessed cases, making what is missing or damaged.

    Parameters
    ----------
    cache : Path
        The dataset's folder in the cache; what depends on the plan goes into a folder of its own below it.
    on_progress : callable
        Receives cases done and cases in all; may raise to stop.

    Raises
    ------
    MedmlError
        If a case cannot be preprocessed; names it.
    """
    dtype = stored_dtype(cases, plan)
    folder = cache / f"{preprocessing_digest(plan)}-{dtype}"
    jobs = [
        ChunkJob(number=number, cases=group, plan=plan, scans=str(scans), folder=str(folder), dtype=dtype)
        for number, group in enumerate(_groups(cases))
    ]
    with ThreadPoolExecutor(os.cpu_count()) as readers:
        known = list(readers.map(_whole_chunk, jobs))
    missing = [job for job, chunk in zip(jobs, known, strict=True) if chunk is None]
    done = len(cases) - sum(len(job.cases) for job in missing)
    on_progress(done, len(cases))
    for job, chunk in _make(missing):
        known[job.number] = chunk
        done += len(job.cases)
        on_progress(done, len(cases))
    return Store(folder, [chunk for chunk in known if chunk is not None])


def stored_dtype(cases: Sequence[Case], plan: Plan) -> Literal["float32", "float16"]:
    """Return float32 where the arrays of all cases fit into `RAM_SHARE` of the memory, else float16."""
    shapes = [plan.size] * len(cases) if plan.size else [case.shape for case in cases]
    voxels = 0.0
    for case, shape in zip(cases, shapes, strict=True):
        ratio = 1.0
        if plan.size is None and plan.spacing_mm and case.spacing_mm:
            ratio = math.prod(case.spacing_mm[: plan.dims]) / math.prod(plan.spacing_mm[: plan.dims])
        voxels += ratio * math.prod(shape) * len(plan.channels)
    return "float32" if 4 * voxels <= RAM_SHARE * psutil.virtual_memory().total else "float16"


def preprocessing_digest(plan: Plan) -> str:
    """Return what names the plan's preprocessing: plans that differ elsewhere share arrays."""
    relevant = {key: value for key, value in plan.model_dump(mode="json").items() if key in PREPROCESSING}
    text = json.dumps({"version": VERSION, **relevant}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _groups(cases: Sequence[Case]) -> Iterator[tuple[Case, ...]]:
    """Yield the cases of each chunk."""
    group, voxels = list[Case](), 0
    for case in cases:
        group.append(case)
        voxels += math.prod(case.shape) * len(case.scans)
        if len(group) == CASES_PER_CHUNK or voxels >= VOXELS_PER_CHUNK:
            yield tuple(group)
            group, voxels = [], 0
    if group:
        yield tuple(group)


def _mapped(path: Path) -> np.ndarray:
    # As a plain array: slicing a memmap object costs more than a small patch.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _whole_chunk(job: ChunkJob) -> Chunk | None:
    """Return a chunk that is on disk, of these very cases and undamaged; else None."""
    folder = Path(job.folder)
    note = folder / f"{job.number:06d}.json"
    if not note.exists():
        return None
    try:
        chunk = read_record(note, Chunk)
        whole = all(sha256_file(folder / name) == digest for name, digest in chunk.files.items())
    except (MedmlError, OSError):
        whole = False
    if whole and chunk.cases == tuple(case.case_id for case in job.cases):
        return chunk
    if not whole:
        logger.warning("cache chunk %s is damaged; it is made again", note.name)
    return None


def _make(jobs: list[ChunkJob]) -> Iterator[tuple[ChunkJob, Chunk]]:
    """Make chunks, in several processes where that saves more time than starting them takes."""
    voxels = sum(math.prod(case.shape) * len(case.scans) for job in jobs for case in job.cases)
    seconds = SECONDS_PER_VOXEL * voxels + SECONDS_PER_CASE * sum(len(job.cases) for job in jobs)
    workers = min(os.cpu_count() or 1, len(jobs))
    if workers < 2 or seconds * (1 - 1 / workers) < START_SECONDS:
        for job in jobs:
            yield job, _make_chunk(job)
        return
    # A process of one thread is forked: its children have imported everything. What other threads hold locked would
    # stay locked in them, so that beside threads they start anew.
    context = multiprocessing.get_context("fork" if threading.active_count() == 1 else "spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from zip(jobs, pool.map(_make_chunk, jobs), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _make_chunk(job: ChunkJob) -> Chunk:
    prepared = [_prepare(case, job.plan, Path(job.scans)) for case in job.cases]
    arrays = {"image": np.concatenate([image.reshape(-1) for image, _ in prepared]).astype(job.dtype, copy=False)}
    masks = [mask for _, mask in prepared if mask is not None]
    points: list[np.ndarray] = []
    if masks:
        arrays["mask"] = np.concatenate([mask.reshape(-1) for mask in masks])
    if job.plan.task == "segment":
        points = [
            labelled_points(mask, seed=int(case.digest[:12], 16)) for mask, case in zip(masks, job.cases, strict=True)
        ]
        arrays["points"] = np.concatenate(points)
    folder, files = Path(job.folder), {}
    for kind, array in arrays.items():
        name = f"{job.number:06d}.{kind}.npy"
        write_atomic(folder / name, lambda path, array=array: _save(path, array))  # type: ignore[misc]
        files[name] = sha256_file(folder / name)
    shapes = tuple((image.shape[1], image.shape[2], image.shape[3]) for image, _ in prepared)
    chunk = Chunk(
        cases=tuple(case.case_id for case in job.cases),
        shapes=shapes,
        points=tuple(map(len, points)),
        files=files,
    )
    write_record(folder / f"{job.number:06d}.json", chunk)
    return chunk


def _prepare(case: Case, plan: Plan, scans: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        volume = stack_channels([read_image(scans, scan_id) for scan_id in case.scans])
        image = preprocess(volume, plan).voxels
        if plan.task == "classify":
            return image, _guide(case, volume, plan, scans) if plan.guided else None
        if case.mask is None:
            raise Refusal("no_mask", "it has no mask; freeze the dataset again")
        labels = read_mask(scans, case.scans[0], case.mask).voxels[0]
        mask = preprocess_mask(labels, volume, plan).astype(np.uint8)
    except MedmlError as error:
        raise MedmlError(f"case {case.case_id} cannot be trained on: {error}") from error
    unknown = sorted(set(np.flatnonzero(np.bincount(mask.reshape(-1))).tolist()) - set(plan.labels))
    if unknown:
        raise MedmlError(f"case {case.case_id}: its mask holds {unknown}, expected {sorted(plan.labels)}")
    return image, mask


def _guide(case: Case, volume: Volume, plan: Plan, scans: Path) -> np.ndarray:
    """Return a classifier's mask on the grid of its input; `UNKNOWN` everywhere if the case has none."""
    # It brings the networks with it, whose import takes longer than most preprocessing and is seldom needed.
    from medml.training.guide import LABELS, UNKNOWN, fit_mask

    if plan.size is None:
        raise ConfigError("the plan has no size, which a classifier needs")
    if case.mask is None:
        return np.full(plan.size, UNKNOWN, dtype=np.uint8)
    labels = read_mask(scans, case.scans[0], case.mask).voxels[0]
    labels = np.minimum(preprocess_mask(labels, volume, plan), LABELS - 1).astype(np.uint8)
    return fit_mask(labels, plan.size, keep_scale=plan.spacing_mm is not None)


def labelled_points(mask: np.ndarray, *, seed: int) -> np.ndarray:
    """Return voxels (N, 4) of a mask: label, i, j, k, int16; at most `POINTS_PER_LABEL` of each, ordered by label."""
    rng = np.random.default_rng(seed)
    flat = mask.reshape(-1)
    inside = np.flatnonzero(flat)
    labels = flat[inside]
    points = [np.zeros((0, 4), dtype=np.int16)]
    for label in np.flatnonzero(np.bincount(labels)) if len(labels) else ():
        found = inside[labels == label]
        if len(found) > POINTS_PER_LABEL:
            found = found[np.sort(rng.choice(len(found), POINTS_PER_LABEL, replace=False))]
        where = np.unravel_index(found, mask.shape)
        points.append(np.column_stack([np.full(len(found), label), *where]).astype(np.int16))
    return np.concatenate(points)


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
