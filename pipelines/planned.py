"""The deployments of a home as its Prefect server knows them: found, told apart, given runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Scheduled

from pipelines.schedules import MANUAL, TAG

CHUNK = 200
MISSED = "Missed"


def our_deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """Return every deployment that `medml up` registered."""
    found: list[DeploymentResponse] = []
    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    while part := client.read_deployments(deployment_filter=wanted, limit=CHUNK, offset=len(found)):
        found += part
    return found


def planned_deployments(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Return the deployments of schedules and triggers by their names."""
    return {item.name: item for item in our_deployments(client) if item.name != MANUAL}


def runs(
    client: SyncPrefectClient,
    deployments: Iterable[DeploymentResponse] | None,
    *states: StateType,
    most: int = 1000,
    between: tuple[datetime, datetime] | None = None,
) -> list[FlowRun]:
    """Return flow runs that are part of no other, the newest first.

    Parameters
    ----------
    deployments : iterable, optional
        Only theirs; None: of any, and of none.
    states : StateType
        Only in these; none given: in any.
    between : (datetime, datetime), optional
        Only those expected to start from the first time up to the second.
    """
    options: dict[str, Any] = {"parent_task_run_id": FlowRunFilterParentTaskRunId(is_null_=True)}
    if deployments is not None:
        options["deployment_id"] = FlowRunFilterDeploymentId(any_=[item.id for item in deployments])
    if states:
        options["state"] = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
    if between:
        options["expected_start_time"] = FlowRunFilterExpectedStartTime(after_=between[0], before_=between[1])
    wanted = FlowRunFilter(**options)
    found: list[FlowRun] = []
    while len(found) < most:
        part = client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=CHUNK, offset=len(found)
        )
        found += part
        if len(part) < CHUNK:
            break
    return found[:most]


def children(client: SyncPrefectClient, run: FlowRun, *states: StateType) -> list[FlowRun]:
    """Return the runs of flows that a run has called itself, in these states."""
    wanted = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
    )
    return client.read_flow_runs(flow_run_filter=wanted, limit=CHUNK)


def plan_runs(
    client: SyncPrefectClient, deployment: DeploymentResponse, times: Sequence[datetime], *, why: str
) -> list[datetime]:
    """Give a deployment runs for times at which it has none; return those times.

    Parameters
    ----------
    times : sequence of datetime
        When they were or are due, ascending; those in the past start at once.
    why : str
        A tag that says where they come from.
    """
    if not times:
        return []
    known = runs(client, [deployment], between=(times[0], times[-1]))
    taken = {_minute(run.expected_start_time) for run in known if run.expected_start_time and run.state_name != MISSED}
    new = [due for due in times if _minute(due) not in taken]
    for due in new:
        client.create_flow_run_from_deployment(
            deployment.id,
            state=Scheduled(scheduled_time=due.astimezone(UTC), message=f"{why}: was due at {_minute(due)}"),
            idempotency_key=f"{deployment.name} {_minute(due)} {why}",
            tags=[why],
        )
    return new


def call_off(client: SyncPrefectClient, run: FlowRun) -> None:
    """Give a run that nobody was there to start a final state that says so."""
    state: State[Any] = Cancelled(
        name=MISSED, message="nobody served the flows when it was due; medml schedule backfill runs it"
    )
    client.set_flow_run_state(run.id, state, force=True)


def _minute(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="minutes")
