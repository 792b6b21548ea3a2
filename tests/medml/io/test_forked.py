"""Work in forked processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from medml.errors import Refusal
from medml.io.forked import free_workers, share_out, shared_array


def test_every_index_is_worked_on_once() -> None:
    counts = shared_array((7,), np.dtype(np.int64))

    def work(index: int) -> None:
        counts[index] += index + 1

    share_out(work, 7, workers=3, seconds=5)
    assert counts.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_refusal_comes_back_with_its_code() -> None:
    def work(index: int) -> None:
        if index == 1:
            raise Refusal("odd_one", "the second is odd")

    with pytest.raises(Refusal, match="the second is odd") as caught:
        share_out(work, 4, workers=2, seconds=5)
    assert caught.value.code == "odd_one"


def test_other_errors_tell_their_kind_only() -> None:
    def work(index: int) -> None:
        raise KeyError("Doe^Jane")

    with pytest.raises(Refusal, match=r"^a frame does not decode \(KeyError\); copy the series again$"):
        share_out(work, 1, workers=1, seconds=5)


def test_too_little_memory_is_told() -> None:
    def work(index: int) -> None:
        raise MemoryError

    with pytest.raises(Refusal, match="there is not enough memory to decode a frame"):
        share_out(work, 1, workers=1, seconds=5)


def test_a_crash_costs_the_work_and_not_the_process() -> None:
    with pytest.raises(Refusal, match="the decoder crashed"):
        share_out(lambda index: os.kill(os.getpid(), signal.SIGTRAP), 2, workers=2, seconds=5)


def test_a_killed_process_is_told_as_memory() -> None:
    with pytest.raises(Refusal, match="the system ran out of memory while decoding"):
        share_out(lambda index: os.kill(os.getpid(), signal.SIGKILL), 1, workers=1, seconds=5)


def test_a_call_that_hangs_is_stopped() -> None:
    def work(index: int) -> None:
        while True:
            pass

    begin = time.monotonic()
    with pytest.raises(Refusal, match="took more than 0 s over one frame"):
        share_out(work, 1, workers=1, seconds=0.2)
    assert time.monotonic() - begin < 10


def test_a_process_of_several_threads_is_not_forked() -> None:
    command = "from medml.io.forked import free_workers; print(free_workers())"
    alone = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert int(alone) == min(16, len(os.sched_getaffinity(0)))
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert free_workers() == 0
    finally:
        stop.set()
        thread.join()
