"""The process that decodes: run by `workers` as ``python -m medml.catalogue.worker``, with limits on what it may take.

The first process imports the decoders once and then only forks, on request, children that do the reading, so that a
child that a hostile file has killed is replaced in milliseconds. Everything goes when the parent does: its end of the
socket closes.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

# Imported for the children's sake: what they need is in memory before they are forked.
import medml.catalogue.dicom_folder
import medml.catalogue.pairs  # noqa: F401
from medml.catalogue.quality_rules import QualityLimits
from medml.catalogue.staging import Job, as_json, stage
from medml.errors import MedmlError
from medml.io.files import Pseudonyms

FORK, WAIT = b"f", b"w"
MAX_FILE_BYTES = 16 << 30


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one child may take.

    Attributes
    ----------
    memory_bytes : int
        Address space.
    seconds : float
        Of the processor, for one scan, before what its size adds (one second a megabyte).
    """

    memory_bytes: int
    seconds: float

    def seconds_for(self, candidate: Job) -> float:
        """Return how long a candidate may take."""
        return self.seconds + candidate.bytes / (1 << 20)


@dataclass(frozen=True, slots=True)
class Errand:
    """What a child is told once: how to name scans, its limits, and those of the quality findings."""

    collection: str
    pseudonyms: Pseudonyms
    allowance: Allowance
    limits: QualityLimits | None = None


def main() -> None:
    """Fork children until the parent hangs up; the socket is the standard input."""
    control = socket.socket(fileno=os.dup(0))
    _silence()
    gc.freeze()
    control.sendall(b"!")
    children: set[int] = set()
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if request == FORK:
            pid = os.fork()
            if pid == 0:
                control.close()
                _child(descriptors[0])
            os.setpgid(pid, pid)
            os.close(descriptors[0])
            children.add(pid)
            control.sendall(pid.to_bytes(8, "big"))
        elif request == WAIT:
            pid = int.from_bytes(control.recv(8, socket.MSG_WAITALL), "big")
            status = os.waitpid(pid, 0)[1]
            _end(pid)
            children.discard(pid)
            control.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
        else:
            break
    for pid in children:
        _end(pid)
        os.waitpid(pid, 0)


def _end(pid: int) -> None:
    """End a child and what it has started: they are a group of processes of their own."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _silence() -> None:
    """Send what decoders print to nowhere: it may quote the files, and nobody reads it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def _child(descriptor: int) -> None:
    """Serve one connection, then leave without the parent's clean-up."""
    code = 1
    try:
        with Connection(descriptor) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
            _serve(connection)
        code = 0
    finally:
        os._exit(code)


def _serve(connection: Connection) -> None:
    errand: Errand = connection.recv()  # from our own parent
    limit(errand.allowance)
    while True:
        tasks: list[tuple[Job, Path]] = connection.recv()
        for candidate, folder in tasks:
            _limit_time(errand.allowance.seconds_for(candidate))
            connection.send_bytes(_answer(candidate, folder, errand))


def limit(allowance: Allowance) -> None:
    """Set the limits of this process; a core dump would hold pixels, so there is none."""
    resource.setrlimit(resource.RLIMIT_AS, (allowance.memory_bytes, allowance.memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # where the kernel does not offer it, it chooses whom to kill by itself
        Path("/proc/self/oom_score_adj").write_text("900")


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process once it has used so much more of the processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))


def _answer(candidate: Job, folder: Path, errand: Errand) -> bytes:
    """Return the result as JSON: the parent unpickles nothing that comes from here."""
    try:
        answer = as_json(stage(candidate, folder, errand.collection, errand.pseudonyms, errand.limits))
    except MedmlError as error:
        answer = {"failed": str(error)}
    return json.dumps(answer).encode()


if __name__ == "__main__":
    main()
