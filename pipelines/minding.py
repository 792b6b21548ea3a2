"""What is looked after while the flows are served: crashed runs, arrivals in the inbox, schedules, alerts.

Everything here is done again at the next look, and does nothing where nothing is to be done: a look that a killed
server or process cuts off loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.schemas.events import Event, Resource
from prefect.states import AwaitingRetry, Cancelled, Crashed

from medml.records.home import Home
from pipelines.alerts import Alert, AlertsConfig, deliver
from pipelines.arrivals import look, settle
from pipelines.history import mark_unfinished_as_crashed
from pipelines.planned import call_off, children, our_deployments, plan_runs, planned_deployments, runs
from pipelines.schedules import STUDY_COMPLETE, SchedulesConfig, TriggerConfig
from pipelines.served import CATCH_UP, Gap, begin_serving, missed, note_served, paused_names

logger = logging.getLogger(__name__)

MOST_CRASHES = 5
FIRST_PAUSE_SECONDS = 5.0
GRACE = timedelta(seconds=60)
LOOK_BACK = timedelta(days=1)
UNDER_WAY = (StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING)


def end_orphans(home: Home) -> int:
    """End processes that run flows of this home for nobody: whoever started them was killed."""
    here = str(home.root.resolve())
    orphans = [process for process, known in _flow_processes(psutil.process_iter()) if known[1] == here]
    for process in orphans:
        process.kill()
    psutil.wait_procs(orphans, timeout=10)
    return len(orphans)


def take_over(home: Home, schedules: Path, wanted: SchedulesConfig) -> None:
    """Begin to serve: runs that died with an earlier process, and what was due while nobody served, get their state.

    The deployments are registered, and nothing of theirs runs yet.
    """
    now = datetime.now(UTC)
    gap = begin_serving(home, schedules, now)
    with get_client(sync_client=True) as client:
        for run in runs(client, our_deployments(client), *UNDER_WAY):
            _end_dead(client, run)
        _catch_up(home, client, wanted, gap, now)


def mind(home: Home, wanted: SchedulesConfig, alerts: AlertsConfig | None) -> None:
    """Look once at everything; see the module."""
    now = datetime.now(UTC)
    note_served(home, now)
    mark_unfinished_as_crashed(everything=False)
    with get_client(sync_client=True) as client:
        _end_lost(client, now)
        _restart_crashed(client, now)
        paused = paused_names(home)
        for trigger in wanted.triggers:
            if trigger.enabled and trigger.name not in paused:
                _announce(home, client, trigger, now)
        if alerts:
            deliver(home, alerts, [*_alerts(client, now), *_missed_alerts(home, wanted, now)])


def _flow_processes(among: Iterator[psutil.Process]) -> list[tuple[psutil.Process, tuple[str, str]]]:
    """Return the processes that run a deployed flow, each with its flow run's id and its home."""
    found = []
    for process in among:
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if run := environment.get("PREFECT__FLOW_RUN_ID"):
            found.append((process, (run, environment.get("MEDML_HOME", ""))))
    return found


def _end_dead(client: SyncPrefectClient, run: FlowRun) -> None:
    """Give a run that no process runs its true state: cancelled if somebody had asked for that, else crashed."""
    _end_children(client, run)
    asked = run.state_type == StateType.CANCELLING
    message = "the process that ran it is gone"
    client.set_flow_run_state(run.id, Cancelled(message=message) if asked else Crashed(message=message), force=True)


def _end_children(client: SyncPrefectClient, run: FlowRun) -> None:
    """End the runs that a dead run had called itself: they ran in its process."""
    for child in children(client, run, *UNDER_WAY):
        _end_dead(client, child)


def _catch_up(home: Home, client: SyncPrefectClient, wanted: SchedulesConfig, gap: Gap | None, now: datetime) -> None:
    """Run what a short gap delayed; call off what a long one missed, for a week of nights is not run at once."""
    deployments = planned_deployments(client)
    if gap and not gap.long:
        paused = paused_names(home)
        for schedule in wanted.schedules:
            if schedule.enabled and schedule.name not in paused:
                plan_runs(client, deployments[schedule.name], gap.due(schedule), why="caught up")
    for run in runs(client, deployments.values(), StateType.SCHEDULED):
        due = run.expected_start_time
        if run.auto_scheduled and run.run_count == 0 and due and due < now - CATCH_UP:
            call_off(client, run)


