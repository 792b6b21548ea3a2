"""Thin Prefect tasks: names that read well, retries, leases, errors without identities. No science.

A flow's parameters, a task's name and the text of an exception are stored by Prefect and shown, so none of them may
hold a path or a name: sources are aliases or request ids, and `guarded` keeps error texts in a 0600 file.
"""

from __future__ import annotations

import errno
import functools
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from medml.errors import MedmlError
from pipelines.slots import batch_lease as batch_lease
from pipelines.slots import current_home as current_home
from pipelines.slots import device_slot as device_slot

RETRY_SECONDS = [10, 60]
# By name, for the packages that raise them have their homes elsewhere.
TRANSIENT_NAMES = frozenset({"OperationalError", "ConnectError", "ConnectTimeout", "ReadTimeout"})
TRANSIENT_ERRNOS = frozenset({errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})

P = ParamSpec("P")
R = TypeVar("R")


class FlowFailed(MedmlError):
    """A flow stopped; the text is neutral, the reason lies in a 0600 file that only the operator reads.

    Attributes
    ----------
    details : Path
        The file.
    transient : bool
        Whether it may go away by itself: a connection, a server, a busy database; never what an input holds.
    """

    def __init__(self, message: str, details: Path, usage: bool, transient: bool = False) -> None:
        super().__init__(message)
        self.details = details
        self.usage = usage
        self.transient = transient


def step(name: str, **options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a task: not cached by Prefect (the ledger and the digests know what is done), results not stored.

    It is tried again, later each time, after faults that may go away by themselves; done work is found again.
    """
    again = {"retries": len(RETRY_SECONDS), "retry_delay_seconds": RETRY_SECONDS, "retry_condition_fn": _may_go_away}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        options_given = {"cache_policy": NO_CACHE, "persist_result": False, **again, **options}
        return task(name=name, **options_given)(guarded(function))

    return decorate


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Replace any exception by a neutral one before Prefect sees it; the original goes to a 0600 file."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except FlowFailed:
            raise
        except Exception as error:
            failure = _neutral(function.__name__, error)
        raise failure

    return wrapper


def _neutral(what: str, error: Exception) -> FlowFailed:
    import traceback

    from medml.errors import ConfigError, LeakageError, NotFound
    from medml.io.files import write_text

    details = current_home().logs / "errors" / f"{uuid.uuid4().hex[:12]}.txt"
    known = isinstance(error, MedmlError)
    text = str(error) if known else "".join(traceback.format_exception(error))
    details.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(details, text + "\n", mode=0o600)
    reason = type(error).__name__
    message = f"{what.replace('_', ' ')} failed ({reason}); the reason is in logs/errors/{details.name}"
    usage = isinstance(error, ConfigError | LeakageError | NotFound)
    return FlowFailed(message, details, usage=usage, transient=not usage and is_transient(error))


def is_transient(error: BaseException) -> bool:
    """Say whether an error, or what caused it, is one of a connection, a server or a busy database."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__ or error
    return any(
        isinstance(item, ConnectionError | TimeoutError)
        or type(item).__name__ in TRANSIENT_NAMES
        or (isinstance(item, OSError) and item.errno in TRANSIENT_ERRNOS)
        for item in seen
    )


def _may_go_away(task: Any, run: Any, state: Any) -> bool:
    """Prefect asks this before it tries a task again."""
    return isinstance(state.data, FlowFailed) and state.data.transient
