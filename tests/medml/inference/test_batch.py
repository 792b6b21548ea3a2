from __future__ import annotations

import dataclasses
import re
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.errors import MedmlError, Refusal
from medml.inference.batch import Stages, finished, run_batch
from medml.io.files import sha256_file
from medml.records.batch import Job, LedgerRow, Prediction, Written
from medml.records.candidate import Candidate, Reading
from medml.records.scan import Outcome, SourceGrid, Volume

GRID = SourceGrid(
    shape=(1, 1, 1),
    affine=tuple(tuple(float(v) for v in row) for row in np.eye(4)),
    axes=(0, 1, 2),
    flips=(False, False, False),
)


DOING = {
    "read": "reading the scan",
    "prepare": "preparing the scan",
    "infer": "running the model",
    "restore": "restoring the result",
    "write": "writing the result",
}


def candidate(name: str) -> Candidate:
    reading = Reading(Volume(np.zeros((1, 1, 1, 1)), np.eye(4)), GRID)
    return Candidate(
        source=name,
        files=1,
        identity=name,
        stamp=f"stamp-{name}",
        read=lambda: reading,
        patient=("", "SECRET^NAME"),
        study="",
        group="",
    )


class Honest:
    """Honest stages that note what was asked of them; an entry in ``broken`` makes a stage raise for a source."""

    def __init__(self, broken: dict[tuple[str, str], BaseException] | None = None) -> None:
        self.broken = broken or {}
        self.calls: list[tuple[str, str]] = []
        self.recorded: list[LedgerRow] = []

    def note(self, stage: str, source: str) -> None:
        self.calls.append((stage, source))
        if (stage, source) in self.broken:
            raise self.broken[stage, source]

    def read(self, one: Candidate) -> Job:
        self.note("read", one.source)
        return Job(f"id-{one.source}", one.source, one.read(), input_digest=f"digest-{one.source}")

    def prepare(self, job: Job) -> str:
        self.note("prepare", job.source)
        return job.source

    def infer(self, source: str) -> str:
        self.note("infer", source)
        return source

    def restore(self, source: str) -> Prediction:
        self.note("restore", source)
        return Prediction(mask=np.zeros((1, 1, 1), dtype=np.uint8), uncertainty=0.5)

    def write(self, job: Job, prediction: Prediction) -> Written:
        self.note("write", job.source)
        return Written(f"masks/{job.scan_id}.nii.gz", {}, {"uncertainty": prediction.uncertainty})

    @property
    def stages(self) -> Stages:
        return Stages(self.read, self.prepare, self.infer, self.restore, lambda *given: self.write(*given))

    def run(self, candidates: Any, done: dict[str, LedgerRow] | None = None, **more: Any) -> dict[str, int]:
        return run_batch(
            candidates,
            self.stages,
            done=done or {},
            record=self.recorded.append,
            model="organ",
            model_digest="m1",
            **more,
        )


def test_every_scan_ends_in_one_row_in_order() -> None:
    stages, told = Honest(), []
    counts = stages.run([candidate(name) for name in "abcde"], on_row=told.append)
    assert counts == {"done": 5, "failed": 0, "refused": 0, "needs_review": 0, "skipped": 0}
    assert [row.source for row in stages.recorded] == list("abcde")
    assert told == stages.recorded
    row = stages.recorded[0]
    assert (row.scan_id, row.status, row.mask) == ("id-a", "done", "masks/id-a.nii.gz")
    assert (row.model, row.model_digest, row.input_digest, row.stamp) == ("organ", "m1", "digest-a", "stamp-a")
    assert row.result == {"uncertainty": 0.5}
    assert row.started.endswith("+00:00")
    assert row.finished >= row.started


@pytest.mark.parametrize("stage", list(DOING))
def test_one_failing_scan_stops_nothing_and_its_text_stays_out(stage: str) -> None:
    stages = Honest({(stage, "b"): ValueError("/pacs/SECRET^NAME.dcm is odd")})
    counts = stages.run([candidate(name) for name in "abc"])
    assert (counts["done"], counts["failed"]) == (2, 1)
    row = stages.recorded[1]
    assert (row.source, row.status, row.code) == ("b", "failed", "failed")
    assert row.reason.startswith(f"ValueError while {DOING[stage]} (medml/inference/batch.py, line ")
    assert "SECRET" not in row.model_dump_json()


def test_a_refusal_keeps_its_code_and_reason() -> None:
    outcome = Outcome(source="x", outcome="refused", code="missing_slice", reason="slice 4 is missing")
    ignored = Outcome(source="notes.txt", outcome="ignored", code="not_an_image")
    stages = Honest({("infer", "b"): Refusal("channels", "found 1 channel, expected 2")})
    counts = stages.run([outcome, ignored, candidate("b")])
    assert counts["refused"] == 2
    assert [(r.source, r.code, r.reason) for r in stages.recorded] == [
        ("x", "missing_slice", "slice 4 is missing"),
        ("b", "channels", "found 1 channel, expected 2"),
    ]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), "memory", "MemoryError while running the model: out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "memory",
            "RuntimeError while running the model: out of memory",
        ),
        (MedmlError("the disk is full"), "failed", "the disk is full"),
    ],
)
def test_our_own_words_and_lack_of_memory_are_named(error: Exception, code: str, reason: str) -> None:
    stages = Honest({("infer", "a"): error})
    stages.run([candidate("a")])
    assert (stages.recorded[0].code, stages.recorded[0].reason) == (code, reason)


