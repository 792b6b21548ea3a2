"""Find the YAML that a name stands for: configurations are the operator's, so their names may be shown by Prefect."""

from __future__ import annotations

import os
import re
from pathlib import Path

from medml.config import load_config
from medml.errors import ConfigError
from medml.evaluation.gate import GateConfig
from medml.records.experiment import Experiment
from medml.records.home import Home
from pipelines.requests import read_request

_REQUEST = re.compile(r"req-[0-9a-f]+")


def config_folder() -> Path:
    """Return the folder of configurations: ``MEDML_CONFIGS``, else ``configs`` here, else the one of the checkout."""
    if "MEDML_CONFIGS" in os.environ:
        return Path(os.environ["MEDML_CONFIGS"])
    here = Path("configs")
    return here.resolve() if here.is_dir() else Path(__file__).resolve().parents[1] / "configs"


def named_config(kind: str, name: str) -> Path:
    """Return ``configs/<kind>/<name>.yaml``; ConfigError lists what there is."""
    folder = config_folder() / kind
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"{kind} configuration {name!r} not found; there are: {', '.join(names) or 'none'}")
    return folder / f"{name}.yaml"


def read_experiment_file(path: Path, settings: tuple[str, ...] = ()) -> Experiment:
    """Read an experiment; its name defaults to the file's stem in lower case."""
    return load_config(path, Experiment, settings=settings, name=path.stem.lower())


def load_experiment(home: Home, name: str) -> Experiment:
    """Return the experiment that a request id or a name in ``configs/training`` stands for."""
    if _REQUEST.fullmatch(name):
        return Experiment.model_validate(read_request(home, name)["experiment"])
    return read_experiment_file(named_config("training", name))


def load_gate(name: str) -> GateConfig:
    """Return the gate of that name in ``configs/gates``; "default" needs no file."""
    if name == "default" and not (config_folder() / "gates" / "default.yaml").exists():
        return GateConfig()
    return load_config(named_config("gates", name), GateConfig)
