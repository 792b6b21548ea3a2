"""Loaded by Python at start-up where this folder is on its path: ends the process at the N-th step towards the disk,
or lets that step fail with an error of the system.

Steps of all processes of one ingest are counted in one file: opening a file to write, making a folder, renaming,
linking, waiting for the disk, and what SQLite is told.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import sqlite3.dbapi2
from collections.abc import Callable
from typing import Any

COUNT, LIMIT, FIRST, ERROR = "MEDML_TEST_COUNT", "MEDML_TEST_LIMIT", "MEDML_TEST_FIRST", "MEDML_TEST_ERROR"


def step(*, fallible: bool = True) -> None:
    """Count a step; at the limit, end the first process as a power cut would, and this one."""
    path = os.environ.get(COUNT)
    if not path:
        return
    descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b".")
    count = os.fstat(descriptor).st_size
    os.close(descriptor)
    if count == int(os.environ[LIMIT]) and (error := int(os.environ[ERROR])):
        if fallible:
            raise OSError(error, os.strerror(error))
    elif count == int(os.environ[LIMIT]):
        os.kill(int(os.environ[FIRST]), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


_open = os.open


def _counted(call: Callable[..., Any], writing: Callable[..., bool] = lambda *_, **__: True) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if writing(*args, **kwargs):
            step()
        return call(*args, **kwargs)

    return wrapper


def _opens_to_write(path: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
    return isinstance(path, str | os.PathLike) and any(letter in mode for letter in "wax+")


for _name in ("mkdir", "rename", "replace", "link", "fsync", "unlink", "rmdir"):
    setattr(os, _name, _counted(getattr(os, _name)))
os.open = _counted(os.open, lambda path, flags, *_, **__: bool(flags & os.O_CREAT))  # type: ignore[assignment]
io.open = builtins.open = _counted(io.open, _opens_to_write)  # type: ignore[assignment]


class _Connection(sqlite3.dbapi2.Connection):
    def commit(self) -> None:
        step(fallible=False)
        super().commit()
        step(fallible=False)

    def execute(self, *args: Any) -> Any:
        step(fallible=False)
        return super().execute(*args)


_connect = sqlite3.dbapi2.connect


def _counting_connect(*args: Any, **kwargs: Any) -> Any:
    return _connect(*args, **{"factory": _Connection, **kwargs})


sqlite3.dbapi2.connect = sqlite3.connect = _counting_connect
