"""Scans read in limited child processes: what is lost with a child is one scan."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.catalogue import workers as workers_module
from medml.catalogue.config import IngestConfig
from medml.catalogue.ingest import allowance
from medml.catalogue.pairs import reader
from medml.catalogue.staging import Ready
from medml.catalogue.worker import Allowance
from medml.catalogue.workers import Workers
from medml.errors import MedmlError
from medml.io.files import Pseudonyms
from medml.records.candidate import Candidate
from medml.records.scan import Outcome

ALLOWANCE = Allowance(memory_bytes=3 << 30, seconds=30)


def candidate(read: Callable[[], Any], name: str = "a", **changes: Any) -> Candidate:
    """A candidate whose reader is anything that can be sent to another process."""
    return Candidate(name, 1, name, name, read, ("", name), name, name, **changes)


@pytest.fixture
def pool(tmp_path: Path) -> Callable[..., Workers]:
    (tmp_path / "work").mkdir()

    def make(allowed: Allowance = ALLOWANCE, *, isolated: bool = True) -> Workers:
        return Workers(tmp_path / "work", "c", Pseudonyms(tmp_path / "key"), allowed, isolated=isolated)

    return make


@pytest.mark.parametrize(
    ("read", "code", "words"),
    [
        (os.abort, "decoder_crashed", "SIGABRT"),
        (partial(ctypes.string_at, 0), "decoder_crashed", "SIGSEGV"),
        (partial(os._exit, 3), "decoder_crashed", "exit code 3"),
        (partial(bytearray, 1 << 40), "memory", "not enough memory"),
        (partial(max, itertools.repeat(1)), "timeout", "more time than one scan may"),
        (partial(time.sleep, 60), "timeout", "no answer within 2 s"),
        (partial(signal.raise_signal, signal.SIGKILL), "memory", "ran out of memory"),
        (partial(int, "x"), "undecodable", "ValueError"),
    ],
)
def test_whatever_a_decoder_does_costs_its_scan_only(pool, source, read, code: str, words: str) -> None:
    good = reader(source.image("a.nii.gz"))
    seconds = 0.2 if "2 s" in words else 1
    with pool(Allowance(memory_bytes=3 << 30, seconds=seconds)) as workers:
        entries = workers.read([candidate(good, "a"), candidate(read, "b"), candidate(good, "c")])
    first, bad, last = entries
    assert isinstance(first, Ready)
    assert isinstance(last, Ready)
    assert first.staged.scan.content == last.staged.scan.content
    assert isinstance(bad, Outcome)
    assert (bad.source, bad.outcome, bad.code) == ("b", "refused", code)
    assert words in bad.reason


def test_a_child_gives_what_this_process_would(pool, source, tmp_path: Path) -> None:
    read = reader(source.image("images/a.nii.gz"), source.mask("labels/a.nii.gz"))
    found = {}
    for isolated in (True, False):
        with pool(isolated=isolated) as workers:
            (entry,) = workers.read([candidate(read)])
        assert isinstance(entry, Ready)
        found[isolated] = entry.staged
    assert found[True].scan == found[False].scan
    assert found[True].annotations == found[False].annotations
    names = sorted(os.listdir(found[True].folder))
    assert names == ["annotations.json", "image.nii.gz", "mask.nii.gz", "scan.json"]
    for name in names:
        assert (found[True].folder / name).read_bytes() == (found[False].folder / name).read_bytes()


def test_a_source_that_changes_while_it_is_read_is_refused(pool, source) -> None:
    path = source.image("a.nii.gz")
    status = path.stat()
    seen = ((str(path), status.st_size, status.st_mtime_ns),)
    with pool(isolated=False) as workers:
        (entry,) = workers.read([candidate(reader(path), seen=seen)])
        assert isinstance(entry, Ready)
        os.utime(path, ns=(0, 1))
        (entry,) = workers.read([candidate(reader(path), seen=seen)])
        assert isinstance(entry, Outcome)
        assert entry.code == "source_changed"
        assert "wait until the source is complete" in entry.reason


def test_a_home_that_cannot_be_written_to_ends_the_ingest(pool, source, tmp_path: Path) -> None:
    read = reader(source.image("a.nii.gz"))
    (tmp_path / "work").rmdir()
    with pool() as workers, pytest.raises(MedmlError, match="the home cannot be written to"):
        workers.read([candidate(read)])


def test_no_process_to_decode_in_is_said_and_not_silently_done_without(pool, source, monkeypatch) -> None:
    read = reader(source.image("a.nii.gz"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pool() as workers, pytest.raises(MedmlError, match=r"could be started \(No such file.*isolated: false"):
        workers.read([candidate(read)])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pool() as workers, pytest.raises(MedmlError, match="it ended at once"):
        workers.read([candidate(read)])
    with pool(isolated=False) as workers:
        assert isinstance(workers.read([candidate(read)])[0], Ready)


def test_nothing_is_started_when_nothing_is_to_be_read(source, desk, monkeypatch) -> None:
    source.image("a.nii.gz")
    desk.ingest(source.root)
    monkeypatch.setattr(workers_module, "_Nursery", lambda: pytest.fail("a process was started"))
    assert desk.ingest(source.root).counts.known == 1


def test_a_stop_does_not_wait_for_what_is_being_read(pool) -> None:
    workers = pool()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            workers.read([candidate(partial(time.sleep, 100))])
        except MedmlError as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while not workers.busy:
        time.sleep(0.02)
    workers.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_a_childs_limits_are_the_configured_ones_or_follow_the_machine() -> None:
    assert allowance(IngestConfig(memory_gb=5, seconds_per_scan=7)) == Allowance(5 << 30, 7)
    assert allowance(IngestConfig()).memory_bytes >= 2 << 30
    large = candidate(os.getpid, seen=(("x", 10 << 20, 0), ("folder", -1, 0)))
    assert ALLOWANCE.seconds_for(large) == 40


def test_the_current_folder_offers_no_modules_to_a_child(pool, source, monkeypatch) -> None:
    read = reader(source.image("a.nii.gz"))
    source.text("nibabel.py", "raise SystemExit('hostile')")
    monkeypatch.chdir(source.root)
    with pool() as workers:
        assert isinstance(workers.read([candidate(read)])[0], Ready)


def test_voxels_over_the_allowance_are_refused_as_memory(pool, source) -> None:
    path = source.nifti("a.nii.gz", np.zeros((1, 512, 512, 512), np.int16))
    with pool(Allowance(memory_bytes=900 << 20, seconds=60)) as workers:
        (entry,) = workers.read([candidate(reader(path))])
    assert isinstance(entry, Outcome)
    assert entry.code in ("memory", "compression_bomb")
