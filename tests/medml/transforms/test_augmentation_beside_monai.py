"""Random changes have the statistics of the MONAI transforms that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    AdjustContrast,
    Compose,
    GaussianSmooth,
    Rand3DElastic,
    RandAffine,
    RandGaussianNoise,
    RandScaleIntensityFixedMean,
    RandShiftIntensity,
    RandSimulateLowResolution,
    RandZoom,
)
from scipy import ndimage
from scipy.stats import ks_2samp, ttest_ind

from medml.records.plan import Augmentation
from medml.transforms.augmentation import augment
from medml.transforms.draws import Draws, spread
from medml.transforms.movement import affines, displacements, sampling_grid
from medml.transforms.recolouring import bend, blur_matrix, coarse_matrix

STILL = Augmentation(rotate_deg=0, scale=0, translate=0, noise=0, contrast=0, brightness=0)
COUNT = 200
UNLIKELY = 1e-3
ONES = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """A smooth random volume of unit spread."""
    volume = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(12, 14, 12)), 1.5)
    return torch.from_numpy((volume / volume.std()).astype(np.float32))[None]


def ours(image: torch.Tensor, **changes: Any) -> torch.Tensor:
    images = image.expand(COUNT, *image.shape)
    changed, _ = augment(images, None, STILL.model_copy(update=changes), spacing_mm=None, seed=1, step=2)
    return changed


def theirs(image: torch.Tensor, transform: Any) -> torch.Tensor:
    transform.set_random_state(3)
    return torch.stack([torch.as_tensor(np.asarray(transform(image))) for _ in range(COUNT)])


def test_angles_of_rotation() -> None:
    numbers = spread(Draws(0, 0, range(COUNT)).uniform(3, 18))[:, 1:]
    numbers[:, :2] = 0  # about one axis, an angle can be read off the matrix
    matrices = affines(numbers, (8, 8, 8), STILL.model_copy(update={"rotate_deg": 30.0}), ONES)
    angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).numpy()
    monai = RandAffine(prob=1.0, rotate_range=(0.0, 0.0, float(np.radians(30.0)))).set_random_state(0)
    expected = []
    for _ in range(COUNT):
        monai.randomize()
        expected.append(monai.rand_affine_grid.rotate_params[2])
    assert ks_2samp(angles, expected).pvalue > UNLIKELY
    assert np.abs(angles).max() <= np.radians(30.0) + 1e-6


def test_factors_of_scaling(image: torch.Tensor) -> None:
    numbers = spread(Draws(0, 0, range(COUNT)).uniform(3, 18))[:, 1:]
    matrices = affines(numbers, (8, 8, 8), STILL.model_copy(update={"scale": 0.2}), ONES)
    monai = RandZoom(prob=1.0, min_zoom=0.8, max_zoom=1.2).set_random_state(0)
    expected = []
    for _ in range(COUNT):
        monai.randomize(image)
        expected.append(monai._zoom[0])
    assert ks_2samp(1 / matrices[:, 0, 0].numpy(), expected).pvalue > UNLIKELY


def test_strength_of_noise(image: torch.Tensor) -> None:
    found = (ours(image, noise=0.3) - image).std(dim=(1, 2, 3, 4))
    expected = (theirs(image, RandGaussianNoise(prob=1.0, std=0.3)) - image).std(dim=(1, 2, 3, 4))
    assert ks_2samp(found.numpy(), expected.numpy()).pvalue > UNLIKELY


def test_contrast_and_brightness(image: torch.Tensor) -> None:
    contrast = ours(image, contrast=0.25)
    expected = theirs(image, RandScaleIntensityFixedMean(prob=1.0, factors=0.25, fixed_mean=True))
    assert ks_2samp(contrast.std(dim=(1, 2, 3, 4)).numpy(), expected.std(dim=(1, 2, 3, 4)).numpy()).pvalue > UNLIKELY
    assert torch.allclose(contrast.mean(dim=(1, 2, 3, 4)), expected.mean(dim=(1, 2, 3, 4)), atol=1e-4)
    bright = ours(image, brightness=0.25).mean(dim=(1, 2, 3, 4))
    expected = theirs(image, RandShiftIntensity(prob=1.0, offsets=0.25)).mean(dim=(1, 2, 3, 4))
    assert ks_2samp(bright.numpy(), expected.numpy()).pvalue > UNLIKELY


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_is_that_of_monai(image: torch.Tensor, inverted: bool) -> None:
    bent = bend(image[None], torch.tensor([[1.4]]), torch.tensor([inverted]))[0]
    found = (bent - bent.mean()) / bent.std() * image.std() + image.mean()
    expected = AdjustContrast(gamma=1.4, invert_image=inverted, retain_stats=True)(image)
    assert torch.allclose(found, torch.as_tensor(np.asarray(expected)), atol=2e-3)


def test_a_coarser_scan_is_that_of_monai(image: torch.Tensor) -> None:
    monai = RandSimulateLowResolution(
        prob=1.0, zoom_range=(0.5, 0.5), downsample_mode="nearest-exact", upsample_mode="trilinear"
    )
    found = image
    for axis, along in enumerate(("ij,cjkl->cikl", "ij,ckjl->ckil", "ij,cklj->ckli")):
        found = torch.einsum(along, coarse_matrix(image.shape[1 + axis], torch.tensor([0.5]))[0], found)
    assert torch.allclose(found, torch.as_tensor(np.asarray(monai(image))), atol=1e-5)


def test_blur_is_that_of_monai_away_from_the_edge() -> None:
    line = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    expected = GaussianSmooth(sigma=1.2, approx="sampled")(line)
    found = line @ blur_matrix(40, torch.tensor([1.2]))[0].T
    assert torch.allclose(found[:, 8:-8], torch.as_tensor(np.asarray(expected))[:, 8:-8], atol=2e-3)


def test_elastic_displacements_are_as_large_and_as_smooth() -> None:
    sigma, magnitude, size, edge = 4.0, 200.0, 40, 10
    shape = (size, size, size)
    ramp = torch.arange(float(size)).view(1, size, 1, 1).expand(1, *shape)
    monai = Rand3DElastic((sigma, sigma), (magnitude, magnitude), prob=1.0, padding_mode="border").set_random_state(0)
    moved = torch.stack([torch.as_tensor(np.asarray(monai(ramp)))[0] for _ in range(8)]) - ramp
    # A Gaussian of that width leaves so much of the spread of uniform noise; a cubic B-spline is about as wide.
    spread_of = magnitude / 3**0.5 * (1 / (2 * np.pi**0.5 * sigma)) ** 1.5
    change = STILL.model_copy(update={"elastic": spread_of, "elastic_distance": 3**0.5 * sigma})
    field = displacements(torch.ones(8), shape, change, ONES, Draws(0, 0, range(8)))
    still = torch.eye(3, 4).expand(8, 3, 4)
    own = (sampling_grid(still, shape, field) - sampling_grid(still, shape))[..., 2] * size / 2
    inner = (slice(None), *[slice(edge, -edge)] * 3)
    found, expected = own[inner], moved[inner]
    assert float(found.std()) == pytest.approx(float(expected.std()), rel=0.15)
    for lag in (2, 4):
        alike = [float((d[:, lag:] * d[:, :-lag]).mean() / d.square().mean()) for d in (found, expected)]
        assert alike[0] == pytest.approx(alike[1], abs=0.1)


def test_mean_and_spread_of_all_together(image: torch.Tensor) -> None:
    found = ours(image, rotate_deg=20.0, scale_each=0.1, noise=0.2, contrast=0.2, brightness=0.2)
    angle = float(np.radians(20.0))
    monai = Compose(
        [
            RandAffine(
                prob=1.0, rotate_range=(angle,) * 3, scale_range=(0.1,) * 3, padding_mode="border", mode="bilinear"
            ),
            RandScaleIntensityFixedMean(prob=1.0, factors=0.2, fixed_mean=True),
            RandShiftIntensity(prob=1.0, offsets=0.2),
            RandGaussianNoise(prob=1.0, std=0.2),
        ]
    )
    expected = theirs(image, monai)
    for measure in ("mean", "std"):
        one, other = (getattr(batch, measure)(dim=(1, 2, 3, 4)).numpy() for batch in (found, expected))
        assert ttest_ind(one, other, equal_var=False).pvalue > UNLIKELY
