"""``configs/schedules.yaml`` and the deployments that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow

from medml.errors import ConfigError
from pipelines.schedules import (
    MANUAL,
    ScheduleConfig,
    SchedulesConfig,
    TriggerConfig,
    deployments,
    load_flows,
    load_schedules,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@flow(name="say")
def say(word: str, times: int = 1, source: str = "") -> str:
    return word * times


def schedule(**changed: object) -> ScheduleConfig:
    values = {
        "name": "nightly",
        "flow": "say",
        "cron": "0 2 * * *",
        "timezone": "Europe/Berlin",
        "parameters": {"word": "hi"},
    }
    return ScheduleConfig.model_validate(values | changed)


def only(**changed: object) -> SchedulesConfig:
    return SchedulesConfig(schedules=(schedule(**changed),))


def test_the_example_has_what_a_hospital_needs_and_its_parameters_fit_the_flows() -> None:
    wanted = load_schedules(CONFIGS / "schedules.yaml")
    assert {item.name: (item.flow, item.cron, item.enabled) for item in wanted.schedules} == {
        "nightly-inference": ("predict", "0 2 * * *", True),
        "nightly-pacs": ("pacs round", "0 22 * * *", False),
        "weekly-evaluation": ("evaluate", "0 4 * * 0", True),
        "monthly-retraining": ("retrain", "0 20 1 * *", False),
    }
    assert [(item.name, item.flow, item.when) for item in wanted.triggers] == [("study-complete", "arrive", "inbox")]
    made = deployments(wanted, load_flows())
    assert [item.name for item in made][-5:] == [item.name for item in wanted.planned]
    assert "tune" in {item.flow_name for item in made}


def test_a_trigger_starts_its_flow_with_what_the_event_names() -> None:
    trigger = TriggerConfig(name="dropped", flow="say", parameters={"word": "hi"})
    with pytest.raises(ConfigError, match="schedule dropped: the parameters do not fit the flow say"):
        deployments(SchedulesConfig(triggers=(trigger.model_copy(update={"parameters": {}}),)), {"say": say})
    _, made = deployments(SchedulesConfig(triggers=(trigger,)), {"say": say})
    (event,) = made.triggers or []
    assert event.expect == {"medml.study.complete"}  # type: ignore[union-attr]
    assert event.match.root == {"medml.trigger": "dropped"}  # type: ignore[union-attr]
    assert event.parameters == {"source": "{{ event.resource.id }}", "word": "hi"}  # type: ignore[union-attr]


def test_a_paused_schedule_is_registered_but_not_active() -> None:
    _, planned = deployments(only(), {"say": say}, paused={"nightly"})
    assert [when.active for when in planned.schedules or []] == [False]


def test_every_flow_can_be_started_by_hand_and_a_schedule_adds_a_deployment() -> None:
    by_hand, planned = deployments(only(), {"say": say})
    assert (by_hand.name, by_hand.schedules) == (MANUAL, [])
    (when,) = planned.schedules or []
    assert (planned.name, planned.parameters) == ("nightly", {"word": "hi"})
    assert (when.schedule.cron, when.schedule.timezone, when.active) == ("0 2 * * *", "Europe/Berlin", True)  # type: ignore[union-attr]


def test_a_disabled_schedule_is_there_but_not_active() -> None:
    _, planned = deployments(only(enabled=False), {"say": say})
    assert [when.active for when in planned.schedules or []] == [False]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cron": "at noon"}, "expected five fields"),
        ({"cron": "99 2 * * *"}, "expected five fields"),
        ({"timezone": "Mars/Olympus"}, "expected an IANA time zone"),
        ({"name": "Not A Name"}, "should match pattern"),
    ],
)
def test_a_wrong_schedule_is_refused(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**changed)


def test_two_schedules_of_one_name_are_refused(tmp_path: Path) -> None:
    item = "{name: a, flow: say, cron: '0 2 * * *'}"
    (tmp_path / "s.yaml").write_text(f"schedules: [{item}, {item}]\n")
    with pytest.raises(ConfigError, match="the name 'a' is used twice"):
        load_schedules(tmp_path / "s.yaml")


def test_an_unknown_flow_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="schedule nightly: no flow 'sing'; there are: say"):
        deployments(only(flow="sing"), {"say": say})


@pytest.mark.parametrize("parameters", [{}, {"word": "hi", "loud": True}, {"word": "hi", "times": "many"}])
def test_parameters_that_do_not_fit_the_flow_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="schedule nightly: the parameters do not fit the flow say"):
        deployments(only(parameters=parameters), {"say": say})
