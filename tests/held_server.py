"""A home's Prefect server that stays while a test runs one verb after the other, so that each starts sooner."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys
from pathlib import Path
from medml.records.home import Home
from pipelines.server import start_early

handle = start_early(Home(Path(sys.argv[1])))
handle.wait()
print("ready", flush=True)
sys.stdin.read()
handle.close()
"""


@contextmanager
def held_server(home: Path) -> Iterator[None]:
    """Run a process that uses the server of a home for as long."""
    home.mkdir(parents=True, exist_ok=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        yield
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
