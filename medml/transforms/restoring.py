"""The way back from the network's grid to the volume's own, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from medml.records.plan import Plan
from medml.transforms.preprocessing import Prepared, Shape
from medml.transforms.resampling import resample_linear

RESTORE_BYTES = 256 << 20


def restore(scores: np.ndarray | torch.Tensor, prepared: Prepared, plan: Plan) -> np.ndarray:
    """Turn a segmenter's output into labels on the volume's own grid.

    Scores are resampled linearly before the argmax, slab by slab, so that the full-size scores of all labels never
    exist at once. Outside the crop is background.

    Parameters
    ----------
    scores : array of shape (L, I, J, K)
        Logits or probabilities on the network grid; on any device.

    Returns
    -------
    ndarray of shape (I, J, K), uint8
    """
    tensor = torch.as_tensor(scores)
    expected = (len(plan.labels), *prepared.resampled)
    if tuple(tensor.shape) != expected:
        raise ValueError(f"scores have shape {tuple(tensor.shape)}, expected {expected} (labels, I, J, K)")
    mask = np.zeros(prepared.shape, dtype=np.uint8)
    for where, part in _slabs_back(tensor, prepared):
        mask[where[1:]] = best_label(part).cpu().numpy()
    return _turned_back(mask, prepared)


def restore_probabilities(scores: np.ndarray | torch.Tensor, prepared: Prepared, plan: Plan) -> np.ndarray:
    """Turn a segmenter's logits into probabilities of each label on the volume's own grid.

    Parameters
    ----------
    scores : array of shape (L, I, J, K)
        Logits on the network grid; resampled linearly as `restore` does, then softmax.

    Returns
    -------
    ndarray of shape (L, I, J, K), float16
        Outside the crop the background has 1.
    """
    result = np.zeros((len(scores), *prepared.shape), dtype=np.float16)
    result[0] = 1
    for where, part in _slabs_back(torch.as_tensor(scores), prepared):
        result[where] = torch.softmax(part.float(), dim=0).to(torch.float16).cpu().numpy()
    return _turned_back(result, prepared)


def restore_values(values: torch.Tensor, prepared: Prepared, *, dtype: type[np.floating] = np.float16) -> np.ndarray:
    """Bring one value per voxel (I, J, K) of the network grid to the volume's own grid, linearly; 0 outside the crop.

    Returns
    -------
    ndarray of shape (I, J, K) and ``dtype``
    """
    result = np.zeros(prepared.shape, dtype=dtype)
    for where, part in _slabs_back(values[None], prepared):
        torch.from_numpy(result)[where[1:]].copy_(part[0])  # made shorter before it leaves the device
    return _turned_back(result, prepared)


def best_label(scores: torch.Tensor) -> torch.Tensor:
    """Return the argmax over the first axis as uint8; ties go to the lower label.

    One pass per label, about ten times faster on a CPU than `torch.argmax` over a short leading axis.
    """
    best = scores[0].clone()
    label = torch.zeros(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    for value in range(1, scores.shape[0]):
        label.masked_fill_(scores[value] > best, value)
        torch.maximum(best, scores[value], out=best)
    return label


def _slabs_back(
    tensor: torch.Tensor, prepared: Prepared
) -> Iterator[tuple[tuple[slice, slice, slice, slice], torch.Tensor]]:
    """Yield (N, I, J, K) resampled to the volume's own grid, a slab along K at a time, with the place it goes to."""
    start, stop = prepared.box
    inner: Shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
    a, b, c = prepared.step
    back, offset = (1 / a, 1 / b, 1 / c), tuple(-o / s for o, s in zip(prepared.offset, prepared.step, strict=True))
    same = prepared.step == (1.0, 1.0, 1.0)
    slab = inner[2] if same else max(1, RESTORE_BYTES // (4 * tensor.shape[0] * inner[0] * inner[1]))
    for first in range(0, inner[2], slab):
        depth = min(slab, inner[2] - first)
        into = slice(start[2] + first, start[2] + first + depth)
        part = resample_linear(
            tensor, back, (inner[0], inner[1], depth), offset=(offset[0], offset[1], offset[2]), first=(0, 0, first)
        )
        yield (slice(None), slice(start[0], stop[0]), slice(start[1], stop[1]), into), part


def _turned_back(result: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Return ([L,] I, J, K) with its voxels in the volume's own order."""
    if not prepared.mirrored:
        return result
    return np.ascontiguousarray(np.flip(result, tuple(axis - 3 for axis in prepared.mirrored)))
