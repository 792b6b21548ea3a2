"""Draw the README's picture: slices of two phantoms with organ and lesions outlined.

python data_samples/picture.py docs/images/phantom.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

if __package__ in (None, ""):  # run as a script: its folder is on the path, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_samples.anatomy import LESION, ORGAN
from data_samples.phantom import Phantom, make_phantom

WINDOW_HU = (-110.0, 210.0)
PATIENTS = {2: "a patient with lesions", 3: "a patient without"}


def main(path: Path) -> None:
    """Draw the slice with most lesion, or most organ, of two patients: as scanned, then with the labels' outlines."""
    figure, axes = plt.subplots(1, 4, figsize=(12.0, 3.0), facecolor="black")
    for place, (number, title) in enumerate(PATIENTS.items()):
        phantom = make_phantom(number)
        wanted = phantom.labels == (LESION if phantom.label == "lesion" else ORGAN)
        position = int(np.argmax(wanted.sum(axis=(0, 1))))
        plain, outlined = axes[2 * place : 2 * place + 2]
        _draw(plain, phantom, position, f"{title}, {phantom.scanner.name}")
        _draw(outlined, phantom, position, "organ and lesion outlined")
        _outline(outlined, phantom, position)
    figure.tight_layout(pad=0.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, facecolor="black", metadata={"Software": None})


def _draw(axes: Axes, phantom: Phantom, position: int, title: str) -> None:
    step = np.linalg.norm(phantom.affine_lps[:3, :2], axis=0)
    axes.imshow(
        phantom.hounsfield[:, :, position].T,
        cmap="gray",
        vmin=WINDOW_HU[0],
        vmax=WINDOW_HU[1],
        aspect=step[1] / step[0],
        interpolation="nearest",
    )
    axes.set_title(title, color="white", fontsize=9)
    axes.axis("off")


def _outline(axes: Axes, phantom: Phantom, position: int) -> None:
    labels = phantom.labels[:, :, position].T
    axes.contour(labels > 0, [0.5], colors="#4cd07d", linewidths=1.6)
    if (labels == LESION).any():
        axes.contour(labels == LESION, [0.5], colors="#ff6b4a", linewidths=1.6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
