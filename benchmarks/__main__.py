"""`make bench`: run every benchmark, or those that are named, with commit and machine at the top."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

TABLES = ("metrics", "classifiers", "patches", "preparation", "start")
WHOLE = ("ingest", "conformal", "training_step", "inference", "orchestration")  # print and keep results of their own


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside the peers, as ratios.")
    known = (*TABLES, *WHOLE)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; all if none is given")
    names = parser.parse_args().names or list(known)
    unknown = sorted({*names} - {*known})
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; expected {', '.join(known)}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip() or 'unknown'}, {processor()}, {graphics()}\n")
    pairs = [name for name in names if name in TABLES]
    if pairs:
        print("| task | peer | ours, CPU s | peer, CPU s | CPU ratio | wall ratio | agreement |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in pairs:
        for pair in import_module(f"benchmarks.{name}").run():
            print(pair.row(), flush=True)
    failed = 0
    for name in (name for name in names if name in WHOLE):
        print()
        failed += import_module(f"benchmarks.{name}").main()
    return min(1, failed)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def graphics() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    sys.exit(main())
