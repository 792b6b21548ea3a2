"""Windows beside MONAI's inferer: same places, weights and padding, and what goes beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference

from medml.networks.windows import BACKGROUND, slide

Shape = tuple[int, ...]


def ask(windows: torch.Tensor) -> torch.Tensor:
    """Scores of three labels that differ from voxel to voxel, and with what else a window holds."""
    own = windows[:, :1]
    mean = windows.mean(dim=(1, 2, 3, 4), keepdim=True).expand_as(own)
    return torch.cat([own, own * mean, own.square() + windows[:, -1:]], dim=1)


@pytest.mark.parametrize(
    ("shape", "window", "overlap", "batch"),
    [
        ((1, 1, 23, 17, 13), (8, 8, 8), 0.5, 1),
        ((1, 2, 23, 17, 13), (8, 6, 4), 0.25, 4),
        ((1, 1, 9, 30, 5), (16, 16, 16), 0.5, 3),  # smaller than the window along two axes
        ((1, 1, 5, 4, 3), (8, 8, 8), 0.5, 2),  # along all
        ((1, 1, 16, 16, 16), (16, 16, 16), 0.5, 2),  # the window itself
        ((1, 1, 20, 20, 20), (8, 8, 8), 0.0, 5),
        ((7, 1, 21, 12, 1), (8, 8, 1), 0.5, 3),  # slices of a 2D network
        ((2, 1, 5, 12, 1), (8, 8, 1), 0.5, 8),
    ],
)
def test_scores_are_those_of_monai(shape: Shape, window: Shape, overlap: float, batch: int) -> None:
    images = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    theirs = sliding_window_inference(images, window, 1, ask, overlap=overlap, mode="gaussian")
    ours = slide(images, window, ask, channels=3, overlap=overlap, batch=batch)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "window"), [((1, 1, 40, 12, 12), (8, 8, 8)), ((4, 1, 40, 12, 1), (8, 8, 1))])
def test_windows_of_air_are_not_asked_and_inside_nothing_changes(shape: Shape, window: Shape) -> None:
    images = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    wanted = torch.zeros((shape[0], *shape[2:]), dtype=torch.bool)
    wanted[0, 2:7, 3:9] = True
    asked = 0

    def counted(windows: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += len(windows)
        return ask(windows)

    every = slide(images, window, counted, channels=3, overlap=0.5, batch=1)
    whole, asked = asked, 0
    some = slide(images, window, counted, channels=3, overlap=0.5, batch=1, wanted=wanted)
    assert asked < whole / 2
    inside = wanted[:, None].expand_as(every)
    torch.testing.assert_close(some[inside], every[inside], rtol=0, atol=1e-5)
    far = some[:, :, 30:]
    assert bool((far[:, 0] == BACKGROUND).all())
    assert bool((far[:, 1:] == 0).all())


def test_an_image_of_air_alone_is_background() -> None:
    images = torch.zeros(1, 1, 9, 9, 9)
    nothing = torch.zeros(1, 9, 9, 9, dtype=torch.bool)
    scores = slide(images, (8, 8, 8), ask, channels=3, overlap=0.5, batch=2, wanted=nothing)
    assert scores.shape == (1, 3, 9, 9, 9)
    assert bool((scores.argmax(dim=1) == 0).all())


def test_no_more_windows_are_asked_at_a_time_than_said() -> None:
    sizes: list[int] = []

    def noted(windows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(windows))
        return ask(windows)

    slide(torch.zeros(1, 1, 20, 20, 8), (8, 8, 8), noted, channels=3, overlap=0.5, batch=3)  # 4 x 4 windows
    assert sizes == [3, 3, 3, 3, 3, 1]
    sizes.clear()
    slide(torch.zeros(5, 1, 20, 8, 1), (8, 8, 1), noted, channels=3, overlap=0.5, batch=3)  # 4 windows a slice
    assert sizes == [3, 3, 3, 3, 2, 2, 2, 2]
