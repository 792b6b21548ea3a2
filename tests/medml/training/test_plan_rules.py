"""Rules of the plan on fingerprints worked out by hand: CT, MR, PET, radiographs, skin, tiny images."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.config import load_config
from medml.errors import ConfigError
from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Fingerprint, Plan
from medml.training import grids, sizing
from medml.training.appearance import foreground_share
from medml.training.draft import ELSEWHERE
from medml.training.plan import make_plan

ORGANS = {0: "background", 1: "organ"}
BINARY = {0: "absent", 1: "present"}
PROBE = sizing.seconds_per_step
ONE = {"mean": 100.0, "std": 20.0, "p00_5": 40.0, "p99_5": 180.0, "min": 0.0, "max": 255.0}


@pytest.fixture(autouse=True)
def _quick_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step takes what its work asks for at 10 GFLOP/s: no timing in tests of rules."""
    monkeypatch.setattr(sizing, "seconds_per_step", lambda plan, *_: 3 * sizing.work_of(plan) * plan.batch / 1e10)


def seen(
    task: str, shape: tuple[int, int, int], spacing: tuple[float, ...] | None = None, **values: Any
) -> Fingerprint:
    channels = values.pop("channels", ("image",))
    given = {
        "task": task,
        "cases": 100,
        "modality": "MR",
        "geometry": "mm" if spacing else "none",
        "channels": channels,
        "shapes": (shape,) * 3,
        "spacings": (spacing,) * 3 if spacing else (),
        "intensity": (ONE,) * len(channels),
    }
    return Fingerprint(**{**given, **values})


def planned(found: Fingerprint, device: str = "cpu", **asked: Any) -> Plan:
    plan = asked.pop("plan", {})
    data = Dataset(
        name="x",
        digest="d",
        created="",
        task=found.task,
        select={},
        split="patient",
        seed=5,
        labels=ORGANS if found.task == "segment" else BINARY,
        channels=found.channels,
        modality=found.modality,
        geometry=found.geometry,
        cases=(),
        test=(),
        folds=((),),
        test_digest="t",
    )
    experiment = Experiment(name="x", task=found.task, dataset={"name": "x"}, budget=asked, plan=plan)
    return make_plan(found, data, experiment, device=device)


THIN_CT = seen("segment", (512, 512, 120), (0.8, 0.8, 1.5), modality="CT", boxes=((400, 300, 120),) * 3)
TINY_MR = seen("segment", (35, 50, 36), (1.0, 1.0, 1.0), boxes=((35, 50, 36),) * 3)
THICK_MR = seen("classify", (256, 256, 20), (0.9, 0.9, 6.0), class_counts={0: 50, 1: 50})


def test_a_body_in_air_is_cropped_and_the_patch_follows_from_what_is_left() -> None:
    found = seen("segment", (60, 60, 40), (1.0, 1.0, 1.0), modality="CT", boxes=((48, 40, 40),) * 3)
    made = planned(found)
    # 48 x 40 of 60 x 60: 53 %. Uncropped, 60 would be rounded up to 64.
    assert made.crop_foreground
    assert "holds 53% of a median image, less than 75%" in made.reasons["crop_foreground"]
    assert made.patch == (48, 40, 40)
    assert planned(found, plan={"crop_foreground": False}).patch == (64, 64, 40)


def test_thin_slices_of_ct_get_a_patch_that_is_about_a_cube_in_space() -> None:
    made = planned(THIN_CT)
    assert made.spacing_mm == (0.8, 0.8, 1.5)
    extents = np.array(made.patch) * np.array(made.spacing_mm)
    assert extents.max() < 1.5 * extents.min()
    assert made.normalisation[0].kind == "clip_zscore"
    assert "46% of a median image" in made.reasons["crop_foreground"]


