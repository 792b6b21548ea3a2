"""``configs/schedules.yaml``: which flow runs when, and the deployments that follow from it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

from pydantic import StringConstraints, field_validator

from medml.config import Config, load_config
from medml.errors import ConfigError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

FLOWS = tuple(f"pipelines.{name}:{name}" for name in ("ingest", "dataset", "train", "evaluate", "promote", "predict"))
MANUAL = "on-demand"
TAG = "medml"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]


class ScheduleConfig(Config):
    """One flow, when it runs, and what it is given.

    Attributes
    ----------
    cron : str
        Minute, hour, day of month, month, day of week.
    timezone : str
        IANA name, e.g. Europe/Berlin.
    parameters : dict
        The flow's parameters: names of models, datasets and sources; never paths.
    """

    name: Name
    flow: str
    cron: str
    timezone: str = "UTC"
    parameters: dict[str, str | bool | int | None] = {}
    enabled: bool = True

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

    @field_validator("schedules")
    @classmethod
    def _unique_names(cls, schedules: tuple[ScheduleConfig, ...]) -> tuple[ScheduleConfig, ...]:
        names = [schedule.name for schedule in schedules]
        for name in names:
            if names.count(name) > 1 or name == MANUAL:
                raise ValueError(f"the name {name!r} is used twice; each schedule needs a name of its own")
        return schedules


def load_schedules(path: Path) -> tuple[ScheduleConfig, ...]:
    """Read the schedules; every mistake is reported at once, with its key."""
    return load_config(path, SchedulesConfig).schedules


def load_flows(places: Iterable[str] = FLOWS) -> dict[str, Flow[..., object]]:
    """Import flows given as ``module:function``; return them by their Prefect names."""
    flows = {}
    for place in places:
        module, _, function = place.partition(":")
        flow = getattr(importlib.import_module(module), function)
        flows[flow.name] = flow
    return flows


def deployments(schedules: Iterable[ScheduleConfig], flows: dict[str, Flow[..., object]]) -> list[RunnerDeployment]:
    """Return one deployment for every flow, to start by hand, and one for every schedule.

    Raises
    ------
    ConfigError
        If a schedule names an unknown flow, or gives it parameters it does not take.
    """
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    by_hand = [
        RunnerDeployment.from_flow(
            flow, name=MANUAL, tags=[TAG], paused=False, entrypoint_type=EntrypointType.MODULE_PATH
        )
        for flow in flows.values()
    ]
    planned = [
        RunnerDeployment.from_flow(
            _checked_flow(schedule, flows),
            name=schedule.name,
            schedule=Cron(schedule.cron, timezone=schedule.timezone, active=schedule.enabled),
            parameters=dict(schedule.parameters),
            paused=False,  # the last `medml up` paused it when it stopped
            tags=[TAG],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for schedule in schedules
    ]
    return by_hand + planned


def _checked_flow(schedule: ScheduleConfig, flows: dict[str, Flow[..., object]]) -> Flow[..., object]:
    from prefect.exceptions import ParameterTypeError, SignatureMismatchError

    if schedule.flow not in flows:
        raise ConfigError(f"schedule {schedule.name}: no flow {schedule.flow!r}; there are: {', '.join(sorted(flows))}")
    flow = flows[schedule.flow]
    try:
        flow.validate_parameters(dict(schedule.parameters))
    except (ParameterTypeError, SignatureMismatchError) as error:
        raise ConfigError(
            f"schedule {schedule.name}: the parameters do not fit the flow {flow.name}: {error}"
        ) from None
    unknown = sorted(set(schedule.parameters) - set(flow.parameters.properties))
    missing = sorted(set(flow.parameters.required) - set(schedule.parameters))
    if unknown or missing:
        raise ConfigError(
            f"schedule {schedule.name}: the parameters do not fit the flow {flow.name}: "
            f"unknown {', '.join(unknown) or 'none'}, missing {', '.join(missing) or 'none'}"
        )
    return flow
