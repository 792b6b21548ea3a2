"""Preprocessing once: arrays on disk, in chunks of cases, each chunk proved by its digest before it is used."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

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
from medml.training.guide import LABELS, UNKNOWN, fit_mask
from medml.transforms.preprocessing import preprocess, preprocess_mask, stack_channels

logger = logging.getLogger(__name__)

VERSION = 1
CASES_PER_CHUNK = 256  # of classifiers, whose arrays all have one shape; a segmenter's chunk is one case
POINTS_PER_LABEL = 2000
RAM_SHARE = 0.25
INLINE_SECONDS = 20.0
PREPROCESSING = (
    "task",
    "dims",
    "modality",
    "channels",
    "spacing_mm",
    "crop_foreground",
    "size",
    "normalisation",
    "guided",
)


class Chunk(Record):
    """Some cases on disk: what they are, and the sha256 of each file that holds them."""

    cases: tuple[str, ...]
    files: dict[str, str]


class ChunkJob(Record):
    """What it takes to make one chunk."""

    number: int
    cases: tuple[Case, ...]
    plan: Plan
    scans: str
    folder: str


class Store:
    """Preprocessed cases.

    Parameters
    ----------
    chunks : sequence of Chunk
    folder : Path
    in_memory : bool
        Read everything now; else arrays are mapped and the system decides what stays in memory.
    """

    def __init__(self, folder: Path, chunks: Sequence[Chunk], *, in_memory: bool) -> None:
        self._mode = None if in_memory else "r"
        self._place: dict[str, tuple[int, int]] = {}
        self._arrays: list[dict[str, np.ndarray]] = []
        for number, chunk in enumerate(chunks):
            self._place.update({case: (number, row) for row, case in enumerate(chunk.cases)})
            self._arrays.append(
                {
                    name.split(".")[1]: np.load(folder / name, mmap_mode=self._mode, allow_pickle=False)  # type: ignore
                    for name in chunk.files
                }
            )

    def image(self, case_id: str) -> np.ndarray:
        """Return the image (C, I, J, K), float32."""
        chunk, row = self._place[case_id]
        image: np.ndarray = self._arrays[chunk]["image"][row]
        return image

    def mask(self, case_id: str) -> np.ndarray:
        """Return the labels (I, J, K), uint8; of classifiers only if the plan is guided."""
        chunk, row = self._place[case_id]
        mask: np.ndarray = self._arrays[chunk]["mask"][row]
        return mask

    def points(self, case_id: str) -> np.ndarray:
        """Return labelled voxels (N, 4): label, i, j, k; a sample of each label's."""
        return self._arrays[self._place[case_id][0]]["points"]


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
    folder = cache / preprocessing_digest(plan)
    size = 1 if plan.task == "segment" else CASES_PER_CHUNK
    groups = [tuple(cases[first : first + size]) for first in range(0, len(cases), size)]
    jobs = [
        ChunkJob(number=number, cases=group, plan=plan, scans=str(scans), folder=str(folder))
        for number, group in enumerate(groups)
    ]
    known = [_whole_chunk(job) for job in jobs]
    missing = [job for job, chunk in zip(jobs, known, strict=True) if chunk is None]
    done = len(cases) - sum(len(job.cases) for job in missing)
    on_progress(done, len(cases))
    for job, chunk in _make(missing):
        known[job.number] = chunk
        done += len(job.cases)
        on_progress(done, len(cases))
    chunks = [chunk for chunk in known if chunk is not None]
    bytes_on_disk = sum((folder / name).stat().st_size for chunk in chunks for name in chunk.files)
    return Store(folder, chunks, in_memory=bytes_on_disk < RAM_SHARE * psutil.virtual_memory().available)


def preprocessing_digest(plan: Plan) -> str:
    """Return what names the plan's preprocessing: plans that differ elsewhere share arrays."""
    relevant = {key: value for key, value in plan.model_dump(mode="json").items() if key in PREPROCESSING}
    text = json.dumps({"version": VERSION, **relevant}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


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
    seconds = 1e-7 * voxels + 5e-3 * sum(len(job.cases) for job in jobs)
    workers = min(os.cpu_count() or 1, len(jobs))
    if workers < 2 or seconds < INLINE_SECONDS:
        for job in jobs:
            yield job, _make_chunk(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from zip(jobs, pool.map(_make_chunk, jobs), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _make_chunk(job: ChunkJob) -> Chunk:
    prepared = [_prepare(case, job.plan, Path(job.scans)) for case in job.cases]
    arrays = {"image": np.stack([image for image, _ in prepared])}
    masks = [mask for _, mask in prepared if mask is not None]
    if masks:
        arrays["mask"] = np.stack(masks)
    if job.plan.task == "segment":
        arrays["points"] = _labelled_points(masks[0], seed=job.number)
    folder, files = Path(job.folder), {}
    for kind, array in arrays.items():
        name = f"{job.number:06d}.{kind}.npy"
        write_atomic(folder / name, lambda path, array=array: _save(path, array))  # type: ignore[misc]
        files[name] = sha256_file(folder / name)
    chunk = Chunk(cases=tuple(case.case_id for case in job.cases), files=files)
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
    unknown = sorted(set(np.unique(mask).tolist()) - set(plan.labels))
    if unknown:
        raise MedmlError(f"case {case.case_id}: its mask holds {unknown}, expected {sorted(plan.labels)}")
    return image, mask


def _guide(case: Case, volume: Volume, plan: Plan, scans: Path) -> np.ndarray:
    """Return a classifier's mask on the grid of its input; `UNKNOWN` everywhere if the case has none."""
    if plan.size is None:
        raise ConfigError("the plan has no size, which a classifier needs")
    if case.mask is None:
        return np.full(plan.size, UNKNOWN, dtype=np.uint8)
    labels = read_mask(scans, case.scans[0], case.mask).voxels[0]
    labels = np.minimum(preprocess_mask(labels, volume, plan), LABELS - 1).astype(np.uint8)
    return fit_mask(labels, plan.size, keep_scale=plan.spacing_mm is not None)


def _labelled_points(mask: np.ndarray, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = [np.zeros((0, 4), dtype=np.int32)]
    for label in np.unique(mask[mask > 0]):
        found = np.argwhere(mask == label).astype(np.int32)
        if len(found) > POINTS_PER_LABEL:
            found = found[np.sort(rng.choice(len(found), POINTS_PER_LABEL, replace=False))]
        points.append(np.column_stack([np.full(len(found), label, dtype=np.int32), found]))
    return np.concatenate(points)


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
