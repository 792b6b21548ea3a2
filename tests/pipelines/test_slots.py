"""How many work at a device, and speak with a PACS, at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event, Thread

import pytest

from pipelines import slots


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDML_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDML_CATALOGUE_URL", raising=False)
    monkeypatch.setattr(slots, "LEASE_POLL_SECONDS", 0.01)


def enters(slot: AbstractContextManager[object]) -> tuple[Thread, Event]:
    """Wait for a slot in another thread, and give it back at once."""
    entered = Event()

    def work() -> None:
        with slot:
            entered.set()

    thread = Thread(target=work)
    thread.start()
    return thread, entered


def test_a_second_conversation_with_a_pacs_waits_and_other_archives_do_not() -> None:
    with slots.pacs_slot("hospital"):
        other, at_once = enters(slots.pacs_slot("clinic"))
        assert at_once.wait(60)
        second, entered = enters(slots.pacs_slot("hospital"))
        assert not entered.wait(0.5)
    assert entered.wait(60)
    for thread in (other, second):
        thread.join()


def test_a_cpu_bears_two_and_the_third_waits() -> None:
    with slots.device_slot("cpu"):
        with slots.device_slot("cpu"):
            third, entered = enters(slots.device_slot("cpu"))
            assert not entered.wait(0.5)
        assert entered.wait(60)
        third.join()
