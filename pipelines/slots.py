"""Leases that this process holds while it works: a slot of a device, a batch, a worker's scans."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from medml.records.home import Home
from pipelines.stores import open_catalogue

if TYPE_CHECKING:
    from medml.store.leases import Lease, Leases

logger = logging.getLogger(__name__)

LEASE_SECONDS = 120.0
LEASE_POLL_SECONDS = 2.0
CPU_SLOTS = 2


def current_home() -> Home:
    """Return the home of this process; the command line and the servers set ``MEDML_HOME`` to an absolute path."""
    return Home(Path(os.environ["MEDML_HOME"]))


@contextmanager
def device_slot(device: str) -> Iterator[Lease]:
    """Hold one slot of a device for as long as the work runs; waits while all are taken.

    Parameters
    ----------
    device : str
        "cpu" or "cuda:0", …; of this machine. One slot for each GPU, two for the CPU.
    """
    device = "cuda:0" if device == "cuda" else device
    slots = CPU_SLOTS if device == "cpu" else 1
    with _held([f"device:{socket.gethostname()}:{device}:{n}" for n in range(slots)], LEASE_SECONDS) as lease:
        yield lease


@contextmanager
def pacs_slot(name: str, most: int = 1) -> Iterator[Lease]:
    """Hold one of the ``most`` conversations that a PACS is asked to bear at once, by all machines of this home.

    Parameters
    ----------
    name : str
        The PACS, as ``configs/pacs`` names it.
    """
    with _held([f"pacs:{name}:{n}" for n in range(most)], LEASE_SECONDS) as lease:
        yield lease


@contextmanager
def batch_lease(batch_id: str) -> Iterator[Lease]:
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
    with _kept(leases, lease):
        yield lease


@contextmanager
def worker_lease(batch_id: str, number: int, seconds: float = LEASE_SECONDS) -> Iterator[Lease]:
    """Hold the place of a worker, under which it claims scans; waits until whoever had it before is gone."""
    with _held([f"worker:{batch_id}:{number}"], seconds) as lease:
        yield lease


@contextmanager
def _held(names: list[str], seconds: float) -> Iterator[Lease]:
    from medml.store.leases import Leases

    leases = Leases(open_catalogue(current_home()))
    lease = _wait_for_any(leases, names, seconds)
    with _kept(leases, lease):
        yield lease


@contextmanager
def _kept(leases: Leases, lease: Lease) -> Iterator[None]:
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


def _wait_for_any(leases: Leases, names: list[str], seconds: float) -> Lease:
    from medml.store.leases import this_owner

    told = False
    while True:
        for name in names:
            lease = leases.take(name, this_owner(), seconds)
            if lease is not None:
                return lease
        if not told:
            logger.info("all slots of %s are taken; waiting for one", names[0].rsplit(":", 1)[0])
            told = True
        time.sleep(LEASE_POLL_SECONDS)


def _beat(leases: Leases, lease: Lease, stop: Event) -> None:
    from medml.errors import MedmlError
    from medml.store.leases import LeaseLost

    while not stop.wait(lease.ttl_seconds / 6):
        try:
            leases.beat(lease)
        except LeaseLost:
            return  # the ledger refuses what is recorded under a lost lease
        except MedmlError as error:
            logger.warning("%s was not beaten (%s); trying again", lease.name, error)