def _end_lost(client: SyncPrefectClient, now: datetime) -> None:
    """Mark runs as crashed that claim to be under way here and have no process; the server was away when it ended."""
    alive = {known[0] for _, known in _flow_processes(iter(psutil.Process().children(recursive=True)))}
    for run in runs(client, our_deployments(client), *UNDER_WAY):
        if str(run.id) not in alive and run.state and run.state.timestamp < now - GRACE:
            _end_dead(client, run)


def _restart_crashed(client: SyncPrefectClient, now: datetime) -> None:
    """Plan crashed runs again, later each time; they go on from the ledger, the checkpoints and the digests."""
    for run in runs(client, our_deployments(client), StateType.CRASHED, between=(now - LOOK_BACK, now)):
        _end_children(client, run)
        crashes = _crashes(client, run)
        if crashes < MOST_CRASHES:
            due = now + timedelta(seconds=FIRST_PAUSE_SECONDS * 2 ** (crashes - 1))
            state: State[Any] = AwaitingRetry(
                scheduled_time=due, message=f"it crashed {crashes} times; it goes on from where it was"
            )
            client.set_flow_run_state(run.id, state, force=True)


def _crashes(client: SyncPrefectClient, run: FlowRun) -> int:
    return sum(state.type == StateType.CRASHED for state in client.read_flow_run_states(run.id))


def _announce(home: Home, client: SyncPrefectClient, trigger: TriggerConfig, now: datetime) -> None:
    """Emit an event for what has arrived and is complete, until a run has dealt with it."""
    deployment = planned_deployments(client).get(trigger.name)
    begun = runs(client, [deployment], between=(now - LOOK_BACK, now + LOOK_BACK)) if deployment else []
    by_state: dict[bool, set[str]] = {True: set(), False: set()}
    for run in begun:
        if run.state_type != StateType.FAILED:
            ended = run.state_type in (StateType.COMPLETED, StateType.CANCELLED)
            by_state[ended].add(str(run.parameters.get("source", "")))
    settle(home, trigger.name, by_state[True], by_state[False], now.timestamp())
    for request in look(home, trigger.name, trigger.quiet_seconds, now.timestamp()):
        resource = Resource({"prefect.resource.id": request, "medml.trigger": trigger.name})
        event = Event(event=STUDY_COMPLETE, resource=resource, occurred=now)
        client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def _alerts(client: SyncPrefectClient, now: datetime) -> list[Alert]:
    """Return what people may want to know of the last day's runs."""
    lately = (now - LOOK_BACK, now)
    crashed = runs(client, None, StateType.CRASHED, between=lately)
    told = {
        ("failed", "failed"): runs(client, None, StateType.FAILED, between=lately),
        ("crashed", "crashed and is not started again"): [run for run in crashed if _given_up(client, run)],
        ("late", "is late"): [
            run for run in runs(client, None, StateType.SCHEDULED, between=lately) if run.state_name == "Late"
        ],
        ("waiting", "waits for a person's answer"): runs(client, None, StateType.PAUSED),
    }
    return [_alert(client, run, reason, words) for (reason, words), found in told.items() for run in found]


def _given_up(client: SyncPrefectClient, run: FlowRun) -> bool:
    return run.deployment_id is None or _crashes(client, run) >= MOST_CRASHES


def _alert(client: SyncPrefectClient, run: FlowRun, reason: str, words: str) -> Alert:
    """Tell of a run by its flow and the name that Prefect gave it; both hold opaque names only."""
    flow = client.read_flow(run.flow_id).name
    page = f"{str(client.api_url).removesuffix('/').removesuffix('/api')}/runs/flow-run/{run.id}"
    due = run.expected_start_time.isoformat(timespec="minutes") if run.expected_start_time else "unknown"
    text = f"The run of flow {flow} that was due at {due} {words}.\nIts page: {page}"
    return Alert(key=f"{reason}:{run.id}", reason=reason, subject=f"medml: {flow} {words}", text=text)


def _missed_alerts(home: Home, wanted: SchedulesConfig, now: datetime) -> list[Alert]:
    found = missed(home, wanted.schedules, now, days=LOOK_BACK.days)
    return [
        Alert(
            key=f"missed:{name}:{due}",
            reason="missed",
            subject=f"medml: schedule {name} was missed",
            text=f"Schedule {name} was due at {due}, when nobody served the flows. medml schedule backfill runs it.",
        )
        for name, due in found
    ]
