"""Folding loses nothing, and what is unfolded lies where it lay."""

from __future__ import annotations

import pytest
import torch

from medml.networks.folded_unet import FoldedUNet, fold_blocks, unfold_blocks


def test_the_voxels_of_a_block_become_channels_in_their_order() -> None:
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    folded = fold_blocks(picture, (2, 2))
    assert folded.shape == (1, 4, 2, 2)
    assert folded[0, :, 0, 0].tolist() == [0.0, 1.0, 4.0, 5.0]
    assert folded[0, :, 1, 0].tolist() == [8.0, 9.0, 12.0, 13.0]


@pytest.mark.parametrize("fold", [(2, 2, 2), (2, 1, 2), (1, 1, 1)])
def test_unfolding_undoes_folding(fold: tuple[int, ...]) -> None:
    voxels = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(unfold_blocks(fold_blocks(voxels, fold), fold), voxels)


def test_a_network_returns_scores_on_the_grid_of_its_images() -> None:
    strides = [(1, 1, 1), (2, 2, 1), (2, 2, 2)]
    network = FoldedUNet(3, 2, 3, filters=[4, 6, 8], strides=strides, fold=(2, 2, 1)).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, 16, 16, 6)).shape == (1, 3, 16, 16, 6)


def test_a_score_depends_on_its_own_voxel() -> None:
    network = FoldedUNet(2, 1, 2, filters=[4, 6, 8], strides=[(1, 1), (2, 2), (2, 2)], fold=(2, 2))
    image = torch.randn(1, 1, 16, 16, requires_grad=True)
    network(image)[0, 1, 5, 9].backward()
    assert image.grad is not None
    assert image.grad[0, 0, 5, 9] != 0