def test_images_that_are_full_or_flat_or_without_spacing_are_not_cropped() -> None:
    full = planned(TINY_MR)
    assert not full.crop_foreground
    assert "holds 100% of a median image, more than 75%" in full.reasons["crop_foreground"]
    shape = seen("classify", (28, 28, 28), boxes=((14, 14, 14),) * 3, class_counts={0: 50, 1: 50})
    assert "would change the scale from case to case" in planned(shape).reasons["crop_foreground"]
    flat = seen("classify", (28, 28, 1), boxes=((14, 14, 1),) * 3, class_counts={0: 50, 1: 50})
    assert planned(flat).reasons["crop_foreground"] == "pictures are used whole"


def test_thick_slices_are_kept_and_read_in_order() -> None:
    made = planned(THICK_MR)
    # 230.4 mm in plane, 20 slices: sqrt(230.4^2 * 20 / 64^3) = 2.0125 mm keeps as many voxels as 64 cubed.
    assert made.spacing_mm == pytest.approx((2.0125, 2.0125, 6.0), abs=1e-3)
    assert made.size == (120, 120, 24)
    assert made.network == "slice_sequence"
    assert "thick slices are read one by one" in made.reasons["network"]
    assert "thick slices stay as they are" in made.reasons["spacing_mm"]


def test_slices_up_to_three_times_as_thick_as_pixels_are_no_reason_for_a_sequence() -> None:
    assert not grids.thick_slices(seen("classify", (256, 256, 20), (1.0, 1.0, 3.0)))
    assert grids.thick_slices(seen("classify", (20, 256, 256), (3.1, 1.0, 1.0)))
    assert not grids.thick_slices(seen("classify", (256, 256, 1), (1.0, 1.0, 9.0)))
    cubes = seen("classify", (28, 28, 28), class_counts={0: 50, 1: 50})
    assert planned(cubes).network == "resnet18"


@pytest.mark.parametrize(
    ("modality", "values", "kind", "words"),
    [
        ("MR", {}, "zscore", "coil, sequence and scanner"),
        ("US", {}, "clip_zscore", "grey of 8 bits, as readers see it"),
        ("US", {"intensity": (ONE | {"max": 256.0},)}, "zscore", "have no fixed unit"),
        ("US", {"intensity": (ONE | {"min": -1.0},)}, "zscore", "have no fixed unit"),
        ("US", {"shapes": ((64, 64, 8),)}, "zscore", "have no fixed unit"),
        ("DX", {}, "zscore", "exposure and on the maker's processing"),
        ("OT", {}, "clip_zscore", "by the training set's mean and spread"),
        ("CT", {}, "clip_zscore", "Hounsfield units are absolute"),
        ("PT", {"units": ("g/mL",)}, "clip_zscore", "SUV is absolute"),
        ("PT", {"units": ("Bq/mL", "g/mL")}, "zscore", "are not all SUV"),
        ("XC", {"channels": ("R", "G", "B")}, "clip_zscore", "colour carries meaning"),
    ],
)
def test_intensities_are_scaled_by_what_they_mean(modality: str, values: dict[str, Any], kind: str, words: str) -> None:
    found = seen("classify", (64, 64, 1), modality=modality, class_counts={0: 50, 1: 50}, **values)
    made = planned(found)
    assert {rule.kind for rule in made.normalisation} == {kind}
    assert words in made.reasons["normalisation"]


@pytest.mark.parametrize(("labelled", "share"), [(300, 1 / 3), (20, 0.5), (1, 0.5), (0, 0.5)])
def test_the_rarer_the_labels_the_more_patches_are_centred_on_them(labelled: int, share: float) -> None:
    found = TINY_MR.model_copy(update={"label_voxels": {0: 1000 - labelled, 1: labelled}})
    assert foreground_share(found)[0] == share
    scarce = TINY_MR.model_copy(update={"label_voxels": {0: 99_950, 1: 50}})
    assert foreground_share(scarce)[0] == 2 / 3
    assert foreground_share(scarce)[1].startswith("0.05% of the voxels are labelled")


