"""What a training and its machine are busy with: processor, memory, GPU; under the names that MLflow shows apart."""

from __future__ import annotations

import logging
import time

import psutil
import pynvml

logger = logging.getLogger(__name__)

FIRST_SECONDS = 10.0
GROWTH = 0.01  # later samples lie further apart, so that a day's training has some hundreds of them
MB = 1e6


class Monitor:
    """Samples of a process and its children.

    Parameters
    ----------
    pid : int
        The process; one that has ended gives the machine's figures only.
    """

    def __init__(self, pid: int) -> None:
        self._begun = self._last = time.monotonic()
        self._cpu_seconds, self._pid = 0.0, pid
        self._gpus = _gpus()
        psutil.cpu_percent()  # the first answer means nothing

    def due(self) -> bool:
        """Say whether it is time for a sample."""
        now = time.monotonic()
        return now - self._last >= max(FIRST_SECONDS, GROWTH * (now - self._begun))

    def sample(self) -> tuple[int, dict[str, float]]:
        """Return the seconds since the start, and figures by MLflow's names for them."""
        now = time.monotonic()
        cpu_seconds, resident = _used(self._pid)
        memory = psutil.virtual_memory()
        figures = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MB,
            "system/system_memory_usage_percentage": memory.percent,
            "system/training_memory_megabytes": resident / MB,
            "system/training_cores": max(0.0, cpu_seconds - self._cpu_seconds) / max(now - self._last, 1e-3),
        }
        for number, handle in enumerate(self._gpus):
            used = pynvml.nvmlDeviceGetMemoryInfo(handle)
            figures[f"system/gpu_{number}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            figures[f"system/gpu_{number}_memory_usage_megabytes"] = used.used / MB
            figures[f"system/gpu_{number}_memory_usage_percentage"] = 100 * used.used / used.total
        self._last, self._cpu_seconds = now, cpu_seconds
        return round(now - self._begun), {name: float(value) for name, value in figures.items()}


def _used(pid: int) -> tuple[float, float]:
    """Return the CPU seconds and the bytes in memory of a process with its children."""
    seconds = resident = 0.0
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0, 0.0
    for process in family:
        try:
            times = process.cpu_times()
            seconds, resident = seconds + times.user + times.system, resident + process.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended between the two looks
    return seconds, resident


def _gpus() -> list[object]:
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []  # no NVIDIA driver
