"""Overlap and volume of masks. The one place that decides what Dice means when a mask is empty.

Both masks empty: undefined, NaN, counted by the caller. One of them empty: 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medml.metrics.boxes import foreground_box, joined


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one label's voxels say; counts of voxels.

    Attributes
    ----------
    prediction, reference, both : int
        Voxels of the prediction, of the reference, of their intersection.
    """

    prediction: int
    reference: int
    both: int

    @property
    def dice(self) -> float:
        """2 |P and R| / (|P| + |R|); NaN when both are empty."""
        total = self.prediction + self.reference
        return 2 * self.both / total if total else float("nan")

    @property
    def iou(self) -> float:
        """|P and R| / |P or R|; NaN when both are empty."""
        union = self.prediction + self.reference - self.both
        return self.both / union if union else float("nan")

    @property
    def missed(self) -> bool:
        """The reference has the label, the prediction has none of it."""
        return self.reference > 0 and self.prediction == 0

    @property
    def false(self) -> bool:
        """The prediction has the label, the reference has none of it."""
        return self.prediction > 0 and self.reference == 0


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Return the Dice overlap of two boolean masks; NaN when both are empty, 0 when one is."""
    return overlap(prediction, reference).dice


def iou(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Return the intersection over union of two boolean masks; NaN when both are empty, 0 when one is."""
    return overlap(prediction, reference).iou


def overlap(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Count the voxels of two boolean masks of one shape."""
    prediction, reference = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    _same_shape(prediction, reference)
    counts = (np.count_nonzero(mask) for mask in (prediction, reference, prediction & reference))
    return Overlap(*map(int, counts))


def overlaps(prediction: np.ndarray, reference: np.ndarray, labels: list[int]) -> dict[int, Overlap]:
    """Count every label of two label masks in one pass over the box of what is not background.

    Parameters
    ----------
    prediction, reference : ndarray of one shape (I, J, K), unsigned integers
        Label values; 0 is background.
    labels : list of int
        The foreground labels wanted; other values count for none of them.
    """
    _same_shape(prediction, reference)
    size = max(int(prediction.max(initial=0)), int(reference.max(initial=0)), *labels, 0) + 1
    flat = np.zeros(size * size, dtype=np.intp)
    boxes = [box for mask in (prediction, reference) if (box := foreground_box(mask)) is not None]
    if boxes:
        box = joined(boxes, prediction.shape)
        # Plane by plane: the pairs of values of all voxels at once would take 8 bytes each.
        for one, other in zip(prediction[box], reference[box], strict=True):
            flat += np.bincount((one.astype(np.intp) * size + other).ravel(), minlength=size * size)
    pairs = flat.reshape(size, size)
    return {
        label: Overlap(int(pairs[label].sum()), int(pairs[:, label].sum()), int(pairs[label, label]))
        for label in labels
    }


def volume_ml(voxels: int, spacing_mm: tuple[float, float, float]) -> float:
    """Return the volume of ``voxels`` voxels in millilitres."""
    return voxels * spacing_mm[0] * spacing_mm[1] * spacing_mm[2] / 1000.0


def _same_shape(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}; "
            "both must lie on the image's own grid"
        )
