"""A fingerprint in, a plan out: rules, reasons, overrides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medml.errors import ConfigError
from medml.records.dataset import Case, Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Fingerprint, Plan
from medml.training import sizing
from medml.training.plan import make_plan


@pytest.fixture(autouse=True)
def _quick_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which one step takes what its work asks for at 10 GFLOP/s: no timing in tests of rules."""
    monkeypatch.setattr(sizing, "seconds_per_step", lambda plan, *_: 3 * sizing.work_of(plan) * plan.batch / 1e10)


def dataset(task: str, labels: dict[int, str], **values: Any) -> Dataset:
    given: dict[str, Any] = {
        "name": "x",
        "digest": "d",
        "created": "",
        "task": task,
        "select": {},
        "split": "patient",
        "seed": 5,
        "labels": labels,
        "channels": ("image",),
        "modality": "MR",
        "geometry": "mm",
        "cases": (),
        "test": (),
        "folds": ((),),
        "test_digest": "t",
    }
    return Dataset(**{**given, **values})


def fingerprint(
    task: str,
    *,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] | None = None,
    cases: int = 100,
    **values: Any,
) -> Fingerprint:
    channels = values.pop("channels", ("image",))
    one = {"mean": 100.0, "std": 20.0, "p00_5": 40.0, "p99_5": 180.0, "min": 0.0, "max": 255.0}
    return Fingerprint(
        task=task,
        cases=cases,
        modality=values.pop("modality", "MR"),
        geometry="mm" if spacing else "none",
        channels=channels,
        shapes=(shape,) * 3,
        spacings=(spacing,) * 3 if spacing else (),
        intensity=(one,) * len(channels),
        **values,
    )


def plan(found: Fingerprint, data: Dataset, *, budget: float = 20, **overrides: Any) -> Plan:
    experiment = Experiment(name="x", task=data.task, dataset={"name": "x"}, budget={"minutes": budget}, plan=overrides)
    return make_plan(found, data, experiment, device="cpu")


ORGANS = {0: "background", 1: "organ", 2: "lesion"}
BINARY = {0: "absent", 1: "present"}
SMALL_VOLUME = fingerprint("segment", shape=(35, 50, 36), spacing=(1.0, 1.0, 1.0))
SMALL_PICTURE = fingerprint("classify", shape=(28, 28, 1), cases=546, class_counts={0: 147, 1: 399})


def test_a_small_volume_is_one_patch_that_halves_three_times() -> None:
    made = plan(SMALL_VOLUME, dataset("segment", ORGANS))
    assert made.patch == (40, 56, 40)
    assert made.spacing_mm == (1.0, 1.0, 1.0)
    assert made.network == "folded_unet"
    assert len(made.network_options["filters"]) == 3  # folding halves once, the strides twice
    assert (made.loss, made.seed, made.dims) == ("dice_ce", 5, 3)


def test_every_computed_choice_has_a_reason() -> None:
    made = plan(SMALL_VOLUME, dataset("segment", ORGANS))
    from_data = {"task", "modality", "channels", "labels", "multi_label", "reasons"}
    defaults = {name for name, field in Plan.model_fields.items() if getattr(made, name) == field.default}
    assert set(Plan.model_fields) - from_data - defaults - set(made.reasons) == set()


def test_a_large_volume_gets_a_patch_the_device_can_take() -> None:
    found = fingerprint("segment", shape=(512, 512, 100), spacing=(0.8, 0.8, 3.0), modality="CT")
    made = plan(found, dataset("segment", ORGANS, modality="CT"))
    assert made.patch is not None
    i, j, k = made.patch
    assert i * j * k <= 320_000
    assert i % 8 == 0
    assert j % 8 == 0
    assert k % 2 == 0


def test_thick_slices_take_the_tenth_percentile_along_them() -> None:
    spacings = ((1.0, 1.0, 5.0),) * 9 + ((1.0, 1.0, 3.0),) * 2
    found = fingerprint("segment", shape=(64, 64, 20), spacing=(1.0, 1.0, 5.0)).model_copy(
        update={"spacings": spacings, "shapes": ((64, 64, 20),) * 11}
    )
    assert plan(found, dataset("segment", ORGANS)).spacing_mm == (1.0, 1.0, 3.0)


