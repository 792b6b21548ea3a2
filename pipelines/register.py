"""Flow: weights that were trained elsewhere become a registered model."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow

from medml.records.experiment import ForeignCard
from medml.records.plan import Plan
from pipelines.audit import AUDITED
from pipelines.requests import read_request
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.registry.models import ModelVersion

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

CARD = """\
# {name}

Registered from weights that were trained elsewhere; medml built the network from a plan and checked every shape.
Research use only. Not a medical device.

## Data

{data}

## Model

{network}, {parameters} parameters, for {modality} images with the channels {channels}; it tells apart {labels}. Its
probabilities are not calibrated. sha256 of the file of weights: `{digest}`. Licence of the weights: {terms}

## Intended use

{intended_use}

## Limits

{limits}

Nobody knows here which patients it learned from: cases of a test may be among them.

## Test results

Not stated. It has not been evaluated here; `medml evaluate` says how well it does on data of one's own.

## Subgroups

Not stated.
"""
NOT_STATED = "Not stated."
UNKNOWN_TERMS = "not known here; see where the weights come from."


@flow(name="register", flow_run_name="register {name}", persist_result=False, **AUDITED)
def register(name: str, source: str) -> VerbResult:
    """Make a registered model of a MONAI bundle, or of a state dict of MONAI or nnU-Net.

    Parameters
    ----------
    name : str
        The model's name: the first version of a name becomes @champion, a later one @challenger.
    source : str
        A request id; the request holds where the weights lie and the plan. Never a path.
    """
    return register_weights(name, source)


@step("register weights")
def register_weights(name: str, source: str) -> VerbResult:
    """Read the weights, fit them to the plan's network, package and register it; what is registered already stays."""
    from medml.errors import ConfigError
    from medml.io.files import sha256_file
    from medml.networks.foreign import find_weights, fit_network, read_foreign

    if not _NAME.fullmatch(name):
        raise ConfigError(f"model {name!r}: expected lower-case letters, digits, '.', '_' and '-', at most 64")
    asked = read_request(current_home(), source)
    plan = Plan.model_validate(asked["plan"])
    weights = find_weights(Path(asked["weights"]))
    digest = sha256_file(weights)
    state, nnunet = read_foreign(weights)
    axes = asked["axes"] or (list(reversed(range(plan.dims))) if nnunet else None)
    network = fit_network(state, plan, axes=tuple(axes) if axes else None)
    words = ForeignCard.model_validate(asked.get("card") or {})
    said = words.model_dump_json() if words != ForeignCard() else ""
    version = _register(name, network, plan, digest, words, f"{plan.model_dump_json()}{axes}{said}")
    return VerbResult(
        verb="register",
        ok=True,
        outputs={"package": str(version.package_path)},
        model=f"{version.name}/{version.version}",
        summary={"alias": version.alias, "network": plan.network, "weights_sha256": digest, "origin": "foreign"},
        notes=(
            "It has not been evaluated here, and nobody knows what it learned from: medml evaluate "
            f"{version.name}/{version.version} DATASET",
        ),
    )


def _register(name: str, network: Any, plan: Plan, digest: str, words: ForeignCard, described: str) -> ModelVersion:
    """Package and register; the same weights under the same plan are found again."""
    from medml.networks.package import write_package
    from medml.records.calibration import Calibration
    from medml.registry import models
    from medml.registry.tracking import RUN_KEY, Tracker

    home = current_home()
    tracker = Tracker.of(home)
    key = f"foreign-{hashlib.sha256(f'{name} {digest} {described}'.encode()).hexdigest()[:16]}"
    known = [v for v in models.all_versions(tracker) if v.name == name and v.tags.get(RUN_KEY.partition(".")[2]) == key]
    if known:
        return models.resolve(tracker, f"{name}/{known[-1].version}")
    run = home.runs / key
    run_id = tracker.start_or_resume(
        experiment=name,
        run_name=f"register {name}",
        run_key=key,
        params=plan.model_dump(
            mode="json", include={"task", "network", "network_options", "spacing_mm", "patch", "size"}
        ),
        tags={"medml.task": plan.task, "medml.origin": "foreign", "medml.weights_sha256": digest},
    )
    package = write_package(
        run / "package",
        network,
        plan,
        plan.labels,
        Calibration(),
        _card(name, network, plan, digest, words),
        {"weights": digest},
        name=name,
        terms=words.terms.strip() or UNKNOWN_TERMS,
    )
    version = models.register(tracker, run_id, name, package, None)
    tracker.finish(run_id)
    shutil.rmtree(run)
    return version


def _card(name: str, network: Any, plan: Plan, digest: str, words: ForeignCard) -> str:
    return CARD.format(
        name=name,
        network=plan.network,
        parameters=f"{sum(value.numel() for value in network.parameters()):,}",
        modality=plan.modality,
        channels=", ".join(plan.channels),
        labels=", ".join(plan.labels.values()),
        digest=digest,
        data=words.data.strip() or NOT_STATED,
        intended_use=words.intended_use.strip() or NOT_STATED,
        limits=words.limits.strip() or NOT_STATED,
        terms=words.terms.strip() or UNKNOWN_TERMS,
    )
