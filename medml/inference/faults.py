"""What kind of fault ended a scan: one that may pass, one that stops the batch, or one of the scan itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from medml.errors import MedmlError

PASSING = frozenset({errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ENETRESET})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class StorageFull(MedmlError):
    """Results cannot be written any more; the batch stops rather than computing what would be lost."""


def is_transient(error: BaseException) -> bool:
    """Say whether trying again may help: a file server or network that failed, wherever in the chain of causes."""
    return any(
        isinstance(cause, TimeoutError | ConnectionError) or (isinstance(cause, OSError) and cause.errno in PASSING)
        for cause in _causes(error)
    )


def check_storage(error: BaseException) -> None:
    """Raise if an error means that the disk is full.

    Raises
    ------
    StorageFull
        The scan keeps its place in the ledger, and is done when the batch is resumed.
    """
    if any(isinstance(cause, OSError) and cause.errno in FULL for cause in _causes(error)):
        raise StorageFull(
            "the disk is full, so the batch stopped; nothing was left half written: free space, then resume the batch"
        ) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from or while handling, the nearest first."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
