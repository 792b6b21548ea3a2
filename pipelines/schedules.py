"""``configs/schedules.yaml``: which flow runs when, and the deployments that follow from it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, StringConstraints, field_validator, model_validator

from medml.config import Config, load_config
from medml.errors import ConfigError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events import DeploymentEventTrigger

FLOWS = (
    *(
        f"pipelines.{name}:{name}"
        for name in ("ingest", "dataset", "train", "tune", "evaluate", "promote", "retrain", "predict", "arrive")
    ),
    "pipelines.predict_selection:predict_selection",
    *(f"pipelines.pacs:{name}" for name in ("pacs_pull", "pacs_push", "pacs_round")),
)
MANUAL = "on-demand"
TAG = "medml"
STUDY_COMPLETE = "medml.study.complete"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Parameters = dict[str, str | bool | int | float | None]


class PlannedConfig(Config):
    """A flow that starts on its own, and what it is given.

    Attributes
    ----------
    description : str
        What the Prefect page says of it; default: what the flow says of itself.
    parameters : dict
        The flow's parameters: names of models, datasets and sources; never paths.
    """

    name: Name
    flow: str
    description: str = ""
    parameters: Parameters = {}
    enabled: bool = True


class TriggerConfig(PlannedConfig):
    """A flow that starts when something has arrived; its parameter ``source`` then names that.

    Attributes
    ----------
    when : "inbox"
        A folder or file in HOME/inbox is complete.
    quiet_seconds : float
        It is, when nothing in it has changed for so long.
    """

    when: Literal["inbox"] = "inbox"
    quiet_seconds: Annotated[float, Field(ge=1, le=86400)] = 60.0


class ScheduleConfig(PlannedConfig):
    """A flow that starts by the clock.

    Attributes
    ----------
    cron : str
        Minute, hour, day of month, month, day of week.
    timezone : str
        IANA name, e.g. Europe/Berlin.
    """

    cron: str
    timezone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, text: str) -> str:
        from prefect.client.schemas.schedules import CronSchedule

        wanted = 'expected five fields: minute hour day month weekday, e.g. "0 2 * * *"'
        if len(text.split()) != 5:
            raise ValueError(wanted)
        try:
            return str(CronSchedule(cron=text).cron)
        except ValueError:
            raise ValueError(wanted) from None

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key
        except (KeyError, ValueError, OSError):
            raise ValueError("expected an IANA time zone, e.g. Europe/Berlin") from None


class SchedulesConfig(Config):
    """The whole file."""

    schedules: tuple[ScheduleConfig, ...] = ()
    triggers: tuple[TriggerConfig, ...] = ()

    @model_validator(mode="after")
    def _unique_names(self) -> SchedulesConfig:
        names = [planned.name for planned in self.planned]
        for name in names:
            if names.count(name) > 1 or name == MANUAL:
                raise ValueError(f"the name {name!r} is used twice; each schedule and trigger needs a name of its own")
        return self

    @property
    def planned(self) -> tuple[PlannedConfig, ...]:
        """Schedules, then triggers."""
        return (*self.schedules, *self.triggers)


def load_schedules(path: Path) -> SchedulesConfig:
    """Read the schedules and triggers; every mistake is reported at once, with its key."""
    return load_config(path, SchedulesConfig)


def fire_times(schedule: ScheduleConfig, start: datetime, end: datetime) -> list[datetime]:
    """Return when a schedule is due from ``start`` up to, but not at, ``end``; times carry their zone."""
    from prefect.server.schemas.schedules import CronSchedule

    plan = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    found: list[datetime] = []
    while part := asyncio.run(plan.get_dates(start=start, end=end)):  # a thousand at a time
        found += (due for due in part if start <= due < end)
        start = part[-1] + timedelta(seconds=1)
    return found


def load_flows(places: Iterable[str] = FLOWS) -> dict[str, Flow[..., object]]:
    """Import flows given as ``module:function``; return them by their Prefect names."""
    flows = {}
    for place in places:
        module, _, function = place.partition(":")
        flow = getattr(importlib.import_module(module), function)
        flows[flow.name] = flow
    return flows


def deployments(
    wanted: SchedulesConfig, flows: dict[str, Flow[..., object]], *, paused: Collection[str] = ()
) -> list[RunnerDeployment]:
    """Return one deployment for every flow, to start by hand, and one for every schedule and trigger.

    Parameters
    ----------
    paused : collection of str
        Names of schedules that an operator has paused; what triggers wait for is not announced while they are.

    Raises
    ------
    ConfigError
        If a schedule names an unknown flow, or gives it parameters it does not take.
    """
    from prefect.schedules import Cron

    by_hand = [_deployment(flow, MANUAL, tags=["by hand"]) for flow in flows.values()]
    planned = [
        _deployment(
            _checked_flow(schedule, flows),
            schedule.name,
            schedule=Cron(
                schedule.cron,
                timezone=schedule.timezone,
                active=schedule.enabled and schedule.name not in paused,
            ),
            parameters=dict(schedule.parameters),
            description=schedule.description or None,
            tags=["schedule"],
        )
        for schedule in wanted.schedules
    ]
    started = [
        _deployment(
            _checked_flow(trigger, flows, filled=("source",)),
            trigger.name,
            triggers=[_event_trigger(trigger)] if trigger.enabled else [],
            parameters=dict(trigger.parameters),
            description=trigger.description or None,
            tags=["trigger"],
        )
        for trigger in wanted.triggers
    ]
    return by_hand + planned + started


def _deployment(flow: Flow[..., object], name: str, *, tags: list[str], **options: Any) -> RunnerDeployment:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    return RunnerDeployment.from_flow(
        flow,
        name=name,
        tags=[TAG, flow.name, *tags],
        paused=False,  # the last `medml up` paused it when it stopped
        entrypoint_type=EntrypointType.MODULE_PATH,
        **options,
    )


def _event_trigger(trigger: TriggerConfig) -> DeploymentEventTrigger:
    """Start the deployment at every event that names it, with the event's request id as ``source``."""
    from prefect.events import DeploymentEventTrigger

    return DeploymentEventTrigger(
        name=trigger.name,
        expect={STUDY_COMPLETE},
        match={"medml.trigger": trigger.name},
        parameters={"source": "{{ event.resource.id }}", **trigger.parameters},
    )


def _checked_flow(
    schedule: PlannedConfig, flows: dict[str, Flow[..., object]], filled: tuple[str, ...] = ()
) -> Flow[..., object]:
    from prefect.exceptions import ParameterTypeError, SignatureMismatchError

    if schedule.flow not in flows:
        raise ConfigError(f"schedule {schedule.name}: no flow {schedule.flow!r}; there are: {', '.join(sorted(flows))}")
    flow = flows[schedule.flow]
    try:
        flow.validate_parameters(dict.fromkeys(filled, "") | dict(schedule.parameters))
    except (ParameterTypeError, SignatureMismatchError) as error:
        raise ConfigError(
            f"schedule {schedule.name}: the parameters do not fit the flow {flow.name}: {error}"
        ) from None
    unknown = sorted(set(schedule.parameters) - set(flow.parameters.properties))
    missing = sorted(set(flow.parameters.required) - set(schedule.parameters) - set(filled))
    if unknown or missing:
        raise ConfigError(
            f"schedule {schedule.name}: the parameters do not fit the flow {flow.name}: "
            f"unknown {', '.join(unknown) or 'none'}, missing {', '.join(missing) or 'none'}"
        )
    return flow
