"""Leases: who may use a device or a batch, until when, and a token that unmasks whoever comes back too late."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Select, select, update

from medml.errors import MedmlError
from medml.records.record import Record
from medml.store import tables
from medml.store.database import Database, upsert, utc_now


class LeaseLost(MedmlError):
    """Somebody else holds the lease now; what was begun under it must not be recorded."""


class Lease(Record):
    """The right to use one thing for a while.

    Attributes
    ----------
    name : str
        What is leased, e.g. ``device:cpu:0``.
    owner : str
        Who holds it; see `this_owner`.
    token : int
        Fencing token: larger at every take of the same name.
    expires : str
        UTC, ISO 8601; after it, anybody may take the lease.
    """

    name: str
    owner: str
    token: int
    ttl_seconds: float
    expires: str


class Leases:
    """The table of leases."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def take(self, name: str, owner: str, ttl_seconds: float) -> Lease | None:
        """Take a lease that is free, released, expired, or held by a dead process of this host; None otherwise."""
        table = tables.leases
        with self.database.transaction() as connection:
            upsert(connection, table, [{"name": name, "owner": "", "token": 0, "expires": ""}])
            row = connection.execute(_locking(name)).mappings().one()
            if row["owner"] and row["expires"] > utc_now() and owner_alive(row["owner"]) is not False:
                return None
            token, expires = row["token"] + 1, _after(ttl_seconds)
            lease = Lease(name=name, owner=owner, token=token, ttl_seconds=ttl_seconds, expires=expires)
            values = {"owner": lease.owner, "token": lease.token, "expires": lease.expires}
            connection.execute(update(table).where(table.c.name == name).values(values))
            return lease

    def beat(self, lease: Lease) -> Lease:
        """Hold the lease for another ``ttl_seconds`` from now; a lease that expired but was not taken is held again.

        Raises
        ------
        LeaseLost
            If it was released or taken over.
        """
        with self.database.transaction() as connection:
            check_lease(connection, lease)
            table, expires = tables.leases, _after(lease.ttl_seconds)
            connection.execute(update(table).where(table.c.name == lease.name).values(expires=expires))
        return lease.model_copy(update={"expires": expires})

    def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens if it is somebody else's by now."""
        table = tables.leases
        mine = (table.c.name == lease.name) & (table.c.token == lease.token)
        with self.database.transaction() as connection:
            connection.execute(update(table).where(mine).values(owner="", expires=""))

    def held(self) -> list[Lease]:
        """Return what is in use now: not released, not expired, the owner not known to be dead; by name."""
        with self.database.reading() as connection:
            rows = connection.execute(select(tables.leases).order_by(tables.leases.c.name)).mappings().all()
        return [
            Lease(**{key: row[key] for key in ("name", "owner", "token", "expires")}, ttl_seconds=0.0)
            for row in rows
            if row["owner"] and row["expires"] > utc_now() and owner_alive(row["owner"]) is not False
        ]

    def check(self, lease: Lease) -> None:
        """Raise `LeaseLost` if the lease was released or taken over."""
        with self.database.transaction() as connection:
            check_lease(connection, lease)


def check_lease(connection: Connection, lease: Lease) -> None:
    """Raise `LeaseLost` unless the lease still stands; it cannot be taken over until the transaction ends."""
    row = connection.execute(_locking(lease.name)).mappings().first()
    if row is None or row["token"] != lease.token or not row["owner"]:
        found = "nobody" if row is None or not row["owner"] else row["owner"]
        token = 0 if row is None else row["token"]
        raise LeaseLost(
            f"lease {lease.name}: token {lease.token} of {lease.owner} is no longer valid, {found} holds token {token};"
            " the owner was silent for too long, so its work is done again by the new one"
        )


def lease_stands(connection: Connection, name: str, token: int | None = None) -> bool:
    """Say whether a lease (of this token) stands: not released, not expired, its owner not known to be dead."""
    if not name:
        return False
    row = connection.execute(select(tables.leases).where(tables.leases.c.name == name)).mappings().first()
    if row is None or token not in (None, row["token"]) or not row["owner"]:
        return False
    return bool(row["expires"] > utc_now()) and owner_alive(row["owner"]) is not False


def this_owner() -> str:
    """Return ``host/pid/start`` of this process; ``host`` holds the PID namespace, for containers share host names."""
    return f"{_host()}/{os.getpid()}/{_start_of(os.getpid())}"


def owner_alive(owner: str) -> bool | None:
    """Say whether the process behind an owner lives; None if it cannot be known from here."""
    host, _, process = owner.rpartition("/")[0].rpartition("/")
    start = owner.rpartition("/")[2]
    if host != _host() or not process.isdecimal() or _start_of(os.getpid()) is None:
        return None
    return str(_start_of(int(process))) == start


def _locking(name: str) -> Select[tuple[str, str, int, str]]:
    """Select a lease's row and keep others from changing it until the transaction ends."""
    return select(tables.leases).where(tables.leases.c.name == name).with_for_update()


def _after(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def _host() -> str:
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}.{namespace}"


def _start_of(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot (a set clock does not move it); None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    state, start = fields[0], fields[19]
    return None if state in {"Z", "X"} else int(start)
