"""Code that is run in a process of its own: what is imported or set there stays there."""

from __future__ import annotations

import subprocess
import sys


def said_by(code: str) -> list[str]:
    """Return the words that the code prints; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
