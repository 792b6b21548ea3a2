"""How far one threshold gets: the lesion Dice that any trained model must beat by a wide margin.

    python data_samples/baseline.py [--patients 120] [--seed 0]

The threshold, and whether lesions lie below or above it, are the best for the first four fifths of the patients; the
figure printed is for the others. It is found in three regions, the second and third of which know the true organ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

if __package__ in (None, ""):  # run as a script: its folder is on the path, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_samples.anatomy import LESION
from data_samples.phantom import Phantom, make_phantom

THRESHOLDS_HU = range(-150, 251, 5)
MARGIN_VOXELS = 2


@dataclass(frozen=True, slots=True)
class Threshold:
    """The best threshold of a region and what it is worth."""

    hounsfield: int
    below: bool
    train_dice: float
    test_dice: float


def main(arguments: list[str] | None = None) -> None:
    """Print the baseline of each region."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # Healthy patients have no lesion to overlap with; they could only lower the figure.
    patients = [make_phantom(number, seed=options.seed) for number in range(1, options.patients + 1)]
    patients = [patient for patient in patients if patient.label == "lesion"]
    for name, region in REGIONS.items():
        found = best_threshold(patients, region)
        side = "below" if found.below else "above"
        print(
            f"{name}: {side} {found.hounsfield} HU, Dice {found.train_dice:.3f} train, {found.test_dice:.3f} held out"
        )


def best_threshold(patients: list[Phantom], region: Callable[[Phantom], np.ndarray]) -> Threshold:
    """Find the one threshold in a region with the best mean lesion Dice over the first four fifths of the patients."""
    scores = np.array([_scores(patient, region(patient)) for patient in patients])
    train = scores[: len(scores) * 4 // 5].mean(axis=0)
    test = scores[len(scores) * 4 // 5 :].mean(axis=0)
    side, step = np.unravel_index(train.argmax(), train.shape)
    return Threshold(THRESHOLDS_HU[step], bool(side == 0), float(train[side, step]), float(test[side, step]))


def body(patient: Phantom) -> np.ndarray:
    """Return everything inside the skin."""
    return patient.body


def organ_box(patient: Phantom) -> np.ndarray:
    """Return the true organ's bounding box and two voxels around it."""
    inside = np.zeros(patient.labels.shape, dtype=bool)
    (box,) = ndimage.find_objects((patient.labels > 0).astype(int))
    inside[tuple(slice(max(0, side.start - MARGIN_VOXELS), side.stop + MARGIN_VOXELS) for side in box)] = True
    return inside


def dilated_organ(patient: Phantom) -> np.ndarray:
    """Return the true organ grown by two voxels: what an oracle's rough outline would leave."""
    return np.asarray(ndimage.binary_dilation(patient.labels > 0, iterations=MARGIN_VOXELS))


REGIONS: dict[str, Callable[[Phantom], np.ndarray]] = {
    "body": body,
    "organ box": organ_box,
    "dilated organ": dilated_organ,
}


def _scores(patient: Phantom, region: np.ndarray) -> np.ndarray:
    """Return the lesion Dice of every threshold, (2, number of thresholds): below it, above it."""
    lesion = patient.labels == LESION
    values = patient.hounsfield[region]
    truth = lesion[region]
    chosen = [[values < t for t in THRESHOLDS_HU], [values > t for t in THRESHOLDS_HU]]
    return np.array([[2.0 * (c & truth).sum() / max(1, c.sum() + lesion.sum()) for c in side] for side in chosen])


if __name__ == "__main__":
    main()
