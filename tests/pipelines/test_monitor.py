"""What a training is busy with."""

from __future__ import annotations

import os
import subprocess
import sys

from pipelines.monitor import Monitor


def test_a_sample_holds_percentages_and_the_training_itself() -> None:
    watched = Monitor(os.getpid())
    assert not watched.due()
    seconds, figures = watched.sample()
    assert seconds == 0
    assert all(name.startswith("system/") for name in figures)
    assert 0 <= figures["system/system_memory_usage_percentage"] <= 100
    assert figures["system/training_memory_megabytes"] > 1
    assert figures["system/training_cores"] > 0


def test_samples_lie_further_apart_the_longer_it_takes() -> None:
    watched = Monitor(os.getpid())
    watched._begun -= 10_000.0
    watched._last -= 99.0
    assert not watched.due()
    watched._last -= 3.0
    assert watched.due()


def test_a_training_that_has_ended_leaves_the_machines_figures() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    figures = Monitor(child.pid).sample()[1]
    assert figures["system/training_memory_megabytes"] == 0
    assert figures["system/system_memory_usage_megabytes"] > 0
