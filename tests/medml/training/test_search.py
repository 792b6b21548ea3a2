"""Knobs of a plan: what they are by default, and what turning them overrides."""

from __future__ import annotations

from typing import Any

import pytest

from medml.errors import ConfigError
from medml.records.experiment import Knob
from medml.records.plan import Augmentation, Normalisation, Plan
from medml.training.draft import Draft
from medml.training.search import check_space, default_space, encode, overrides_of, usual_values


def plan(**values: Any) -> Plan:
    given: dict[str, Any] = {
        "task": "segment",
        "dims": 3,
        "modality": "MR",
        "channels": ("image",),
        "labels": {0: "background", 1: "organ"},
        "patch": (40, 56, 48),
        "normalisation": (Normalisation(kind="zscore"),),
        "network": "unet",
        "network_options": {"channels": (16, 32), "strides": (2,)},
        "batch": 8,
        "steps_per_epoch": 1,
        "epochs": 1,
        "minutes": 1.0,
        "patience": 1,
        "learning_rate": 1e-3,
        "weight_decay": 3e-3,
        "loss": "dice_ce",
        "augmentation": Augmentation(rotate_deg=10.0, scale=0.2, noise=0.0, contrast=0.0, brightness=0.0),
    }
    return Plan(**(given | values))


def test_the_default_space_surrounds_the_plan() -> None:
    space = default_space(plan())
    assert (space["learning_rate"].low, space["learning_rate"].high) == (2.5e-4, 4e-3)
    assert space["batch"].choices == (4, 8, 16)
    # 40, 56 and 48 can be halved three, three and four times: 3/4 of them, rounded to 8, 8 and 16
    assert space["patch"].choices == ((40, 56, 48), (32, 40, 32))
    check_space(space)


def test_every_default_has_a_first_trial_that_is_the_plan_itself() -> None:
    base = plan()
    values = usual_values(default_space(base), base)
    assert set(values) == set(default_space(base))
    overrides = overrides_of(values, base)
    assert overrides["network_options"] == {"channels": [16, 32], "strides": [2]}
    assert overrides["patch"] == [40, 56, 48]
    assert overrides["learning_rate"] == 1e-3
    assert overrides["augmentation"] == {"rotate_deg": 10.0, "scale": 0.2}
    Draft(overrides)  # an experiment may hold them


def test_strength_scales_the_changes_that_there_are_and_a_named_one_wins() -> None:
    overrides = overrides_of({"augmentation.rotate_deg": 5.0, "augmentation.strength": 1.5}, plan())
    assert overrides["augmentation"] == {"rotate_deg": 5.0, "scale": 0.3}


def test_width_scales_channels_to_multiples_of_four() -> None:
    overrides = overrides_of({"network.width": encode(0.5)}, plan())
    assert overrides["network_options"] == {"channels": [8, 16], "strides": [2]}


def test_another_network_comes_with_its_own_options() -> None:
    overrides = overrides_of({"network": encode("segresnet")}, plan())
    assert overrides == {"network": "segresnet"}


def test_a_value_outside_the_space_is_left_to_the_sampler() -> None:
    space = {"learning_rate": Knob(low=0.1, high=0.2), "batch": Knob(choices=(1, 2))}
    assert usual_values(space, plan()) == {}


@pytest.mark.parametrize("key", ["learning_rat", "augmentation.rotat", "budget.minutes"])
def test_a_knob_that_no_plan_has_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"tune\.space: a plan has no '{key}'"):
        check_space({key: Knob(choices=(1,))})