def test_a_network_that_wants_multiples_gets_a_patch_of_them() -> None:
    options = {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    made = planned(TINY_MR, plan={"network": "swinunetr", "network_options": options})
    assert made.patch == (64, 64, 64)
    assert made.learning_rate == 1e-4


def test_a_smaller_patch_is_shorter_where_it_is_longest_in_space() -> None:
    # 28 = 4 * 7 and 112 = 16 * 7 are the next lengths that halving ends at seven or fewer voxels.
    assert grids.smaller_patch((64, 64, 32), (1.0, 1.0, 4.0)) == (64, 64, 28)
    assert grids.smaller_patch((128, 64, 32), None) == (112, 64, 32)
    assert grids.smaller_patch((128, 64, 32), None, multiple=32) == (96, 64, 32)
    assert grids.smaller_patch((16, 16, 16), None) is None


def test_memory_makes_the_batch_smaller_first_and_then_the_patch() -> None:
    narrow = {"network": "unet", "network_options": {"channels": [8, 16], "strides": [2], "num_res_units": 0}}
    free = planned(THIN_CT, plan=narrow)
    tight = planned(THIN_CT, plan=narrow, memory_gb=free.memory_gb / 3)
    assert tight.memory_gb <= free.memory_gb / 3 + 0.0005  # rounded to a thousandth
    assert tight.batch == 2
    assert np.prod(tight.patch or ()) < np.prod(free.patch or ())
    assert "of memory, by an estimate from shapes" in tight.reasons["patch"]
    assert tight.reasons["memory_gb"].startswith("estimated from shapes, in GB: weights and optimiser")
    kept = planned(THIN_CT, memory_gb=0.01, plan=narrow | {"batch": 4, "patch": [64, 64, 64]})
    assert (kept.batch, kept.patch) == (4, (64, 64, 64))
    assert "more than the 0.01 GB there are: training halves a batch" in kept.reasons["memory_gb"]


def times(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> list[int]:
    """Let a step of the folded U-Net of each width take so many seconds; returned are the widths that are timed."""
    timed: list[int] = []

    def step(plan: Plan, device: str, most: float = 0.0) -> float:
        timed.append(plan.network_options["filters"][0])
        return seconds[timed[-1]]

    monkeypatch.setattr(sizing, "seconds_per_step", step)
    return timed


def test_a_cpu_tries_upwards_until_a_network_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20 minutes for a third of 24,000 steps: 0.15 s each.
    timed = times(monkeypatch, {16: 0.04, 32: 0.09, 48: 0.2})
    made = planned(TINY_MR, minutes=20)
    assert made.network_options["filters"] == (32, 64, 128)
    assert timed == [16, 32, 48]
    assert "about 0.09 s per step on cpu, 13333 steps in the budget; larger ones" in made.reasons["network"]


def test_a_network_that_would_be_far_too_slow_is_not_even_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = times(monkeypatch, {16: 0.13})  # the next one has four times its work
    assert planned(TINY_MR, minutes=20).network_options["filters"] == (16, 32, 64)
    assert timed == [16]


def test_the_largest_network_is_reached_where_steps_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = times(monkeypatch, dict.fromkeys((16, 32, 48, 64, 96), 0.01))
    made = planned(TINY_MR, minutes=20)
    assert made.network_options["filters"] == (96, 192, 384)
    assert timed == [16, 32, 48, 64, 96]
    assert "larger" not in made.reasons["network"]


@pytest.mark.parametrize(("telling", "most", "tries"), [(0.0, 1e9, 2), (60.0, 1e9, 3), (60.0, 0.0, 3), (0.0, 0.0, 1)])
def test_a_step_is_timed_until_it_is_told_from_noise(
    monkeypatch: pytest.MonkeyPatch, telling: float, most: float, tries: int
) -> None:
    plan, ran = planned(TINY_MR), []
    real = sizing.run_network
    monkeypatch.setattr(sizing, "TELLING", telling)
    monkeypatch.setattr(sizing, "run_network", lambda *what: ran.append(1) or real(*what))
    assert PROBE(plan, "cpu", most) > 0
    assert len(ran) == tries


def test_a_gpu_is_asked_from_the_largest_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plans = [planned(TINY_MR).model_copy(update={"network": name}) for name in ("large", "middle", "small")]

    def step(plan: Plan, device: str, most: float = 0.0) -> float:
        asked.append(plan.network)
        return {"large": 0.3, "middle": 0.2, "small": 0.1}[plan.network]

    monkeypatch.setattr(sizing, "seconds_per_step", step)
    assert sizing._from_the_largest(plans, "cuda", 0.25) == (1, 0.2)
    assert asked == ["large", "middle"]
    assert sizing._from_the_largest(plans, "cuda", 0.05) == (2, 0.1)


def test_a_gpu_that_is_not_here_can_be_planned_for() -> None:
    small, large = (planned(THIN_CT, "cuda", memory_gb=size) for size in (4.0, 40.0))
    assert np.prod(large.patch or ()) * large.batch > np.prod(small.patch or ()) * small.batch
    assert "not timed, as there is no GPU here" in large.reasons["network"]
    with pytest.raises(ConfigError, match="0 CUDA devices were found"):
        planned(THIN_CT, "cuda")


@pytest.mark.parametrize("found", [TINY_MR, THICK_MR], ids=["segment", "classify"])
def test_every_choice_says_why(found: Fingerprint) -> None:
    made = planned(found)
    from_dataset = {"task", "modality", "channels", "labels", "multi_label", "reasons"}
    assert set(Plan.model_fields) - from_dataset - set(made.reasons) == set()
    assert all(reason.strip() for reason in made.reasons.values())


CHANGED: dict[str, Any] = {
    "dims": 3,
    "spacing_mm": [2.0, 2.0, 2.0],
    "orientation": "LPS",
    "patch": [24, 24, 24],
    "size": [8, 8, 8],
    "normalisation": [{"kind": "range", "low": 0, "high": 10}],
    "network": "segresnet",
    "network_options": {"num_res_units": 1},
    "pretrained": "other@champion",
    "meanings": {},
    "class_weights": [1.0, 2.0],
    "augmentation": {"rotate_deg": 7.0},
    "tta_flips": [0],
    "loss": "dice_ce",
    "learning_rate": 0.02,
}


def other(key: str) -> Any:
    """Return a legal value for a key; for most another one than the default."""
    if key in CHANGED:
        return CHANGED[key]
    field = Plan.model_fields[key]
    kinds = typing.get_args(field.annotation)
    if typing.get_origin(field.annotation) is typing.Literal:
        return next(value for value in kinds if value != field.default)
    if field.annotation is bool:
        return not field.default
    return 0.25 if field.annotation is float else 3


@pytest.mark.parametrize("key", [key for key in Plan.model_fields if key not in ELSEWHERE])
def test_every_key_can_be_set_in_the_yaml_and_by_set(key: str, tmp_path: Path) -> None:
    value = other(key)
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps({"name": "x", "task": "segment", "dataset": {"name": "x"}, "plan": {key: value}}))
    in_yaml = load_config(file, Experiment)
    file.write_text(json.dumps({"name": "x", "task": "segment", "dataset": {"name": "x"}}))
    by_set = load_config(file, Experiment, settings=(f"plan.{key}={json.dumps(value)}",))
    assert in_yaml == by_set
    network = {"network": "unet"} if key == "network_options" else {}
    made = planned(TINY_MR, plan=network | in_yaml.plan)
    shown = json.loads(made.model_dump_json())[key]
    if isinstance(value, dict):
        shown = {name: shown[name] for name in value}
    if key == "normalisation":
        shown = [{name: rule[name] for name in value[0]} for rule in shown]
    assert shown == value
    assert made.reasons[key] == "set by the experiment"


@pytest.mark.parametrize("key", ELSEWHERE)
def test_keys_that_follow_from_the_data_are_refused_with_words(key: str) -> None:
    assert key in Plan.model_fields
    with pytest.raises(ConfigError, match=f"plan.{key}: cannot be set: {ELSEWHERE[key]}"):
        planned(TINY_MR, plan={key: 1})