def test_a_network_is_as_large_as_its_minutes_allow() -> None:
    found = SMALL_PICTURE.model_copy(update={"cases": 1500})
    options = [plan(found, dataset("classify", BINARY), budget=m).network_options for m in (0.1, 500)]
    assert [choice["widen_factor"] for choice in options] == [0.25, 0.5]
    widths = [
        plan(SMALL_VOLUME, dataset("segment", ORGANS), budget=m).network_options["filters"] for m in (0.1, 10_000)
    ]
    assert widths == [(16, 32, 64), (96, 192, 384)]


def test_a_short_budget_takes_smaller_batches_for_more_steps() -> None:
    pictures = fingerprint("segment", shape=(64, 64, 1), cases=40)
    short, long = (plan(pictures, dataset("segment", ORGANS), budget=minutes) for minutes in (0.01, 60))
    assert short.batch < long.batch == 32


def test_ct_segmenters_clip_to_the_foreground_and_classifiers_to_soft_tissue() -> None:
    found = fingerprint("segment", shape=(64, 64, 32), spacing=(1.0, 1.0, 1.0), modality="CT")
    rule = plan(found, dataset("segment", ORGANS, modality="CT")).normalisation[0]
    assert (rule.kind, rule.low, rule.high, rule.mean, rule.std) == ("clip_zscore", 40.0, 180.0, 100.0, 20.0)
    found = fingerprint(
        "classify", shape=(64, 64, 32), spacing=(1.0, 1.0, 1.0), modality="CT", class_counts={0: 5, 1: 5}
    )
    rule = plan(found, dataset("classify", BINARY, modality="CT")).normalisation[0]
    assert (rule.kind, rule.low, rule.high) == ("clip_zscore", -160.0, 240.0)


def test_colour_pictures_keep_their_colours_and_flip_both_ways() -> None:
    channels = ("R", "G", "B")
    found = fingerprint("classify", shape=(28, 28, 1), channels=channels, class_counts={0: 50, 1: 50})
    made = plan(found, dataset("classify", BINARY, channels=channels))
    assert [rule.kind for rule in made.normalisation] == ["clip_zscore"] * 3
    assert made.augmentation.flip_axes == (0, 1)


@pytest.mark.parametrize(
    ("labels", "flips"),
    [
        ({0: "background", 1: "liver"}, (0, 1, 2)),
        ({0: "background", 1: "left_kidney", 2: "kidney right"}, (1, 2)),
        ({0: "background", 1: "Anterior", 2: "Posterior"}, (0, 2)),
        ({0: "background", 1: "lung_upper_lobe_left"}, (1,)),
        ({0: "background", 1: "bright spot"}, (0, 1, 2)),
    ],
)
def test_an_axis_along_which_labels_name_sides_is_not_flipped(labels: dict[int, str], flips: tuple[int, ...]) -> None:
    unoriented = SMALL_VOLUME.model_copy(update={"geometry": "none", "spacings": ()})
    assert plan(unoriented, dataset("segment", labels)).augmentation.flip_axes == flips
    made = plan(SMALL_VOLUME, dataset("segment", labels))
    assert made.augmentation.flip_axes == tuple(axis for axis in flips if axis == 0)  # nobody is scanned upside down
    assert made.tta_flips == made.augmentation.flip_axes


def test_radiographs_are_not_flipped_and_grey_pictures_only_from_left_to_right() -> None:
    radiograph = SMALL_PICTURE.model_copy(update={"modality": "DX"})
    assert plan(radiograph, dataset("classify", BINARY, modality="DX")).augmentation.flip_axes == ()
    assert plan(SMALL_PICTURE, dataset("classify", BINARY)).augmentation.flip_axes == (0,)


def test_a_picture_with_a_radiographic_view_is_a_radiograph(make_case: Callable[..., Case]) -> None:
    cases = (make_case(1, columns={"view": "PA"}), make_case(2, columns={"view": "AP"}))
    made = plan(SMALL_PICTURE, dataset("classify", BINARY, cases=cases))
    assert made.augmentation.flip_axes == ()
    assert "no flips: a radiograph has a left and a right" in made.reasons["augmentation"]
    assert made.normalisation[0].kind == "zscore"  # exposure moves its grey levels


