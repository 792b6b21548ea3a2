"""Maps of what mattered, laid over the image, and feature maps of a network's layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from medml.geometry import spacing_of
from medml.pages.content import Picture
from medml.pages.overlays import (
    BLACK,
    PALE,
    PICTURE,
    PLANES,
    Triple,
    annotate,
    cut_all,
    cut_slice,
    extent_of,
    picture_grid,
    window,
)
from medml.pages.style import new_figure, plain, styled, to_png
from medml.records.batch import Prediction
from medml.records.scan import Volume

LEAST_TOP = 0.05  # of a scale: what is less is no colour


def heat_png(
    image: np.ndarray,
    heats: Mapping[str, np.ndarray],
    *,
    spacing_mm: Triple | None,
    title: str = "",
    modality: str = "",
    scale: str = "",
) -> bytes:
    """Draw an image and, beside it, one column per map, in three planes through the first one's peak.

    Parameters
    ----------
    image : ndarray of shape (I, J, K) or (C, I, J, K)
        Canonical grid.
    heats : mapping of str to ndarray of shape (I, J, K)
        Name to values from 0 to 1; below a tenth of the brightest nothing is drawn.
    scale : str
        What the values are; drawn with a bar of colours below each map, up to its largest value, in the planes that
        hold most of the first one. Without it the colours run to 1.
    """
    volume = image if image.ndim == 4 else image[np.newaxis]
    planes = (PICTURE,) if volume.shape[3] == 1 else PLANES
    limits, first = window(volume, modality=modality), next(iter(heats.values()))
    i, j, k = _fullest(first) if scale else _peak(first)
    tops = [max(LEAST_TOP, float(heat.max())) if scale else 1.0 for heat in heats.values()]
    spacing = spacing_mm or (1.0, 1.0, 1.0)
    cuts = [cut_all(volume, None, None, plane, (i, j, k), limits)[0] for plane in planes]
    shapes = [extent_of(cut.shape[:2], plane, spacing) for cut, plane in zip(cuts, planes, strict=True)]
    with styled():
        figure, grid = picture_grid(shapes, 1 + len(heats), 0.3 + (0.28 if title else 0.0) + (0.55 if scale else 0.0))
        for picture, plane, axes_row in zip(cuts, planes, grid, strict=True):
            aspect = spacing[plane.down] / spacing[plane.right]
            axes_row[0].imshow(picture, aspect=aspect, interpolation="nearest")
            annotate(axes_row[0], plane, letters=spacing_mm is not None)
            for axes, heat, top in zip(axes_row[1:], heats.values(), tops, strict=True):
                shown = cut_slice(heat, plane, (i, j, k)[plane.cut]).astype(float)
                axes.imshow(picture, aspect=aspect, interpolation="nearest")
                opacity = np.clip(shown / top * 1.2 - 0.1, 0.0, 0.75)
                axes.imshow(shown, cmap="inferno", vmin=0, vmax=top, alpha=opacity, aspect=aspect)
        for axes, name in zip(grid[0], ("Image", *heats), strict=True):
            axes.set_title(plain(name, 30), color=PALE, fontsize=9, loc="center")
        for axes in grid.ravel():
            axes.set_axis_off()
        if scale:
            for column, top in enumerate(tops, start=1):
                _bar_of(figure, grid[:, column], top, scale)
        if title:
            figure.suptitle(plain(title, 110), color=PALE, fontsize=10, x=0.01, ha="left")
        return to_png(figure, dpi=110)


def _peak(values: np.ndarray) -> tuple[int, int, int]:
    """Return the planes across I, J and K that meet at the brightest voxel."""
    i, j, k = (int(n) for n in np.unravel_index(int(values.argmax()), values.shape))
    return i, j, k


def _fullest(values: np.ndarray) -> tuple[int, int, int]:
    """Return the planes across I, J and K that hold most of a map."""
    sums = [values.sum(axis=tuple(other for other in range(3) if other != axis), dtype=float) for axis in range(3)]
    i, j, k = (int(line.argmax()) for line in sums)
    return i, j, k


def _bar_of(figure: Figure, maps: np.ndarray, top: float, scale: str) -> None:
    """Draw what the colours of one column of maps mean, below it."""
    mapped = ScalarMappable(Normalize(0, top), "inferno")
    bar = figure.colorbar(mapped, ax=list(maps), location="bottom", fraction=0.03, aspect=30)
    bar.set_label(plain(scale, 70), color=PALE, fontsize=8)
    bar.ax.tick_params(colors=PALE, labelsize=8)
    bar.outline.set_visible(False)


def uncertainty_picture(volume: Volume, prediction: Prediction, *, name: str, modality: str = "") -> Picture | None:
    """Return where a segmenter is unsure of a volume, from the maps of a detailed prediction; None without any.

    Parameters
    ----------
    name : str
        How the caption calls the scan: its id, a private name.
    """
    if not prediction.uncertainty_maps:
        return None
    titles = {"entropy": "All uncertainty", "disagreement": "Disagreement"}
    maps = {titles[key]: values.astype(np.float32) for key, values in prediction.uncertainty_maps.items()}
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else None
    png = heat_png(volume.voxels, maps, spacing_mm=spacing, modality=modality, scale="share of the largest entropy")
    caption = f"{name}: mean entropy {prediction.uncertainty:.3f} in the box of what was found"
    if np.isfinite(prediction.disagreement):
        caption += f", of which members and views that differ make {prediction.disagreement:.3f}"
    return Picture(png, f"{caption}.", f"Uncertainty of {name}", kind="image", wide=True)


def layers_png(layers: Mapping[str, np.ndarray], *, title: str = "") -> bytes:
    """Draw feature maps, one row per layer from the finest to the coarsest.

    Parameters
    ----------
    layers : mapping of str to ndarray of shape (maps, I, J, K)
        The middle slice along K of each map is shown, each scaled to its own range.
    """
    columns = max(len(maps) for maps in layers.values())
    with styled():
        figure = new_figure(1.5 * columns + 0.1, 1.75 * len(layers) + (0.35 if title else 0.0), face=BLACK)
        grid = figure.subplots(len(layers), columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for axes_row, (name, maps) in zip(grid, layers.items(), strict=True):
            plane = PICTURE if maps.shape[3] == 1 else PLANES[0]
            for axes, values in zip(axes_row, maps, strict=False):
                axes.imshow(cut_slice(values, plane, values.shape[2] // 2), cmap="gray", interpolation="nearest")
            axes_row[0].set_title(plain(name, 60), color=PALE, fontsize=8, loc="left")
        if title:
            figure.suptitle(plain(title, 110), color=PALE, fontsize=10, x=0.01, ha="left")
        return to_png(figure, dpi=110)