def test_an_unforeseen_error_says_where_in_our_code_and_not_what_it_said() -> None:
    stages = Honest({("infer", "a"): KeyError("Doe^Jane")})
    stages.run([candidate("a")])
    reason = stages.recorded[0].reason
    assert re.fullmatch(r"KeyError while running the model \(medml/inference/batch\.py, line \d+\)", reason)


def test_finished_work_is_not_done_again() -> None:
    first = Honest()
    first.run([candidate("a"), candidate("b")])
    done = {row.stamp: row for row in first.recorded}
    second, told = Honest(), []
    counts = second.run([candidate(name) for name in "abc"], done, on_row=told.append)
    assert (counts["skipped"], counts["done"]) == (2, 1)
    assert [source for stage, source in second.calls if stage == "read"] == ["c"]
    assert [row.source for row in second.recorded] == ["c"]
    assert [row.source for row in told] == ["a", "b", "c"]


def test_a_scan_that_moved_is_known_by_its_content_and_renamed() -> None:
    earlier = LedgerRow(
        source="old", scan_id="id-a", status="done", input_digest="digest-a", stamp="s0", model_digest="m1"
    )
    stages = Honest()
    assert stages.run([candidate("a")], {"id-a": earlier})["skipped"] == 1
    assert stages.calls == [("read", "a")]
    assert stages.recorded == [earlier.model_copy(update={"source": "a", "stamp": "stamp-a"})]
    changed = earlier.model_copy(update={"input_digest": "other"})
    assert Honest().run([candidate("a")], {"id-a": changed})["done"] == 1


def test_reading_network_and_writing_overlap() -> None:
    stages = Honest()
    threads: dict[str, str] = {}
    original = stages.note

    def slow(stage: str, source: str) -> None:
        threads[stage] = threading.current_thread().name
        time.sleep(0.03)
        original(stage, source)

    stages.note = slow  # type: ignore[method-assign]
    started = time.perf_counter()
    stages.run([candidate(str(n)) for n in range(10)])
    assert time.perf_counter() - started < 0.8 * 10 * 5 * 0.03
    assert threads["read"] == threads["prepare"] == "read"
    assert threads["infer"] == threading.current_thread().name
    assert threads["restore"] == threads["write"] == "write"


def test_nothing_of_a_scan_is_held_while_waiting_for_the_next() -> None:
    stages, held = Honest(), []
    arrays: list[weakref.ref[np.ndarray]] = []

    def infer(source: str) -> np.ndarray:
        made = np.zeros(1)
        arrays.append(weakref.ref(made))
        return made

    def slow() -> Iterator[Candidate]:
        yield candidate("a")
        while not stages.recorded:
            time.sleep(0.01)
        time.sleep(0.05)
        held.append(arrays[0]())
        yield candidate("b")

    whole = dataclasses.replace(
        stages.stages, infer=infer, restore=lambda made: Prediction(uncertainty=float(made.sum()))
    )
    run_batch(slow(), whole, done={}, record=stages.recorded.append)
    assert held == [None]


def test_few_scans_are_in_memory_at_once() -> None:
    stages = Honest()
    ahead = 0

    def counted() -> Iterator[Candidate]:
        nonlocal ahead
        for number in range(30):
            ahead = max(ahead, number - len(stages.recorded))
            yield candidate(str(number))

    original = stages.write

    def slow(job: Job, prediction: Prediction) -> Written:
        time.sleep(0.01)
        return original(job, prediction)

    stages.write = slow  # type: ignore[method-assign]
    stages.run(counted())
    assert ahead <= 6


@pytest.mark.parametrize("stage", list(DOING))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_is_passed_on_after_what_is_finished_is_stored(stage: str, error: BaseException) -> None:
    stages = Honest({(stage, "c"): error})
    with pytest.raises(type(error)):
        stages.run([candidate(name) for name in "abcdefgh"])
    written = [source for step, source in stages.calls if step == "write" and (stage, source) != ("write", "c")]
    assert [row.source for row in stages.recorded] == written
    assert "h" not in written
    assert threading.active_count() == 1 or all(t.name not in ("read", "write") for t in threading.enumerate())


def test_a_ledger_that_cannot_be_written_ends_the_batch() -> None:
    stages = Honest()

    def lost(_: LedgerRow) -> None:
        raise MedmlError("the lease was taken over")

    with pytest.raises(MedmlError, match="the lease was taken over"):
        run_batch(
            [candidate(name) for name in "abcdefgh"],
            stages.stages,
            done={},
            record=lost,
        )
    assert ("infer", "h") not in stages.calls


def test_a_walk_that_breaks_ends_the_batch() -> None:
    def walk() -> Iterator[Candidate]:
        yield candidate("a")
        raise MedmlError("the source folder is gone")

    with pytest.raises(MedmlError, match="the source folder is gone"):
        Honest().run(walk())


def test_only_whole_work_of_the_same_model_is_finished(tmp_path: Path) -> None:
    mask = tmp_path / "masks" / "a.nii.gz"
    mask.parent.mkdir()
    mask.write_bytes(b"mask")
    row = LedgerRow(
        source="a",
        scan_id="a",
        status="done",
        stamp="s",
        model_digest="m1",
        outputs={"masks/a.nii.gz": sha256_file(mask)},
    )
    assert finished([row], tmp_path, "m1") == {"a": row, "s": row}
    assert finished([row], tmp_path, "m2") == {}
    assert finished([row.model_copy(update={"status": "failed"})], tmp_path, "m1") == {}
    mask.write_bytes(b"changed")
    assert finished([row], tmp_path, "m1") == {}
    mask.unlink()
    assert finished([row], tmp_path, "m1") == {}
