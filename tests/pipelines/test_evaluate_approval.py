"""A person has the last word: a paused flow run on a real Prefect server, resumed through its client, or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prefect import flow

from medml.records.home import Home
from medml.records.report import Decision
from pipelines import promote
from pipelines.server import connected, prefect_server
from pipelines.settings import prepare

RULE = {"rule": "non-inferior auroc", "value": 0.01, "limit": -0.02, "passed": True, "reason": "fine"}
DECISION = Decision(
    promoted=True,
    model="m",
    challenger="m/2",
    champion="m/1",
    test_digest="e",
    rules=(RULE,),
    reason="promoted: all 1",
    decided="2026-01-01T00:00:00+00:00",
)


@flow(name="asks")
def asks(minutes: float) -> dict[str, Any]:
    return promote.ask_person(DECISION, minutes).model_dump()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A real server of a home of its own; the environment is put back afterwards."""
    before, poll = dict(os.environ), promote.POLL_SECONDS
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    home = Home(tmp_path_factory.mktemp("home"))
    prepare(home)
    promote.POLL_SECONDS = 1
    with prefect_server(home) as url:
        yield url
    promote.POLL_SECONDS = poll
    os.environ.clear()
    os.environ.update(before)


def _answer(url: str, answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Resume the paused run with each answer, as Prefect's form does; return what the server made of each."""
    from prefect.client.orchestration import get_client

    with connected(url), get_client(sync_client=True) as client:
        deadline = time.monotonic() + 240
        while not (paused := [run for run in client.read_flow_runs() if run.state and run.state.is_paused()]):
            assert time.monotonic() < deadline, "no run was paused within four minutes"
            time.sleep(0.3)
        time.sleep(1)  # the form is saved after the pause
        return [client.resume_flow_run(paused[0].id, run_input=dict(given)).status.value for given in answers]


@pytest.mark.timeout(600)
def test_nobody_answers_and_nothing_is_promoted(server: str) -> None:
    decision = asks(0.05)
    assert (decision["promoted"], decision["signature"]) == (False, None)
    assert decision["reason"].startswith("not promoted: nobody answered within 0.05 minutes")


@pytest.mark.timeout(600)
def test_a_person_approves_and_an_answer_without_a_name_is_not_taken(server: str) -> None:
    said = {"approve": True, "reason": "looked at 20 cases"}
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(_answer, server, [said, {**said, "name": "A. Reader"}])
        decision = asks(5)
        assert answered.result() == ["REJECT", "ACCEPT"]
    assert decision["promoted"] is True
    assert decision["signature"]["name"] == "A. Reader"
    assert decision["reason"] == "promoted: all 1; approved by A. Reader: looked at 20 cases"
