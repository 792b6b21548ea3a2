"""Find the YAML that a name stands for: configurations are the operator's, so their names may be shown by Prefect."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medml.config import load_config
from medml.errors import ConfigError
from medml.records.experiment import Experiment
from medml.records.home import Home
from medml.records.plan import Plan
from pipelines.requests import read_request

if TYPE_CHECKING:
    from medml.evaluation.gate import GateConfig
    from medml.results.doubts import DoubtLimits

TRAINED_ELSEWHERE: dict[str, Any] = {
    "batch": 1,
    "steps_per_epoch": 0,
    "epochs": 0,
    "minutes": 0.0,
    "patience": 0,
    "learning_rate": 0.0,
    "loss": "unknown",
    "reasons": {"network": "given with weights that were trained elsewhere"},
}
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


def read_plan_file(path: Path, *, labels: tuple[str, ...] = ()) -> Plan:
    """Read the plan of weights that were trained elsewhere; what only training needs may be left out.

    Parameters
    ----------
    labels : tuple of str
        Names of the output channels, in order, in place of the plan's.

    Raises
    ------
    ConfigError
        If a key is unknown or wrong, labels do not count from 0, or channels and normalisation do not pair up.
    """
    plan = load_config(path, Plan, **TRAINED_ELSEWHERE)
    if labels and len(labels) != len(plan.labels):
        raise ConfigError(f"found {len(labels)} labels, expected {len(plan.labels)}, one for each label of {path.name}")
    if labels:
        plan = plan.model_copy(update={"labels": dict(enumerate(labels))})
    if sorted(plan.labels) != list(range(len(plan.labels))):
        raise ConfigError(f"{path}: labels have the values {sorted(plan.labels)}; output channels count from 0")
    if len(plan.channels) != len(plan.normalisation):
        raise ConfigError(
            f"{path}: found {len(plan.normalisation)} normalisation entries, expected {len(plan.channels)}, one for "
            "each channel"
        )
    return plan


def read_axes(text: str | None) -> list[int] | None:
    """Return the axes that "210" or "10" names.

    Raises
    ------
    ConfigError
        If they are not the digits 0, 1 (and 2) in some order.
    """
    if text is None:
        return None
    if sorted(text) not in (["0", "1"], ["0", "1", "2"]):
        raise ConfigError(f"--axes {text}: expected an order of the digits 012, or of 01 for a 2D network, e.g. 210")
    return [int(digit) for digit in text]


def read_memory(text: str) -> float:
    """Return GB of "8", "8GB" or "512 MB".

    Raises
    ------
    ConfigError
        If it is no such size.
    """
    plain = text.strip().upper().replace(" ", "")
    scale = 1e-3 if plain.endswith("MB") else 1.0
    number = plain.removesuffix("GB").removesuffix("MB").removesuffix("G")
    try:
        size = float(number) * scale
    except ValueError:
        size = 0.0
    if not 0 < size < 1e5:
        raise ConfigError(f"memory {text!r}: expected a size such as 8GB or 512MB")
    return size


def load_experiment(home: Home, name: str) -> Experiment:
    """Return the experiment that a request id or a name in ``configs/training`` stands for."""
    if _REQUEST.fullmatch(name):
        return Experiment.model_validate(read_request(home, name)["experiment"])
    return read_experiment_file(named_config("training", name))


def load_gate(name: str) -> GateConfig:
    """Return the gate of that name in ``configs/gates``; "default" needs no file."""
    from medml.evaluation.gate import GateConfig

    if name == "default" and not (config_folder() / "gates" / "default.yaml").exists():
        return GateConfig()
    return load_config(named_config("gates", name), GateConfig)


def load_doubt_limits(name: str) -> DoubtLimits:
    """Return the limits of that name in ``configs/review``; "default" needs no file."""
    from medml.results.doubts import DoubtLimits

    if name == "default" and not (config_folder() / "review" / "default.yaml").exists():
        return DoubtLimits()
    return load_config(named_config("review", name), DoubtLimits)
