"""Several networks, and mirrored views of the input, asked as one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

View = tuple[int, ...]


class Ensemble(nn.Module):
    """Networks of one plan whose probabilities are averaged, over mirrored views too.

    What comes out are logits again: log probabilities of the mean, or its log odds where several labels may hold. A
    single network without mirroring gives its own logits, untouched.

    Parameters
    ----------
    members : sequence of nn.Module
        As `build_network` makes them.
    flips : tuple of int
        Spatial axes of the network's input that test-time views are mirrored along, in every combination.
    per_voxel : bool
        Whether the scores lie on the input's grid (segmenters) and are mirrored back.
    multi_label : bool
        Whether probabilities are sigmoids of the scores and not their softmax.
    """

    def __init__(
        self, members: Sequence[nn.Module], *, flips: tuple[int, ...], per_voxel: bool, multi_label: bool
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.views = views(flips)
        self.per_voxel = per_voxel
        self.multi_label = multi_label

    @property
    def voices(self) -> int:
        """How many answers are averaged."""
        return len(self.members) * len(self.views)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return scores (B, L, ...) of a batch (B, C, ...)."""
        return self._mean(self._answers(batch))

    def with_entropy(self, batch: torch.Tensor) -> torch.Tensor:
        """Return scores and, as one more channel, the mean entropy of the single answers in nats: (B, L + 1, ...)."""
        entropies: list[torch.Tensor] = []

        def noted() -> Iterator[torch.Tensor]:
            for scores in self._answers(batch):
                entropies.append(entropy_of(scores, multi_label=self.multi_label))
                yield scores

        mean = self._mean(noted()).float()
        return torch.cat([mean, torch.stack(entropies).mean(dim=0).unsqueeze(1)], dim=1)

    def _answers(self, batch: torch.Tensor) -> Iterator[torch.Tensor]:
        for member, axes in itertools.product(self.members, self.views):
            scores = torch.as_tensor(member(torch.flip(batch, axes) if axes else batch))
            yield torch.flip(scores, axes) if axes and self.per_voxel else scores

    def _mean(self, answers: Iterator[torch.Tensor]) -> torch.Tensor:
        total = next(answers)
        if self.voices == 1:
            return total
        total = self._logs(total)
        for scores in answers:
            total = _log_of_sum(total, self._logs(scores))
        return total[0] - total[1] if self.multi_label else total - math.log(self.voices)

    def _logs(self, scores: torch.Tensor) -> torch.Tensor:
        """Return log probabilities (B, L, ...); where several labels may hold, of present and absent (2, B, L)."""
        if self.multi_label:
            return -nn.functional.softplus(torch.stack((-scores, scores)).float())
        return torch.log_softmax(scores.float(), dim=1)


def _log_of_sum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return log(exp(one) + exp(other)); `torch.logaddexp` becomes an ONNX graph that underflows."""
    return torch.maximum(one, other) + torch.log1p(torch.exp(-(one - other).abs()))


def entropy_of(scores: torch.Tensor, *, multi_label: bool, dim: int = 1) -> torch.Tensor:
    """Return the entropy along ``dim`` of the probabilities of scores, in nats; of several labels, their mean."""
    if multi_label:
        share = torch.sigmoid(scores.float())
        terms: torch.Tensor = torch.special.entr(share) + torch.special.entr(1 - share)
        return terms.mean(dim=dim)
    terms = torch.special.entr(torch.softmax(scores.float(), dim=dim))
    return terms.sum(dim=dim)


def views(flips: tuple[int, ...]) -> tuple[View, ...]:
    """Return the axes of a batch (B, C, ...) that each view is mirrored along; the first view is the image as it is."""
    return tuple(
        tuple(axis + 2 for axis in subset)
        for number in range(len(flips) + 1)
        for subset in itertools.combinations(flips, number)
    )
