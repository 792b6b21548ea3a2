"""Means of probabilities, mirrored views and entropies, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medml.networks.ensemble import Ensemble, entropy_of, views


class Says(nn.Module):
    """Gives the same probabilities for every image or voxel."""

    def __init__(self, *shares: float, odds: bool = False) -> None:
        super().__init__()
        share = torch.tensor(shares)
        self.register_buffer("scores", torch.logit(share) if odds else 3.0 + share.log())

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores  # type: ignore[assignment]
        return scores.expand(len(batch), -1)


class Ramp(nn.Module):
    """Two labels; the score of the second one is the image itself, twice as much in its first column."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        weight = torch.ones(batch.shape[2:])
        weight[0] = 2
        return torch.cat([torch.zeros_like(batch), batch * weight], dim=1)


def ensemble(*members: nn.Module, flips: tuple[int, ...] = (), per_voxel: bool = False, odds: bool = False) -> Ensemble:
    return Ensemble(members, flips=flips, per_voxel=per_voxel, multi_label=odds).eval()


def test_views_are_all_combinations_of_mirrored_axes() -> None:
    assert views(()) == ((),)
    assert views((0, 2)) == ((), (2,), (4,), (2, 4))


def test_a_single_network_answers_with_its_own_logits() -> None:
    network = Says(0.25, 0.75)
    image = torch.zeros(2, 1, 4)
    torch.testing.assert_close(ensemble(network)(image), network(image), rtol=0, atol=0)


def test_probabilities_are_averaged_and_not_logits() -> None:
    scores = ensemble(Says(0.9, 0.1), Says(0.5, 0.5))(torch.zeros(1, 1, 4))
    torch.testing.assert_close(torch.softmax(scores, dim=1), torch.tensor([[0.7, 0.3]]))


def test_labels_that_may_hold_together_have_their_odds_averaged() -> None:
    both = ensemble(Says(0.9, 0.2, odds=True), Says(0.5, 0.4, odds=True), odds=True)
    torch.testing.assert_close(torch.sigmoid(both(torch.zeros(1, 1, 4))), torch.tensor([[0.7, 0.3]]))


def test_a_mirrored_view_is_turned_back() -> None:
    image = torch.tensor([1.0, 0.0, 1.0]).view(1, 1, 3, 1)
    found = torch.softmax(ensemble(Ramp(), flips=(0,), per_voxel=True)(image), dim=1)[0, 1, :, 0]
    # At either end one view scores 2 and the other 1.
    end = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2
    torch.testing.assert_close(found, torch.tensor([end, 0.5, end]))


def test_entropy_of_single_answers_stands_beside_the_mean() -> None:
    both = ensemble(Says(0.9, 0.1), Says(0.5, 0.5))
    found = both.with_entropy(torch.zeros(1, 1, 4))
    torch.testing.assert_close(found[:, :2], both(torch.zeros(1, 1, 4)))
    single = (-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) + math.log(2)) / 2
    assert float(found[0, 2]) == pytest.approx(single, abs=1e-6)
    total = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert float(entropy_of(found[:, :2], multi_label=False)) == pytest.approx(total, abs=1e-6)
    assert both.voices == 2


def test_entropy_of_labels_that_may_hold_together_is_their_mean() -> None:
    scores = torch.tensor([[0.0, 50.0]])  # one label undecided, one sure
    assert float(entropy_of(scores, multi_label=True)) == pytest.approx(math.log(2) / 2, abs=1e-6)
