"""A network run over an image window by window, blended by a Gaussian: MONAI's `sliding_window_inference`, slimmer.

Places of the windows, weights and padding are MONAI's, so that a package's bundle, which calls MONAI, gives the same.
Beyond it: what is blended adds up in place, slices share a step, windows without anything of interest are left out, and
the sum may be kept on another device than the network's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import nn

Place = tuple[slice, ...]
Window = tuple[slice, Place]

SIGMA = 0.125  # of the Gaussian, as a share of the window's side
BACKGROUND = 30.0  # score of the background where no window was asked: its probability rounds to 1


def slide(
    images: torch.Tensor,
    window: tuple[int, ...],
    ask: Callable[[torch.Tensor], torch.Tensor],
    *,
    channels: int,
    overlap: float,
    batch: int,
    keep_on: torch.device | None = None,
    wanted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return blended scores (B, N, I, J, K), float32, of images (B, C, I, J, K).

    Parameters
    ----------
    window : tuple of int
        Its shape (I, J, K); a smaller image is padded with zeros around it.
    ask : callable
        Windows (b, C, I, J, K) to scores (b, N, I, J, K).
    channels : int
        N.
    overlap : float
        Share of a window that the next one covers again.
    batch : int
        Windows asked at a time.
    keep_on : torch.device, optional
        Where scores are added up; where the images are by default.
    wanted : tensor of shape (B, I, J, K), bool
        A window that holds none of it is not asked; where no window was asked, channel 0 has `BACKGROUND`.
    """
    pads = _pads(images.shape[2:], window)
    padded = nn.functional.pad(images, pads) if any(pads) else images
    if wanted is not None:
        wanted = nn.functional.pad(wanted, pads)
    keep_on = keep_on or images.device
    weight = compute_importance_map(window, mode="gaussian", sigma_scale=SIGMA, device=keep_on, dtype=torch.float32)
    weight = torch.as_tensor(weight)
    shape = padded.shape[2:]
    scores = torch.zeros((len(images), channels, *shape), device=keep_on)
    total = torch.zeros((1 if wanted is None else len(images), 1, *shape), device=keep_on)
    for group in _groups(padded, window, overlap, batch, wanted):
        answers = ask(torch.cat([padded[(rows, slice(None), *place)] for rows, place in group])).to(keep_on)
        for (rows, place), answer in zip(group, answers.chunk(len(group)), strict=True):
            scores[(rows, slice(None), *place)].addcmul_(answer, weight)
            if wanted is not None:
                total[(rows, slice(None), *place)].add_(weight)
            elif rows.start == 0:
                total[(slice(None), slice(None), *place)].add_(weight)
    if wanted is not None:
        empty = total == 0
        scores[:, :1].masked_fill_(empty, BACKGROUND)
        total.masked_fill_(empty, 1.0)
    scores.div_(total)
    inner = tuple(slice(before, before + n) for before, n in zip(pads[-2::-2], images.shape[2:], strict=True))
    return scores[(slice(None), slice(None), *inner)]


def _pads(shape: torch.Size, window: tuple[int, ...]) -> list[int]:
    """Return what is added before and behind each axis, the last axis first, as `nn.functional.pad` wants it."""
    missing = [max(0, side - length) for side, length in zip(window, shape, strict=True)]
    return [width for lack in reversed(missing) for width in (lack // 2, lack - lack // 2)]


def _groups(
    padded: torch.Tensor, window: tuple[int, ...], overlap: float, batch: int, wanted: torch.Tensor | None
) -> Iterator[list[Window]]:
    """Yield windows that are asked together: as many images at a time as fit, else several places of one image.

    All windows of a group have as many images.
    """
    shape = tuple(padded.shape[2:])
    steps = [side if side == length else max(1, int(side * (1 - overlap))) for side, length in zip(window, shape)]  # noqa: B905
    places = dense_patch_slices(shape, window, steps)
    for first in range(0, len(padded), batch):
        rows = slice(first, min(first + batch, len(padded)))
        chosen = [(rows, place) for place in places if wanted is None or bool(wanted[(rows, *place)].any())]
        several = max(1, batch // (rows.stop - rows.start))
        yield from (chosen[start : start + several] for start in range(0, len(chosen), several))
