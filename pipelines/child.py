"""Run the training child and follow it: epochs into a callback by step, progress onto a bar."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from medml.errors import MedmlError
from medml.io.files import read_record
from medml.records.plan import Epoch, Plan, Point, TrainingJob
from pipelines.monitor import Monitor
from pipelines.progress import Bar

POLL_SECONDS = 0.5
STOP_SECONDS = 30.0
PROBE_SECONDS = 1.0
RESTARTS = 3
_PR_SET_PDEATHSIG = 1


def run_training(
    run: Path,
    *,
    on_epochs: Callable[[list[Epoch]], None],
    bar: Bar,
    on_steps: Callable[[list[Point]], None] = lambda points: None,
    on_system: Callable[[int, dict[str, float]], None] = lambda seconds, figures: None,
) -> Path:
    """Train in a child until it ends; its package folder is returned.

    Parameters
    ----------
    run : Path
        The run folder; holds ``job.json`` and receives ``epochs.jsonl``, ``steps.jsonl``, ``progress.json``,
        ``train.log``, ``pictures/``, checkpoints and ``package/``.
    on_epochs : callable
        Receives every epoch known so far, at the start and whenever there are more. Must be idempotent.
    on_steps : callable
        Receives every line of ``steps.jsonl`` known so far, whenever an epoch is over and at the end. Idempotent too.
    on_system : callable
        Receives, now and then, the seconds since the start and what child and machine are busy with.

    Raises
    ------
    MedmlError
        If the child fails; the message is the child's own last word.
    """
    job = read_record(run / "job.json", TrainingJob)
    with (run / "train.log").open("ab") as log:
        child = subprocess.Popen(
            _command(run, job), stdout=log, stderr=log, env=_environment(job), preexec_fn=die_with_parent
        )
    try:
        _follow(child, run, on_epochs, on_steps, on_system, bar)
    finally:
        _stop(child)
    if child.returncode != 0:
        raise MedmlError(f"training stopped with exit code {child.returncode}: {last_words(run / 'train.log')}")
    return run / "package"


def _command(run: Path, job: TrainingJob) -> list[str]:
    """Return how the child is started: alone, or by torchrun, which starts all anew when one of several dies."""
    if job.processes == 1:
        return [sys.executable, "-m", "medml.training", str(run / "job.json")]
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={job.processes}"]
    return [
        sys.executable,
        "-m",
        *launcher,
        f"--max-restarts={RESTARTS}",
        "-m",
        "medml.training",
        str(run / "job.json"),
    ]


def _environment(job: TrainingJob) -> dict[str, str]:
    plan = Path(job.plan)
    if plan.exists() and read_record(plan, Plan).deterministic:
        # How many threads share a sum shows in its last bits, so how busy the machine is must not matter.
        return {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return thread_environment()


def thread_environment() -> dict[str, str]:
    """Return this environment with a thread for each free core, unless ``OMP_NUM_THREADS`` says otherwise.

    Threads that share cores with other work wait for each other at every barrier: on a busy 2-core machine two threads
    took three times as long as one. Waiting threads sleep, which helps when other work comes later.
    """
    cores = len(os.sched_getaffinity(0))
    busy = psutil.cpu_percent(interval=PROBE_SECONDS) / 100 * (psutil.cpu_count() or 1)
    threads = max(1, round(cores - busy))
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}


def read_epochs(path: Path) -> list[Epoch]:
    """Return the epochs of ``epochs.jsonl``; a half-written last line is left for the next look."""
    return [Epoch.model_validate_json(line) for line in _whole_lines(path)]


def read_points(path: Path) -> list[Point]:
    """Return the lines of ``steps.jsonl``, likewise."""
    return [Point.model_validate_json(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


def _follow(
    child: subprocess.Popen[bytes],
    run: Path,
    on_epochs: Callable[[list[Epoch]], None],
    on_steps: Callable[[list[Point]], None],
    on_system: Callable[[int, dict[str, float]], None],
    bar: Bar,
) -> None:
    seen = -1
    running = True
    monitor = Monitor(child.pid)
    while running:
        running = child.poll() is None
        epochs = read_epochs(run / "epochs.jsonl")
        if len(epochs) != seen or not running:
            seen = len(epochs)
            on_epochs(epochs)
            on_steps(read_points(run / "steps.jsonl"))
        _show(run / "progress.json", bar, epochs)
        if running and monitor.due():
            on_system(*monitor.sample())
        if running:
            time.sleep(POLL_SECONDS)


def _show(path: Path, bar: Bar, epochs: list[Epoch]) -> None:
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return  # not there yet; the file is replaced whole, so the next look sees it
    note = str(progress.get("phase", ""))
    if isinstance(progress.get("loss"), float):
        note += f" loss {progress['loss']:.3f}"
    validation = {k: v for k, v in epochs[-1].metrics.items() if k.startswith("val_")} if epochs else {}
    note += "".join(f"  {key} {value:.3f}" for key, value in list(validation.items())[:2])
    bar.update(int(progress.get("step", 0)), int(progress["total"]) if progress.get("total") else None, note.strip())


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def last_words(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"no output; see {log}"


def die_with_parent() -> None:
    """Ask the kernel to end the child (SIGTERM: it saves a checkpoint) when the flow's process dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
