"""Count the task runs that this process makes, and wait until the Prefect server has stored them all.

Prefect reports task runs as events, which the server writes in the background: a server stopped at once loses the
last ones. This process remembers every task run it reports, so that the end of a verb can compare.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, TaskRunFilter
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import TaskRunSort
from prefect.events.clients import AssertingPassthroughEventsClient
from prefect.events.schemas.events import Event
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.states import Crashed

from pipelines.server import process_ended

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
CHUNK = 200

Key = tuple[str, str, str]


def remember_task_runs() -> None:
    """Let this process's events go through Prefect's client that keeps what it has sent."""
    AssertingPassthroughEventsClient.reset()
    EventsWorker.set_client_override(AssertingPassthroughEventsClient)


def wait_until_stored(timeout: float = 20.0) -> int:
    """Send what is still queued, then wait until the server holds every task run made here in its last state.

    Returns
    -------
    int
        How many are still missing when the time is up; 0 as a rule.
    """
    deadline = time.monotonic() + timeout
    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=max(0.0, deadline - time.monotonic()), at_exit=False)
    EventsWorker.set_client_override(None)
    made = _made()
    missing = _missing(made)
    while missing and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        missing = _missing(made)
    if missing:
        logger.warning(
            "%d of %d task runs are not in Prefect's history after %.0f s",
            missing,
            len(made),
            timeout,
        )
    return missing


def mark_unfinished_as_crashed(*, everything: bool = True) -> int:
    """Give flow runs that claim to be under way the state Crashed; return how many.

    Parameters
    ----------
    everything : bool
        All of them, because nobody can be running one; else those whose process is known and gone.
    """
    under_way = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(
                any_=[StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
            )
        )
    )
    with get_client(sync_client=True) as client:
        dead = [run for run in _all_runs(client, under_way) if everything or process_ended(run.tags)]
        for run in dead:
            client.set_flow_run_state(run.id, Crashed(message="the process ended without a word"), force=True)
    return len(dead)


def _all_runs(client: Any, wanted: FlowRunFilter) -> list[Any]:
    found: list[Any] = []
    while part := client.read_flow_runs(flow_run_filter=wanted, limit=CHUNK, offset=len(found)):
        found += part
    return found


def _made() -> dict[Key, str]:
    """Return the last state of each task run that this process has reported."""
    made: dict[Key, str] = {}
    for client in AssertingPassthroughEventsClient.all:
        for event in client.events:
            if event.event.startswith("prefect.task-run."):
                made[_key(event)] = event.resource["prefect.state-type"]
    return made


def _key(event: Event) -> Key:
    """A retried flow reports the same task under a new id: flow run, task and turn together name one row."""
    flow_run = next((related.id for related in event.related if related.role == "flow-run"), "")
    run = event.payload["task_run"]
    return (
        flow_run.removeprefix("prefect.flow-run."),
        run["task_key"],
        run["dynamic_key"],
    )


def _missing(made: dict[Key, str]) -> int:
    try:
        stored = _stored({flow_run for flow_run, _, _ in made if flow_run})
    except httpx.HTTPError as error:
        logger.debug("the Prefect server did not say what it holds: %s", error)
        stored = {}
    return sum(1 for key, state in made.items() if key[0] and stored.get(key) != state)


def _stored(flow_runs: set[str]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    if not flow_runs:
        return found
    with get_client(sync_client=True) as client:
        offset = 0
        wanted = TaskRunFilter.model_validate({"flow_run_id": {"any_": sorted(UUID(run) for run in flow_runs)}})
        while True:
            runs: list[Any] = client.read_task_runs(
                task_run_filter=wanted,
                sort=TaskRunSort.ID_DESC,
                limit=CHUNK,
                offset=offset,
            )
            for run in runs:
                found[(str(run.flow_run_id), run.task_key, run.dynamic_key)] = run.state_type.value
            offset += len(runs)
            if len(runs) < CHUNK:
                return found
