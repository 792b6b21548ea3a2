"""Freed memory is kept: a block of the same size costs no new pages (seen in a process of its own)."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

from medml.networks import heap

PROBE = """
import json, resource
import torch
from medml.networks.heap import freed_memory_kept, keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 << 20)  # 64 MB, 16,384 pages of 4 KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def settled():  # blocks are found again once the remains of aligned ones lie about
    for _ in range(5):
        pages()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

found = [pages()]
with freed_memory_kept():
    settled()
    found.append(pages())
    held = resident()
found += [(held - resident()) >> 20, keep_freed_memory()]
settled()
found.append(pages())
print(json.dumps(found))
"""


def test_a_freed_block_is_used_again_and_handed_back_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    usual, kept, handed_back_mb, can, kept_for_good = json.loads(done.stdout)
    assert usual > 5 * 16_000
    assert can
    assert max(kept, kept_for_good) < 100
    assert handed_back_mb >= 60


def test_a_c_library_without_such_parameters_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not heap.keep_freed_memory()
    with heap.freed_memory_kept():
        pass
