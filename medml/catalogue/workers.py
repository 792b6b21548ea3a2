"""Candidates read in limited child processes, so that a crash, a blow-up of memory or a hang costs one scan."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue
from threading import Lock

from medml.catalogue.quality_rules import QualityLimits
from medml.catalogue.staging import Entry, Job, from_json, ready, refused, stage
from medml.catalogue.worker import FORK, WAIT, Allowance, Errand
from medml.errors import MedmlError
from medml.io.files import Pseudonyms
from medml.records.scan import Outcome

WALL_PER_CPU = 10.0
START_SECONDS = 60.0


class Workers:
    """Reads candidates into staged scans; used from as many threads as there are to be children.

    Parameters
    ----------
    work : Path
        Folder for the staged scans.
    isolated : bool
        Whether to read in limited child processes, started when first needed, or in this one.
    limits : QualityLimits
        Thresholds of the quality findings; the defaults if None.
    """

    def __init__(
        self,
        work: Path,
        collection: str,
        pseudonyms: Pseudonyms,
        allowance: Allowance,
        *,
        isolated: bool = True,
        limits: QualityLimits | None = None,
    ) -> None:
        self.work = work
        self._errand = Errand(collection, pseudonyms, allowance, limits)
        self._isolated = isolated
        self._free: LifoQueue[_Child] = LifoQueue()
        self._lock = Lock()
        self._nursery: _Nursery | None = None
        self._stopped = False
        self._at_work: set[_Child] = set()

    @property
    def collection(self) -> str:
        """What the scans belong to."""
        return self._errand.collection

    @property
    def busy(self) -> int:
        """How many children are reading."""
        return len(self._at_work)

    def read(self, candidates: Sequence[Job]) -> list[Entry]:
        """Read candidates one after the other; a child that is lost with one of them is replaced for the rest.

        Raises
        ------
        MedmlError
            If the home cannot be written to, or no child process can be started.
        """
        tasks = [(candidate, self.work / secrets.token_hex(8)) for candidate in candidates]
        if not self._isolated:
            return [self._read_here(candidate, folder) for candidate, folder in tasks]
        entries: list[Entry] = []
        while len(entries) < len(tasks):
            entries += self._read_in_child(tasks[len(entries) :])
        return entries

    def stop(self) -> None:
        """End the children, also those at work, whose scans are given up."""
        with self._lock:
            self._stopped = True
            for child in self._at_work:
                child.kill()
            if self._nursery is not None:
                self._nursery.kill()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._free.empty():
            self._free.get().connection.close()
        if self._nursery is not None:
            self._nursery.close()

    def _read_here(self, candidate: Job, folder: Path) -> Entry:
        errand = self._errand
        found = stage(candidate, folder, errand.collection, errand.pseudonyms, errand.limits)
        return found if isinstance(found, Outcome) else ready(candidate, found)

    def _read_in_child(self, tasks: Sequence[tuple[Job, Path]]) -> list[Entry]:
        """Return the entries of the tasks up to the first with which the child was lost."""
        child = self._child()
        entries: list[Entry] = []
        try:
            child.connection.send(tasks)
            for candidate, folder in tasks:
                seconds = self._errand.allowance.seconds_for(candidate)
                if not child.connection.poll(seconds * WALL_PER_CPU):
                    raise TimeoutError(f"no answer within {seconds * WALL_PER_CPU:.0f} s")
                entries.append(_entry(candidate, folder, child.connection.recv_bytes()))
        except (EOFError, OSError) as error:
            candidate, folder = tasks[len(entries)]
            status = self._bury(child, kill=isinstance(error, TimeoutError))
            shutil.rmtree(folder, ignore_errors=True)
            code, reason = ("timeout", str(error)) if isinstance(error, TimeoutError) else _cause(status)
            return [*entries, refused(candidate, code, f"the process that read it was stopped: {reason}")]
        except BaseException:
            self._bury(child, kill=True)
            raise
        with self._lock:
            self._at_work.discard(child)
            self._free.put(child)
        return entries

    def _child(self) -> _Child:
        with self._lock:
            if self._stopped:
                raise MedmlError("the ingest was stopped")
            if self._nursery is None:
                self._nursery = _Nursery()
            child = self._nursery.child(self._errand) if self._free.empty() else self._free.get()
            self._at_work.add(child)
            return child

    def _bury(self, child: _Child, *, kill: bool) -> int:
        if kill:
            child.kill()
        child.connection.close()
        with self._lock:
            self._at_work.discard(child)
            if self._stopped or self._nursery is None:
                raise MedmlError("the ingest was stopped")
            return self._nursery.bury(child.pid)


class _Child:
    """One child process and the connection to it."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self.connection = connection

    def kill(self) -> None:
        """End it and what it has started; nobody has waited for it, so its number cannot be another's."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class _Nursery:
    """The process that has the decoders in memory and forks children."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            # -P: a folder of scans that happens to be the current one must not offer modules.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "medml.catalogue.worker"],
                stdin=theirs.fileno(),
                env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        except OSError as error:
            raise MedmlError(_not_started(error.strerror)) from None
        finally:
            theirs.close()
        self._control.settimeout(START_SECONDS)
        self._answer(1)

    def child(self, errand: Errand) -> _Child:
        """Fork a child and tell it its errand."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [FORK], [theirs.fileno()])
        pid = int.from_bytes(self._answer(8), "big")
        connection = Connection(ours.detach())
        connection.send(errand)
        return _Child(pid, connection)

    def bury(self, pid: int) -> int:
        """Wait for a child that ends, and return its exit code, or minus the signal that ended it."""
        self._control.sendall(WAIT + pid.to_bytes(8, "big"))
        return int.from_bytes(self._answer(8), "big", signed=True)

    def kill(self) -> None:
        """End the process and its children at once."""
        os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Hang up; the process ends its children and itself."""
        self._control.close()
        self._process.wait(START_SECONDS)

    def _answer(self, size: int) -> bytes:
        try:
            answer = self._control.recv(size, socket.MSG_WAITALL)
        except OSError as error:
            raise MedmlError(_not_started(f"{error.strerror or error}")) from None
        if len(answer) < size:
            raise MedmlError(_not_started("it ended at once"))
        return answer


def _not_started(reason: str | None) -> str:
    return (
        f"no process to decode in could be started ({reason}); raise the limit on processes, "
        "or set isolated: false to read in this process, without its protection"
    )


def _entry(job: Job, folder: Path, answer: bytes) -> Entry:
    found = json.loads(answer)
    if "failed" in found:
        raise MedmlError(found["failed"])
    return from_json(job, folder, found)


def _cause(status: int) -> tuple[str, str]:
    """Return reason code and text for how a child ended."""
    if status == -signal.SIGXCPU:
        return "timeout", "it took more time than one scan may; raise seconds_per_scan if the scan is real"
    if status == -signal.SIGKILL:
        return "memory", "the system ran out of memory; give the machine more, or take fewer workers"
    name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return "decoder_crashed", f"the decoder crashed ({name}); the file is damaged or hostile"
