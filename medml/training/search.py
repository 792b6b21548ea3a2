"""What a tuning tries: knobs of the plan as data, and what turning them overrides in an experiment."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from medml.errors import ConfigError
from medml.records.experiment import Knob
from medml.records.plan import Plan

STRENGTH = "augmentation.strength"
WIDTH = "network.width"
SCALED = (
    *("rotate_deg", "scale", "scale_each", "shear", "translate", "elastic"),
    *("noise", "contrast", "brightness", "gamma", "blur"),
)
WIDTHS = ("widen_factor", "init_filters", "init_features", "filters", "channels")
SMALLER_PATCH = 0.75
Values = dict[str, Any]


def default_space(plan: Plan) -> dict[str, Knob]:
    """Return the knobs that are worth turning around a plan; they follow from the plan, not from a dataset's name."""
    rate, decay = plan.learning_rate, max(plan.weight_decay, 1e-6)
    space = {
        "learning_rate": Knob(low=rate / 4, high=rate * 4, log=True),
        "weight_decay": Knob(low=decay / 30, high=decay * 30, log=True),
        STRENGTH: Knob(low=0.25, high=1.75),
        "batch": Knob(choices=tuple(sorted({max(2, plan.batch // 2), plan.batch, plan.batch * 2}))),
    }
    if _width_keys(plan):
        space[WIDTH] = Knob(choices=(0.5, 1.0, 1.5))
    if plan.task == "segment":
        space["foreground_share"] = Knob(low=0.2, high=0.8)
        smaller = _smaller(plan.patch or ())
        if smaller != plan.patch:
            space["patch"] = Knob(choices=(plan.patch, smaller))
        return space
    space["augmentation.mix"] = Knob(choices=(0.0, 0.2, 0.4))
    if plan.class_weights is not None:
        space["class_weights"] = Knob(choices=(None, plan.class_weights))
    return space


def check_space(space: Mapping[str, Knob]) -> None:
    """Refuse knobs that no plan has.

    Raises
    ------
    ConfigError
        With the first unknown key.
    """
    for key in space:
        head, _, part = key.partition(".")
        nested = {"augmentation": type(Plan.model_fields["augmentation"].default).model_fields, "network_options": None}
        known = head in nested and (nested[head] is None or part in nested[head]) if part else head in Plan.model_fields
        if key not in (STRENGTH, WIDTH) and not known:
            raise ConfigError(
                f"tune.space: a plan has no {key!r}; expected one of its keys, augmentation.<part>, "
                f"network_options.<option>, {STRENGTH} or {WIDTH}"
            )


def usual_values(space: Mapping[str, Knob], plan: Plan) -> Values:
    """Return the plan's own setting of each knob that can be set to it: the first trial, so that none is worse."""
    values: Values = {}
    for key, knob in space.items():
        value = 1.0 if key in (STRENGTH, WIDTH) else _value_of(plan, key)
        if knob.choices:
            encoded = [encode(choice) for choice in knob.choices]
            if encode(value) in encoded:
                values[key] = encode(value)
        elif isinstance(value, int | float) and (knob.low or 0.0) <= value <= (knob.high or 0.0):
            values[key] = float(value)
    return values


def overrides_of(values: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return what an experiment's ``plan`` must hold to try the values of knobs; choices come `encode`-d.

    The plan's network is named too, so that trials differ by their knobs alone.
    """
    network = {"network": plan.network, "network_options": _plain(plan.network_options)}
    overrides: dict[str, Any] = {key: value for key, value in network.items() if key not in values}
    for key, value in values.items():
        chosen = json.loads(value) if isinstance(value, str) else value
        if key == STRENGTH:
            overrides["augmentation"] = _stronger(plan, float(chosen)) | overrides.get("augmentation", {})
        elif key == WIDTH:
            options = overrides.setdefault("network_options", {})
            overrides["network_options"] = options | _wider(plan, float(chosen))
        elif "." in key:
            head, part = key.split(".", 1)
            overrides[head] = overrides.get(head, {}) | {part: chosen}
        else:
            overrides[key] = chosen
    if "network" in values and "network_options" in overrides and "network_options" not in values:
        del overrides["network_options"]  # they belong to the plan's own network
    return overrides


def encode(choice: object) -> str:
    """Return a choice as text, which a study can store whatever its type."""
    return json.dumps(_plain(choice), sort_keys=True)


def _value_of(plan: Plan, key: str) -> Any:
    value: Any = plan.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _stronger(plan: Plan, factor: float) -> dict[str, float]:
    """Return the sizes of random changes, scaled; how many cases they touch stays."""
    now = plan.augmentation.model_dump()
    most = dict.fromkeys(("scale", "scale_each", "shear"), 0.9) | {"elastic": now["elastic_distance"] / 5}
    return {name: round(min(now[name] * factor, most.get(name, math.inf)), 4) for name in SCALED if now.get(name)}


def _width_keys(plan: Plan) -> list[str]:
    return [key for key in WIDTHS if key in plan.network_options]


def _wider(plan: Plan, factor: float) -> dict[str, Any]:
    """Return the options that say how many channels a network has, scaled."""
    return {key: _scaled(plan.network_options[key], factor) for key in _width_keys(plan)}


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, tuple | list):
        return [_scaled(each, factor) for each in value]
    return max(4, round(value * factor / 4) * 4) if isinstance(value, int) else value * factor


def _smaller(patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return a patch of about three quarters of the sides, which can be halved as often."""
    sides = []
    for length in patch:
        step = min(32, length & -length)  # the largest power of two that divides it
        sides.append(max(step, round(length * SMALLER_PATCH / step) * step))
    return tuple(sides)


def _plain(value: Any) -> Any:
    """Return tuples as lists, as YAML and JSON hold them."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
