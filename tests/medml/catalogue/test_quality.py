"""Findings about one image, each on a phantom whose numbers are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medml.catalogue.quality import assess, slice_axis_of
from medml.catalogue.quality_rules import RULES, QualityLimits, finding, worst_first
from medml.config import validate
from medml.errors import ConfigError
from medml.records.scan import Finding, Volume

AIR, WATER = -1000, 40


def noisy(shape: tuple[int, ...] = (20, 20, 10), *, mean: float = 500, sd: float = 10) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, sd, shape).astype(np.float32)


def volume(voxels: np.ndarray, spacing: tuple[float, float, float] = (2, 2, 2), geometry: str = "mm") -> Volume:
    voxels = voxels if voxels.ndim == 4 else voxels[np.newaxis]
    return Volume(voxels, np.diag([*spacing, 1.0]), geometry)  # type: ignore[arg-type]


def body(*, centre: float = 50, radius: float = 30, n: int = 100, depth: int = 8) -> np.ndarray:
    """A CT of a cylinder of water in air, 10 HU noise; n x n x depth voxels."""
    i, j = np.ogrid[:n, :n]
    inside = ((i - centre) ** 2 + (j - 50) ** 2 <= radius**2)[..., np.newaxis]
    return np.where(inside, WATER, AIR) + np.random.default_rng(1).normal(0, 10, (n, n, depth))


def found(image: Volume, **options: object) -> dict[str, Finding]:
    return {item.code: item for item in assess(image, **options).findings}  # type: ignore[arg-type]


def test_a_good_ct_and_a_good_picture_show_nothing() -> None:
    assert found(volume(body().astype(np.int16)), modality="CT") == {}
    grey = np.random.default_rng(0).integers(0, 255, (28, 28, 1)).astype(np.uint8)
    assert found(volume(grey, geometry="none")) == {}


def test_one_value_everywhere_is_an_error_and_nothing_else_is_said() -> None:
    judged = assess(volume(np.zeros((20, 20, 10), np.int16)), modality="CT")
    assert [(item.code, item.severity) for item in judged.findings] == [("constant_image", "error")]
    assert "all 4000 voxels are 0" in judged.findings[0].message
    assert (judged.numbers, judged.likeness) == ({}, "")


def test_nan_and_infinity_are_counted() -> None:
    voxels = noisy()
    voxels[0, 0, :3] = np.nan
    voxels[1, 0, 0] = np.inf
    item = found(volume(voxels))["non_finite"]
    assert item.numbers == {"voxels": 4.0}
    assert "4 of 4000 voxels" in item.message


def test_empty_slices_inside_are_told_from_those_at_the_ends() -> None:
    voxels = noisy()
    voxels[:, :, [0, 1, 4, 5, 9]] = 0
    items = found(volume(voxels))
    assert items["empty_slices"].numbers == {"slices": 2, "first": 4, "last": 5}
    assert "2 of 10 slices hold one value each: 4-5" in items["empty_slices"].message
    assert items["empty_ends"].numbers == {"start": 2, "end": 1}
    assert items["empty_ends"].severity == "info"


def test_slices_are_looked_for_along_their_own_axis() -> None:
    voxels = noisy((10, 20, 20))
    voxels[3] = 7
    assert "empty_slices" in found(volume(voxels), slice_axis=0)
    assert "empty_slices" not in found(volume(voxels), slice_axis=2)


def test_a_spike_at_the_top_is_saturation_and_a_smooth_tail_is_not() -> None:
    picture = np.random.default_rng(0).normal(200, 30, (100, 100, 1))
    clipped = np.clip(picture, 0, 255).astype(np.uint8)  # P(x >= 255) = P(z >= 1.83) = 3.3 %
    item = found(volume(clipped, geometry="none"))["saturated"]
    assert item.numbers["share"] == pytest.approx(0.034, abs=0.006)
    assert "saturated" not in found(volume((picture / 2).astype(np.uint8), geometry="none"))


def test_a_drawn_shape_is_neither_saturated_nor_compared() -> None:
    shape = np.zeros((20, 20, 20), np.uint8)
    shape[5:15, 5:15, [5, 6, 9]] = 1
    judged = assess(volume(shape, geometry="none"))
    assert {item.code for item in judged.findings} == {"empty_ends"}
    assert "snr" not in judged.numbers


@pytest.mark.parametrize(
    ("spacing", "shape", "code", "numbers"),
    [
        ((1, 1, 5), (40, 40, 8), "anisotropic", {"ratio": 5}),
        ((1, 1.5, 2), (40, 40, 8), "non_square_pixels", {"first_mm": 1, "second_mm": 1.5}),
        ((2, 2, 2), (40, 40, 4), "few_slices", {"slices": 4}),
        ((0.001, 0.001, 0.002), (40, 40, 8), "small_field_of_view", {"longest_mm": 0.04, "second_mm": 0.04}),
        ((30, 30, 30), (40, 40, 8), "large_field_of_view", {"longest_mm": 1200, "second_mm": 1200}),
        ((5, 5, 60), (40, 40, 40), "large_field_of_view", {"longest_mm": 2400, "second_mm": 200}),
    ],
)
def test_odd_grids(spacing, shape, code: str, numbers: dict[str, float]) -> None:
    assert found(volume(noisy(shape), spacing))[code].numbers == numbers


def test_limits_of_the_grid_hold_exactly() -> None:
    assert found(volume(noisy((40, 40, 5)), (1, 1.019, 3))) == {}
    assert "few_slices" not in found(volume(noisy((40, 40, 1)), (1, 1, 8)))  # a flat image is no volume
    assert found(volume(noisy((300, 40, 40)), (7, 1, 1)), slice_axis=0).keys() == {"anisotropic"}  # 2.1 m along


def test_nothing_in_mm_is_said_of_an_image_without_spacing() -> None:
    assert found(volume(noisy((40, 40, 8)), (1, 3, 9), "none")) == {}


def test_a_ct_without_its_intercept_is_no_ct() -> None:
    item = found(volume((body() + 1024).clip(0)), modality="CT")["ct_not_hounsfield"]
    assert (item.severity, item.numbers["low"]) == ("error", 0)
    assert "ct_not_hounsfield" in found(volume((body() + 1000) / 1200), modality="CT")  # scaled to 0..1
    assert "ct_not_hounsfield" in found(volume((body() + 1000) / 1200 - 0.5), modality="CT")
    assert "ct_not_hounsfield" not in found(volume(body() + 1024), modality="MR")


def test_an_intercept_applied_twice_is_told_from_padding() -> None:
    twice = found(volume(body() - 1024), modality="CT")
    assert twice["ct_below_air"].numbers["share"] == pytest.approx(1 - np.pi * 0.09, abs=0.01)
    padded = body()
    padded[:5] = -3024
    items = found(volume(padded), modality="CT")
    assert items.keys() == {"ct_padding"}
    assert items["ct_padding"].numbers == {"share": 0.05, "value": -3024}


def test_air_and_the_scale_of_a_ct() -> None:
    assert found(volume(body() + 80), modality="CT")["ct_air_off"].numbers["air_hu"] == pytest.approx(-920, abs=10)
    assert found(volume(body() + 20), modality="CT") == {}
    metal = body()
    metal[50, 50, 4] = 9000
    assert found(volume(metal), modality="CT")["ct_beyond_12_bit"].numbers == {"high": 9000}


def test_a_body_at_the_edge_is_cut_off() -> None:
    # A circle of 30 pixels of 2 mm around (10, 50) crosses the side i = 0 over 2 sqrt(900 - 100) = 56.6 pixels.
    item = found(volume(body(centre=10)), modality="CT")["truncated_field_of_view"]
    assert item.numbers == {"longest_mm": pytest.approx(113, abs=4), "slices": 8, "looked_at": 8}
    # Around (-25, 50) it crosses over 2 sqrt(900 - 625) = 33.2 pixels of 0.8 mm: 27 mm, as wide as a couch may be.
    assert found(volume(body(centre=-25), (0.8, 0.8, 2)), modality="CT") == {}
    mr = body(centre=10) + 1000
    assert found(volume(mr), modality="MR")["body_at_edge"].severity == "info"
    assert found(volume(mr), modality="PT") == {}


def test_the_edge_of_a_round_field_counts_too() -> None:
    i, j = np.ogrid[:100, :100]
    outside = (i - 49.5) ** 2 + (j - 49.5) ** 2 > 45**2
    image = body(centre=30)
    image[outside] = -2000
    assert found(volume(image), modality="CT").keys() == {"ct_padding", "truncated_field_of_view"}
    middle = body()
    middle[outside] = -2000
    assert found(volume(middle), modality="CT").keys() == {"ct_padding"}


def test_a_crop_within_the_body_is_called_a_crop_whatever_its_least_value() -> None:
    assert found(volume(body()[35:65, 35:65]), modality="CT").keys() == {"cropped"}
    assert found(volume(body()[35:65, 35:65] + 100), modality="CT").keys() == {"cropped"}


def test_a_body_cut_off_in_few_slices_is_let_pass() -> None:
    image = body(depth=40)
    image[..., :2] = body(centre=10, depth=2)
    assert found(volume(image), modality="CT") == {}


def test_noise_and_contrast_are_what_they_were_made() -> None:
    half = noisy((40, 40, 10), mean=500, sd=10)
    half[:20] = 0  # mean 250, deviation 250
    numbers = assess(volume(half)).numbers
    assert numbers["noise"] == pytest.approx(10, rel=0.05)
    assert numbers["snr"] == pytest.approx(50, rel=0.05)
    assert numbers["contrast"] == pytest.approx(1, rel=0.01)
    ct = assess(volume(body(n=100, depth=10)), modality="CT").numbers
    assert ct["noise"] == pytest.approx(10, rel=0.1)  # the rim of the body counts in
    assert ct["snr"] == pytest.approx((WATER + 1000) / 10, rel=0.1)
    assert ct["body_share"] == pytest.approx(np.pi * 0.09, abs=0.01)


def test_every_component_is_looked_at_for_what_is_not_finite() -> None:
    voxels = np.stack([noisy(), noisy()])
    voxels[1, 2, 3, 4] = np.nan
    assert "non_finite" in found(volume(voxels))


def test_colour_pictures_and_signals_can_be_assessed() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (3, 16, 12, 1)).astype(np.uint8)
    assert assess(volume(colour, geometry="none")).likeness.startswith("2:")
    assert assess(volume(noisy((500, 1, 1)), geometry="none"), slice_axis=2).findings == ()


def test_the_odd_axis_is_the_one_slices_were_taken_along() -> None:
    assert slice_axis_of((5, 1, 1), 2) == 0
    assert slice_axis_of((1, 5, 1), 2) == 1
    assert slice_axis_of((1, 1, 1), 0) == 0
    assert slice_axis_of((1, 2, 3), 1) == 1
    assert slice_axis_of(None, 1) == 1


def test_thresholds_can_be_set_and_are_checked() -> None:
    image = volume(noisy((40, 40, 8)), (1, 1, 2.5))
    assert found(image) == {}
    assert "anisotropic" in found(image, limits=QualityLimits(anisotropy=2.0))
    with pytest.raises(ConfigError, match="saturated_share"):
        validate({"saturated_share": 2}, QualityLimits, name="x")


def test_findings_come_worst_first_and_every_rule_is_complete() -> None:
    items = (finding("cropped", "b"), finding("saturated", "a"), finding("constant_image", "c"))
    assert [item.code for item in worst_first(items)] == ["constant_image", "saturated", "cropped"]
    assert all(rule.meaning and rule.threshold and rule.advice for rule in RULES.values())
