"""Work shared out over forked processes that write into memory of the parent, for decoders that hold Python's lock.

A process forks in milliseconds and shares what the parent has read. Only a process of one thread is forked: what other
threads hold locked would stay locked in the child for ever.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from medml.errors import Refusal

MAX_WORKERS = 16


def shared_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array whose memory forked children share, freed with its last view."""
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(mmap.mmap(-1, size), dtype=dtype).reshape(shape)


def free_workers() -> int:
    """Return how many processes may share the work here: the cores of this process, or 0 if it may not fork."""
    if threading.active_count() > 1:
        return 0
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def share_out(work: Callable[[int], None], count: int, *, workers: int, seconds: float) -> None:
    """Call ``work(0)`` to ``work(count - 1)`` in forked processes.

    Parameters
    ----------
    work : callable
        Leaves its result in shared memory (`shared_array`).
    seconds : float
        Processor time that one call may take; the process that takes more is killed.

    Raises
    ------
    Refusal
        The first one that a call raised; ``decoder_crashed`` if a process died of a signal or of too long a call.
    """
    reports, report = os.pipe()
    children: list[int] = []
    failed = b""
    try:
        try:
            children.extend(_fork(work, range(first, count, workers), seconds, report) for first in range(workers))
        finally:
            os.close(report)
        failed = os.read(reports, mmap.PAGESIZE)
    finally:
        os.close(reports)
        statuses = [_wait(child, stop=bool(failed) or len(children) < workers) for child in children]
    if failed:
        raise Refusal(*json.loads(failed))
    worst = min(statuses)
    if worst == -signal.SIGKILL:
        raise Refusal("memory", "the system ran out of memory while decoding; give the machine more")
    if worst < 0:
        reason = f"took more than {seconds:.0f} s over one frame" if worst == -signal.SIGPROF else "crashed"
        raise Refusal("decoder_crashed", f"the decoder {reason}; the file is damaged, copy it again")


def _fork(work: Callable[[int], None], indices: range, seconds: float, report: int) -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that native libraries keep; they take no lock that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _run(work, indices, seconds, report)
    return child


def _run(work: Callable[[int], None], indices: range, seconds: float, report: int) -> NoReturn:
    """Do a child's share and leave without the parent's clean-up; its first failure goes to the parent."""
    code = 1
    gc.disable()  # a collection would touch, and so copy, all that the parent has in memory
    try:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGPROF):
            signal.signal(name, signal.SIG_DFL)
        for index in indices:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            work(index)
        code = 0
    except Refusal as refusal:
        os.write(report, json.dumps([refusal.code, str(refusal)[:1000]]).encode())
    except MemoryError:
        os.write(report, json.dumps(["memory", "there is not enough memory to decode a frame"]).encode())
    except Exception as error:
        reason = f"a frame does not decode ({type(error).__name__}); copy the series again"
        os.write(report, json.dumps(["damaged_pixels", reason]).encode())
    finally:
        os._exit(code)


def _wait(child: int, *, stop: bool) -> int:
    """Return a child's exit code, or minus the signal it died of."""
    if stop:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
