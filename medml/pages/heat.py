"""Maps of what mattered, laid over the image, and feature maps of a network's layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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


def heat_png(
    image: np.ndarray,
    heats: Mapping[str, np.ndarray],
    *,
    spacing_mm: Triple | None,
    title: str = "",
    modality: str = "",
) -> bytes:
    """Draw an image and, beside it, one column per map of what mattered, in three planes through the first one's peak.

    Parameters
    ----------
    image : ndarray of shape (I, J, K) or (C, I, J, K)
        Canonical grid.
    heats : mapping of str to ndarray of shape (I, J, K)
        Name to values from 0 to 1; below a tenth nothing is drawn.
    """
    volume = image if image.ndim == 4 else image[np.newaxis]
    planes = (PICTURE,) if volume.shape[3] == 1 else PLANES
    limits, first = window(volume, modality=modality), next(iter(heats.values()))
    i, j, k = (int(n) for n in np.unravel_index(int(first.argmax()), first.shape))
    spacing = spacing_mm or (1.0, 1.0, 1.0)
    cuts = [cut_all(volume, None, None, plane, (i, j, k), limits)[0] for plane in planes]
    shapes = [extent_of(cut.shape[:2], plane, spacing) for cut, plane in zip(cuts, planes, strict=True)]
    with styled():
        figure, grid = picture_grid(shapes, 1 + len(heats), 0.3 + (0.28 if title else 0.0))
        for picture, plane, axes_row in zip(cuts, planes, grid, strict=True):
            aspect = spacing[plane.down] / spacing[plane.right]
            axes_row[0].imshow(picture, aspect=aspect, interpolation="nearest")
            annotate(axes_row[0], plane, letters=spacing_mm is not None)
            for axes, heat in zip(axes_row[1:], heats.values(), strict=True):
                shown = cut_slice(heat, plane, (i, j, k)[plane.cut]).astype(float)
                axes.imshow(picture, aspect=aspect, interpolation="nearest")
                opacity = np.clip(shown * 1.2 - 0.1, 0.0, 0.75)
                axes.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=opacity, aspect=aspect)
        for axes, name in zip(grid[0], ("Image", *heats), strict=True):
            axes.set_title(plain(name, 30), color=PALE, fontsize=9, loc="center")
        for axes in grid.ravel():
            axes.set_axis_off()
        if title:
            figure.suptitle(plain(title, 110), color=PALE, fontsize=10, x=0.01, ha="left")
        return to_png(figure, dpi=110)


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