def test_masks_guide_a_classifier_whose_training_cases_have_them(make_case: Callable[..., Case]) -> None:
    cases = tuple(make_case(number, mask="mask.nii.gz") for number in range(10))
    found = SMALL_PICTURE.model_copy(update={"cases": 10})
    made = plan(found, dataset("classify", BINARY, cases=cases))
    assert made.guided
    assert made.reasons["guided"] == "10 of 10 training cases carry masks to learn from"
    alone = plan(found, dataset("classify", BINARY, cases=cases[:4]))
    assert not alone.guided


def test_class_weights_are_the_square_root_of_rarity() -> None:
    found = SMALL_PICTURE.model_copy(update={"cases": 100, "class_counts": {0: 80, 1: 20}})
    made = plan(found, dataset("classify", BINARY))
    assert made.class_weights == pytest.approx(((100 / 160) ** 0.5, (100 / 40) ** 0.5), abs=1e-4)
    even = SMALL_PICTURE.model_copy(update={"class_counts": {0: 273, 1: 273}})
    assert plan(even, dataset("classify", BINARY)).class_weights is None


def test_several_classes_at_once_are_one_yes_or_no_each() -> None:
    labels = {n: f"finding {n}" for n in range(14)}
    found = SMALL_PICTURE.model_copy(update={"cases": 1000, "class_counts": dict.fromkeys(range(13), 100)})
    made = plan(found, dataset("classify", labels, multi_label=True))
    assert made.loss == "bce"
    assert made.multi_label
    assert made.class_weights is not None
    assert len(made.class_weights) == 14
    assert made.class_weights[0] == pytest.approx(3.0)
    assert made.class_weights[13] == pytest.approx(10**0.5, abs=1e-4)


def test_an_epoch_is_capped_for_large_sets_and_stretched_for_tiny_ones() -> None:
    large = SMALL_PICTURE.model_copy(update={"cases": 90_000, "class_counts": {0: 45_000, 1: 45_000}})
    made = plan(large, dataset("classify", BINARY))
    assert (made.batch, made.steps_per_epoch) == (64, 250)
    tiny = SMALL_PICTURE.model_copy(update={"cases": 6, "class_counts": {0: 3, 1: 3}})
    made = plan(tiny, dataset("classify", BINARY))
    assert (made.batch, made.steps_per_epoch) == (6, 10)


def test_overrides_win_and_later_choices_follow() -> None:
    overrides = {"patch": [16, 16, 16], "augmentation": {"rotate_deg": 5}, "network_options": {"fold": [1, 1, 1]}}
    made = plan(SMALL_VOLUME, dataset("segment", ORGANS), **overrides)
    assert made.patch == (16, 16, 16)
    assert len(made.network_options["filters"]) == 3  # 16 voxels are halved twice
    assert made.network_options["fold"] == (1, 1, 1)
    assert (made.augmentation.rotate_deg, made.augmentation.flip_axes) == (5.0, (0,))
    assert made.reasons["patch"] == "set by the experiment"


def test_another_network_starts_from_its_own_options() -> None:
    made = plan(SMALL_PICTURE, dataset("classify", BINARY), network="vit")
    assert (made.network, made.network_options, made.learning_rate) == ("vit", {}, 3e-4)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"pach": [8, 8, 8]}, r"plan\.pach: is no key of a plan; expected one of .*patch"),
        ({"labels": {0: "x"}}, r"plan\.labels: cannot be set"),
        ({"minutes": 3}, r"plan\.minutes: cannot be set: set budget.minutes"),
        ({"batch": "many"}, r"plan\.batch: .*integer.*'many'"),
        ({"augmentation": {"rotat": 3}}, r"plan\.augmentation\.rotat: "),
    ],
)
def test_a_wrong_override_is_refused_by_name(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(SMALL_VOLUME, dataset("segment", ORGANS), **overrides)
