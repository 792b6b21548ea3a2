"""`make bench`: run every benchmark, print one table with commit and machine."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import metrics, sliding_window


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip() or 'unknown'}, {processor()}, {gpu}\n")
    print("| task | peer | ours, CPU s | peer, CPU s | CPU ratio | wall ratio | agreement |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for module in (metrics, sliding_window):
        for pair in module.run():
            print(pair.row(), flush=True)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
