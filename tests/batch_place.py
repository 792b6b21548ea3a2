"""Phantoms, and runs of a batch with a network that is only a threshold: tests of the ledger and its workers.

A run is a process that lists and waits, its workers are processes of their own; all of them can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
DIGEST = "d" * 64


def write_scans(folder: Path, scans: int, broken: int = 0) -> None:
    """Write phantoms; every ``scans / broken``-th file is cut off in its middle."""
    folder.mkdir(parents=True)
    for number in range(scans):
        voxels = np.random.default_rng(number).normal(100, 20, (6, 5, 4)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"scan{number:04d}.nii.gz")
    for number in range(0, scans, scans // broken) if broken else ():
        path = folder / f"scan{number:04d}.nii.gz"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def start_run(place: Path, out: str = "out", workers: int = 1, **environment: str) -> subprocess.Popen[str]:
    """Start a run of the batch ``out`` over ``place/scans``; it prints its counts at the end."""
    return _start("run", str(place), out, str(workers), MEDML_HOME=str(place / "home"), **environment)


def finish(run: subprocess.Popen[str]) -> dict[str, int]:
    """Wait for a run and return what it counted."""
    text, _ = run.communicate(timeout=300)
    assert run.returncode == 0, text
    return dict(json.loads(text.splitlines()[-1]))


def run_batch(place: Path, out: str = "out", workers: int = 1, submit: Any = None) -> dict[str, int]:
    """Run the batch from this process; return the ledger's counts."""
    from medml.records.batch import BatchMeta
    from medml.records.home import Home
    from medml.store.ledger import Ledger
    from pipelines.batch_run import Asked, BatchRun
    from pipelines.stores import open_catalogue

    home = Home(place / "home")
    home.root.mkdir(exist_ok=True, parents=True)
    ledger = Ledger(open_catalogue(home))
    (place / out).mkdir(exist_ok=True)
    batch = f"batch-{out}"
    ledger.open_batch(batch, "tiny/1", DIGEST, "req-000000000000")
    labels = {0: "background", 1: "organ"}
    meta = BatchMeta(model="tiny", version="1", digest=DIGEST, task="segment", labels=labels, batch_id=batch)
    asked = Asked(device="cpu", workers=workers)
    run = BatchRun(home, ledger, meta, place / "package", place / out, "req-000000000000", asked)
    with hired() as hire:
        run.work([place / "scans"], 1, submit or hire)
    return {str(status): number for status, number in ledger.counts(batch).items()}


@contextmanager
def hired() -> Iterator[Any]:
    """Give a function that starts a worker as a process, as a cluster would; none outlives the run."""
    children: list[subprocess.Popen[str]] = []

    def hire(listing: str, number: int, device: str) -> Any:
        child = _start("worker", listing, str(number))
        children.append(child)
        done = lambda: child.poll() is not None  # noqa: E731
        return SimpleNamespace(wrapped_future=SimpleNamespace(done=done), result=lambda: None, pid=child.pid)

    try:
        yield hire
    finally:
        for child in children:
            child.terminate()
            child.wait(30)


def main() -> None:
    """Be a run or a worker."""
    role, *arguments = sys.argv[1:]
    if role == "run":
        sys.stdout.write(json.dumps(run_batch(Path(arguments[0]), arguments[1], int(arguments[2]))) + "\n")
        return
    from medml.inference.batch import Stages
    from medml.inference.listing import find_listing
    from medml.io.files import read_record
    from pipelines import worker
    from pipelines.slots import current_home

    signal.signal(signal.SIGTERM, worker._interrupt)
    listing = find_listing(current_home(), arguments[0])
    work = read_record(listing.folder / "work.json", worker.Work)
    stages = Threshold(Path(work.out))
    try:
        worker.do_scans(
            work, listing, int(arguments[1]),
            Stages(stages.read, lambda job: job, stages.infer, lambda answer: answer, stages.write),
        )  # fmt: skip
    except KeyboardInterrupt:
        sys.exit(130)


class Threshold:
    """Stages of real files: voxels above 100 are the organ. ``POISON`` names a scan that kills its worker."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def read(self, candidate: Any) -> Any:
        from medml.io.files import content_digest
        from medml.records.batch import Job

        reading = candidate.read()
        digest = content_digest(reading.volume)
        return Job(f"s{digest[:23]}", candidate.source, reading, input_digest=digest)

    def infer(self, job: Any) -> Any:
        from medml.records.batch import Prediction

        time.sleep(float(os.environ.get("SECONDS", "0")))
        if job.source == os.environ.get("POISON"):
            os.kill(os.getpid(), signal.SIGKILL)
        (self.out / "begun").open("a").write(f"{job.source}\n")
        return Prediction(mask=(job.reading.volume.voxels[0] > 100).astype(np.uint8))

    def write(self, job: Any, prediction: Any) -> Any:
        from medml.io.files import sha256_file
        from medml.records.batch import Written
        from medml.results.masks import write_mask

        path = write_mask(self.out, job.scan_id, prediction.mask, job.reading.grid)
        name = path.relative_to(self.out).as_posix()
        return Written(mask=name, outputs={name: sha256_file(path)}, result={"voxels": int(prediction.mask.sum())})


def _start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    program = "import sys; sys.path.append('tests'); from batch_place import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
