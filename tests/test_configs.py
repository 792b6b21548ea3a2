"""The examples in configs/ are true: each file is read by the model that the program reads it with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medml.catalogue.config import IngestConfig
from medml.config import load_config
from medml.evaluation.gate import GateConfig
from medml.io.confidentiality.options import DeidentifyConfig
from medml.io.pacs.config import PacsConfig
from medml.io.pacs.listener_config import ListenerConfig
from medml.networks.build import build_network, network_shapes
from medml.records.experiment import Experiment
from medml.records.selection import SelectionConfig
from medml.results.doubts import DoubtLimits
from pipelines.alerts import AlertsConfig
from pipelines.configs import read_plan_file
from pipelines.requests import SourcesConfig
from pipelines.schedules import SchedulesConfig, load_flows

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCHEMAS = {
    "deidentify": DeidentifyConfig,
    "ingest": IngestConfig,
    "training": Experiment,
    "gates": GateConfig,
    "review": DoubtLimits,
    "pacs": PacsConfig,
    "listeners": ListenerConfig,
    "selection": SelectionConfig,
    "alerts.yaml": AlertsConfig,
    "schedules.yaml": SchedulesConfig,
    "sources.yaml": SourcesConfig,
}
PLANS = sorted((CONFIGS / "plans").glob("*.yaml"))
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set(PLANS))


def named(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_example_is_valid(path: Path) -> None:
    load_config(path, SCHEMAS[path.relative_to(CONFIGS).parts[0]])


@pytest.mark.parametrize("path", PLANS, ids=named)
def test_a_plan_for_weights_from_elsewhere_builds_its_network(path: Path) -> None:
    plan = read_plan_file(path)
    assert len(network_shapes(plan)) > 10
    build_network(plan)


@pytest.mark.parametrize("path", sorted((CONFIGS / "training").glob("*.yaml")), ids=named)
def test_an_experiment_names_what_its_file_is_named(path: Path) -> None:
    experiment = load_config(path, Experiment)
    assert experiment.name == path.stem
    assert (CONFIGS / "gates" / f"{experiment.gate}.yaml").is_file()


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("deidentify/default.yaml", DeidentifyConfig),
        ("ingest/default.yaml", IngestConfig),
        ("gates/default.yaml", GateConfig),
        ("review/default.yaml", DoubtLimits),
    ],
)
def test_the_default_example_shows_every_key_with_its_default(
    file: str, schema: type[DeidentifyConfig] | type[IngestConfig] | type[GateConfig] | type[DoubtLimits]
) -> None:
    assert load_config(CONFIGS / file, schema) == schema()
    assert set(yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8"))) == set(schema.model_fields)


def test_schedules_name_flows_that_exist_and_sources_that_are_known() -> None:
    known = {"inbox", *load_config(CONFIGS / "sources.yaml", SourcesConfig).sources}
    flows = load_flows()
    for schedule in load_config(CONFIGS / "schedules.yaml", SchedulesConfig).schedules:
        assert schedule.flow in flows
        assert schedule.parameters.get("source", "inbox") in known
