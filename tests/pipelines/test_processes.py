"""Children that are looked after."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from medml.errors import MedmlError
from pipelines.processes import Child, stop_on_signals

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    child = Child(
        "the sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", dict(os.environ)
    )
    child.launch()
    yield child
    child.stop()


def test_a_child_that_ends_is_started_again_after_its_pause(sleeper: Child) -> None:
    first = sleeper.process.pid
    sleeper.look_after()
    assert sleeper.process.pid == first
    sleeper.process.kill()
    sleeper.process.wait()
    sleeper.look_after()
    assert sleeper.process.poll() is not None  # the first pause lasts a second
    time.sleep(1.1)
    sleeper.look_after()
    assert sleeper.process.pid != first
    assert sleeper.process.poll() is None


def test_stopping_takes_grandchildren_along(tmp_path: Path) -> None:
    child = Child("the parent", [sys.executable, "-c", PARENT], tmp_path / "log", dict(os.environ))
    child.launch()
    child.wait_until(lambda: bool((tmp_path / "log").read_text()), [], 20)
    grandchild = psutil.Process(int((tmp_path / "log").read_text()))
    child.stop()
    psutil.wait_procs([grandchild], timeout=10)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_a_child_that_ends_while_starting_is_an_error(tmp_path: Path) -> None:
    child = Child("the quitter", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", dict(os.environ))
    child.launch()
    with pytest.raises(MedmlError, match=r"the quitter ended while starting \(code 3\)"):
        child.wait_until(lambda: False, [], 20)


def test_a_child_that_is_never_ready_is_an_error(sleeper: Child) -> None:
    with pytest.raises(MedmlError, match="the sleeper was not ready within 0 s"):
        sleeper.wait_until(lambda: False, [], 0.0)


def test_a_signal_is_noted_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as seen:
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
