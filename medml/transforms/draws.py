"""Random numbers of the cases of a step: a function of seed, step and the place of each case in the global batch.

However many processes share a batch, and in whatever order a training is stopped and resumed, the case at one place of
one step meets the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

MOVE, FLIP, ELASTIC, SOFTEN, COLOUR, NOISE = range(3, 9)  # lower numbers name the streams of batches and of mixing


class Draws:
    """Numbers for the cases at some places of one step's global batch.

    Parameters
    ----------
    places : sequence of int
        Row n of what is returned belongs to place ``places[n]``.
    """

    def __init__(self, seed: int, step: int, places: Sequence[int]) -> None:
        self._seed, self._step, self._places = seed, step, list(places)

    def uniform(self, stream: int, count: int) -> torch.Tensor:
        """Return numbers (B, count) in [0, 1)."""
        return self._rows(self._source(stream).random((self._needed, count), dtype=np.float32))

    def normal(self, stream: int, count: int) -> torch.Tensor:
        """Return normally distributed numbers (B, count)."""
        return self._rows(self._source(stream).standard_normal((self._needed, count), dtype=np.float32))

    def generator(self, stream: int, row: int, device: torch.device) -> torch.Generator:
        """Return a generator on the device for one case, where it needs as many numbers as voxels."""
        words = np.random.SeedSequence((self._seed, self._step, stream, self._places[row])).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(words[0]) >> 1)

    @property
    def _needed(self) -> int:
        return max(self._places, default=-1) + 1

    def _source(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, self._step, stream))

    def _rows(self, table: np.ndarray) -> torch.Tensor:
        """Return the rows of these places; a table of more rows begins with those of one of fewer."""
        return torch.from_numpy(table[self._places])


def spread(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers of [0, 1) spread over [-1, 1)."""
    return 2 * numbers - 1
