"""`medml schedule`: what is planned, what ran, what was missed; pause, resume, run now, run for past dates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from medml.errors import ConfigError, NotFound
from medml.records.home import Home
from pipelines.configs import config_folder
from pipelines.parts import Part, read_parts
from pipelines.schedules import PlannedConfig, ScheduleConfig, SchedulesConfig, fire_times, load_schedules
from pipelines.served import missed, paused_names, read_served, set_paused
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

MOST_AT_ONCE = 400


def list_schedules(home: Home) -> VerbResult:
    """Say of every schedule and trigger when it ran last, how that ended, when it is due, and what was missed."""
    wanted = schedules_of(home)
    now = datetime.now(UTC)
    gone = missed(home, wanted.schedules, now)
    lost = {name: [due for other, due in gone if other == name] for name, _ in gone}
    with serving_client(home) as client:
        last = _last_runs(client) if client else {}
    paused = paused_names(home)
    rows = tuple(
        (
            item.name,
            item.flow,
            f"{item.cron} {item.timezone}" if isinstance(item, ScheduleConfig) else "inbox",
            _standing(item, paused),
            last.get(item.name, ("–", "–"))[0] if client else "not served",
            last.get(item.name, ("–", "–"))[1],
            f"{len(lost[item.name])}, last {lost[item.name][0]}" if item.name in lost else "–",
        )
        for item in wanted.planned
    )
    heads = ("name", "flow", "when", "state", "last run", "next run", "missed in 30 days")
    served = read_served(home).until
    return VerbResult(
        verb="schedule list",
        ok=True,
        counts={"schedules": len(wanted.schedules), "triggers": len(wanted.triggers), "missed": len(gone)},
        table=(heads, *rows),
        summary={row[0]: dict(zip(heads[1:], row[1:], strict=True)) for row in rows},
        notes=() if client else (f"nobody serves the flows; last served: {served or 'never'}. Start: medml up",),
    )


def pause(home: Home, name: str, *, paused: bool) -> VerbResult:
    """Pause a schedule or trigger, or let it go on; it stays so across restarts."""
    item = _find(schedules_of(home), name)
    set_paused(home, name, paused)
    with serving_client(home) as client:
        if client:
            _switch(client, name, active=item.enabled and not paused)
    state = (
        "paused" if paused else "active" if item.enabled else "not active: `enabled: false` in configs/schedules.yaml"
    )
    return VerbResult(verb="schedule", ok=True, summary={"schedule": name, "state": state})


def run_now(home: Home, name: str) -> VerbResult:
    """Start a schedule's flow once, now, with the schedule's parameters.

    Raises
    ------
    ConfigError
        If nobody serves the flows, or it is a trigger, which needs something that has arrived.
    """
    item = _find(schedules_of(home), name)
    if not isinstance(item, ScheduleConfig):
        raise ConfigError(f"{name} is a trigger: it starts when something has arrived; put a folder into {home.inbox}")
    with serving_client(home) as client:
        if client is None:
            raise ConfigError("nobody serves the flows of this home, so nothing would start; start: medml up")
        deployment = _deployment(client, name)
        run = client.create_flow_run_from_deployment(deployment, tags=["run now"])
    return VerbResult(verb="schedule", ok=True, summary={"schedule": name, "flow run": str(run.name)})


def backfill(home: Home, name: str, start: datetime, end: datetime) -> VerbResult:
    """Plan a run for every time that a schedule was due from ``start`` up to ``end`` and did not run.

    Raises
    ------
    ConfigError
        If the dates are not in order or in the past, or there are too many times.
    """
    item = _find(schedules_of(home), name)
    now = datetime.now(UTC)
    if not isinstance(item, ScheduleConfig):
        raise ConfigError(f"{name} is a trigger; only schedules have dates to fill")
    if not start < end <= now:
        raise ConfigError(f"backfill from {start} to {end}: expected FROM before TO, and TO not later than now ({now})")
    times = fire_times(item, start, end)
    if len(times) > MOST_AT_ONCE:
        raise ConfigError(f"backfill from {start} to {end}: {len(times)} runs, at most {MOST_AT_ONCE} at once")
    from pipelines.planned import plan_runs, planned_deployments

    with serving_client(home) as client:
        if client is None:
            raise ConfigError("nobody serves the flows of this home, so nothing would start; start: medml up")
        made = plan_runs(client, planned_deployments(client)[name], times, why="backfill")
    return VerbResult(
        verb="schedule",
        ok=True,
        counts={"due": len(times), "had run": len(times) - len(made), "planned": len(made)},
        summary={"schedule": name},
    )


def schedules_of(home: Home) -> SchedulesConfig:
    """Return the schedules that `medml up` used last in this home, else those of ``configs/schedules.yaml``."""
    used = Path(read_served(home).schedules or "/nowhere")
    return load_schedules(used if used.is_file() else config_folder() / "schedules.yaml")


@contextmanager
def serving_client(home: Home) -> Iterator[SyncPrefectClient | None]:
    """Give a client of the home's Prefect server if the flows are served now; else None."""
    from pipelines.server import running_server, use_login

    page = running_server(home) if any(part.alive for part in _serving(home)) else None
    if page is None:
        yield None
        return
    from prefect.client.orchestration import get_client

    from pipelines.server import connected

    use_login(home)
    with connected(f"{page}/api"), get_client(sync_client=True) as client:
        yield client


def _serving(home: Home) -> list[Part]:
    return [part for part in read_parts(home) if part.name == "medml up"]


def _find(wanted: SchedulesConfig, name: str) -> PlannedConfig:
    found = {item.name: item for item in wanted.planned}
    if name not in found:
        raise NotFound(f"no schedule or trigger {name!r}; there are: {', '.join(sorted(found)) or 'none'}")
    return found[name]


def _standing(item: PlannedConfig, paused: frozenset[str]) -> str:
    return "disabled" if not item.enabled else "paused" if item.name in paused else "active"


def _last_runs(client: SyncPrefectClient) -> dict[str, tuple[str, str]]:
    """Return by name how and when the last run stood, and when the next is due."""
    from prefect.client.schemas.objects import StateType

    from pipelines.planned import planned_deployments, runs

    found = {}
    for name, deployment in planned_deployments(client).items():
        past = runs(client, [deployment], most=200)
        begun = [run for run in past if run.state_type != StateType.SCHEDULED or run.state_name == "Late"]
        due = [run.expected_start_time for run in past if run.state_name == "Scheduled" and run.expected_start_time]
        last = f"{begun[0].state_name} {begun[0].expected_start_time:%Y-%m-%d %H:%M}" if begun else "–"
        found[name] = (last, f"{min(due):%Y-%m-%d %H:%M}" if due else "–")
    return found


def _deployment(client: SyncPrefectClient, name: str) -> UUID:
    from pipelines.planned import planned_deployments

    return planned_deployments(client)[name].id


def _switch(client: SyncPrefectClient, name: str, *, active: bool) -> None:
    """Switch the schedules of a deployment, and the automation of a trigger."""
    from pipelines.planned import planned_deployments

    deployment = planned_deployments(client)[name]
    for schedule in deployment.schedules:
        client.update_deployment_schedule(deployment.id, schedule.id, active=active)
    # A trigger's arrivals are not announced while it is paused; see `minding.mind`.
