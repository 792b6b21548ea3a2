"""Thin Prefect tasks: names that read well, retries, leases, errors without identities. No science.

A flow's parameters, a task's name and the text of an exception are stored by Prefect and shown, so none of them may
hold a path or a name: sources are aliases or request ids, and `guarded` keeps error texts in a 0600 file.
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from medml.errors import MedmlError
from medml.records.home import Home
from pipelines.stores import open_catalogue

P = ParamSpec("P")
R = TypeVar("R")

LEASE_SECONDS = 120.0
LEASE_POLL_SECONDS = 2.0
CPU_SLOTS = 2


class FlowFailed(MedmlError):
    """A flow stopped; the text is neutral, the reason lies in a 0600 file that only the operator reads.

    Attributes
    ----------
    details : Path
        The file.
    """

    def __init__(self, message: str, details: Path, usage: bool) -> None:
        super().__init__(message)
        self.details = details
        self.usage = usage


def current_home() -> Home:
    """Return the home of this process; the command line and the servers set ``MEDML_HOME`` to an absolute path."""
    return Home(Path(os.environ["MEDML_HOME"]))


def step(name: str, **options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a task: not cached by Prefect (the ledger and the digests know what is done), results not stored."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return task(name=name, cache_policy=NO_CACHE, persist_result=False, **options)(guarded(function))

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


@contextmanager
def device_slot(device: str) -> Iterator[Any]:
    """Hold one slot of a device for as long as the work runs; waits while all are taken.

    Parameters
    ----------
    device : str
        "cpu" or "cuda:0", …; one slot for each GPU, two for the CPU.
    """
    from medml.store.leases import Leases

    device = "cuda:0" if device == "cuda" else device
    leases = Leases(open_catalogue(current_home()))
    names = [f"device:{device}:{n}" for n in range(CPU_SLOTS if device == "cpu" else 1)]
    lease = _wait_for_any(leases, names)
    with _held(leases, lease):
        yield lease


@contextmanager
def batch_lease(batch_id: str) -> Iterator[Any]:
    """Hold a batch for as long as it runs, so that no scan is done twice.

    Raises
    ------
    ConfigError
        If another process is working on it.
    """
    from medml.errors import ConfigError
    from medml.store.leases import Leases, this_owner

    leases = Leases(open_catalogue(current_home()))
    lease = leases.take(f"batch:{batch_id}", this_owner(), LEASE_SECONDS)
    if lease is None:
        raise ConfigError(f"{batch_id}: another process is working on it; wait for it or choose another output")
    with _held(leases, lease):
        yield lease


@contextmanager
def _held(leases: Any, lease: Any) -> Iterator[None]:
    """Keep a lease alive from a thread; give it back at the end."""
    stop = Event()
    heart = Thread(target=_beat, args=(leases, lease, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        leases.release(lease)


def _wait_for_any(leases: Any, names: list[str]) -> Any:
    from medml.store.leases import this_owner

    told = False
    while True:
        for name in names:
            lease = leases.take(name, this_owner(), LEASE_SECONDS)
            if lease is not None:
                return lease
        if not told:
            get_run_logger().info("all slots of %s are taken; waiting for one", names[0].rsplit(":", 1)[0])
            told = True
        time.sleep(LEASE_POLL_SECONDS)


def _beat(leases: Any, lease: Any, stop: Event) -> None:
    from medml.store.leases import LeaseLost

    while not stop.wait(LEASE_SECONDS / 6):
        try:
            leases.beat(lease)
        except LeaseLost:
            return  # the ledger refuses what is recorded under a lost lease


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
    return FlowFailed(message, details, usage=isinstance(error, ConfigError | LeakageError | NotFound))
