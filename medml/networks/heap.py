"""What tensors on the CPU free stays with the process, so that the next step need not get it anew, page by page.

By default glibc maps every block above 32 MB for itself and unmaps it when it is freed. Feature maps of 3D networks are
larger: the kernel zeroes all of their pages in every step, which took a third of a training's CPU time
(docs/performance.md). Peak memory is up to a fifth higher for it. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's mallopt(3), with the values that its own adjustment ends at.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGEST_THRESHOLD, USUAL_MAPS = 32 << 20, 65536


def keep_freed_memory() -> bool:
    """Keep for the rest of the process what is freed; return whether the C library can."""
    return _set((TRIM_THRESHOLD, -1), (MMAP_MAX, 0))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed for a while, then hand it back to the system."""
    keep_freed_memory()
    try:
        yield
    finally:
        usual = (MMAP_MAX, USUAL_MAPS), (MMAP_THRESHOLD, LARGEST_THRESHOLD), (TRIM_THRESHOLD, 2 * LARGEST_THRESHOLD)
        if _set(*usual):
            ctypes.CDLL(None).malloc_trim(0)


def _set(*values: tuple[int, int]) -> bool:
    """Set parameters of the allocator; musl and macOS have none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in values)
