"""Images with masks drawn on them, as a radiologist expects to see them.

Planes are taken from the canonical grid (closest to RAS+) and shown in radiological convention: the patient's left is
on the right side of the picture, anterior is up (axial) or left (sagittal), superior is up. A 2D picture (K = 1) is
shown upright as it was taken: its column number runs to the right, its row number down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from medml.pages.style import new_figure, plain, styled, to_png

BLACK, PALE = "#000000", "#e8edf2"
# Okabe and Ito 2008 in the order that stands out on black.
_LABEL_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
OUTCOME_COLOURS = {
    "both agree": "#009E73",
    "missed by prediction": "#F0E442",
    "only in prediction": "#D55E00",
    "another label": "#CC79A7",
}
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Plane:
    """One way to cut: the axis cut, the picture's axes (down, right) and whether each runs backwards."""

    name: str
    cut: int
    down: int
    right: int
    flips: tuple[bool, bool]
    letters: tuple[str, str, str, str]  # left, right, top, bottom


PLANES = (
    Plane("Axial", 2, 1, 0, (True, True), ("R", "L", "A", "P")),
    Plane("Coronal", 1, 2, 0, (True, True), ("R", "L", "S", "I")),
    Plane("Sagittal", 0, 2, 1, (True, True), ("A", "P", "S", "I")),
)
PICTURE = Plane("", 2, 1, 0, (False, False), ("", "", "", ""))


def overlay_png(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    *,
    spacing_mm: Triple | None,
    labels: Mapping[int, str],
    title: str = "",
    modality: str = "",
) -> bytes:
    """Draw an image with its predicted mask, its reference, or both and where they differ.

    Parameters
    ----------
    image : ndarray of shape (I, J, K) or (C, I, J, K)
        Canonical grid. Three components of one slice are shown as colour; else the first component is shown.
    mask, reference : ndarray of shape (I, J, K)
        Label values; 0 is background. Three planes are cut through the largest area of the reference, else of the
        mask, else through the middle.
    spacing_mm : tuple of float or None
        Voxel size along I, J, K, for true proportions; None if unknown, and then no direction letters are shown.
    labels : mapping of int to str
        Names for the legend.
    modality : str
        "CT" windows to the body, without the air around it.
    """
    volume = image if image.ndim == 4 else image[np.newaxis]
    planes = (PICTURE,) if volume.shape[3] == 1 else PLANES
    low, high = window(volume, modality=modality)
    index = middle_of(reference, mask, (volume.shape[1], volume.shape[2], volume.shape[3]))
    columns = _columns(mask, reference)
    rows = [cut_all(volume, mask, reference, plane, index, (low, high)) for plane in planes]
    spacing = spacing_mm or (1.0, 1.0, 1.0)
    shapes = [extent_of(row[0].shape[:2], plane, spacing) for row, plane in zip(rows, planes, strict=True)]
    with styled():
        figure, grid = picture_grid(shapes, len(columns), 0.3 + (0.28 if title else 0.0))
        for row, plane, axes_row in zip(rows, planes, grid, strict=True):
            _draw_row(axes_row, row, columns, plane, spacing, letters=spacing_mm is not None)
        if len(columns) > 1:
            for axes, name in zip(grid[0], columns, strict=True):
                axes.set_title(name, color=PALE, fontsize=9, loc="center")
        _legend(figure, columns, labels, mask, reference)
        if title:
            figure.suptitle(plain(title, 110), color=PALE, fontsize=10, x=0.01, ha="left")
        return to_png(figure, dpi=110)


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    masks: Sequence[np.ndarray | None] | None = None,
    spacings: Sequence[Triple | None] | None = None,
    columns: int = 6,
    title: str = "",
    modality: str = "",
) -> bytes:
    """Draw one small picture per image: the axial slice with the largest mask area, else the middle one.

    Parameters
    ----------
    images : sequence of ndarray of shape (I, J, K) or (C, I, J, K)
        Canonical grid.
    captions : sequence of str
        One short line per image.
    """
    masks = masks or [None] * len(images)
    spacings = spacings or [None] * len(images)
    columns = max(1, min(columns, len(images)))
    count = max(1, -(-len(images) // columns))
    with styled():
        figure = new_figure(1.75 * columns, 1.95 * count + (0.35 if title else 0.0), face=BLACK)
        grid = figure.subplots(count, columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for axes, image, caption, mask, spacing in zip(grid.ravel(), images, captions, masks, spacings, strict=False):
            _draw_thumbnail(axes, image, caption, mask, spacing or (1.0, 1.0, 1.0), modality)
        if title:
            figure.suptitle(plain(title, 110), color=PALE, fontsize=10, x=0.01, ha="left")
        return to_png(figure, dpi=110)


def window(image: np.ndarray, *, modality: str = "") -> tuple[float, float]:
    """Return the values shown as black and white: the 1st and 99.5th percentile of what is not background.

    Background is what equals the smallest value; in CT, whatever is below -500 HU (air) as long as something is left.
    """
    step = max(1, round((image.size / 2_000_000) ** (1 / 3)))
    values = image[..., ::step, ::step, ::step].ravel() if image.ndim >= 3 else image.ravel()
    values = values[np.isfinite(values)].astype(np.float32)
    if not values.size:
        return 0.0, 1.0
    inside = values[values > (-500.0 if modality == "CT" else values.min())]
    low, high = np.percentile(inside if inside.size else values, (1.0, 99.5))
    if high <= low:
        low, high = values.min(), max(values.max(), values.min() + 1.0)
    return float(low), float(high)


def middle_of(
    reference: np.ndarray | None, mask: np.ndarray | None, shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return the index (i, j, k) of the three slices with the largest area of the reference, else of the mask."""
    for candidate in (reference, mask):
        if candidate is not None and (candidate > 0).any():
            return _best(candidate, (1, 2)), _best(candidate, (0, 2)), _best(candidate, (0, 1))
    return shape[0] // 2, shape[1] // 2, shape[2] // 2


def _best(labels: np.ndarray, plane: tuple[int, int]) -> int:
    """Return the slice that shows most of every label: areas count relative to each label's largest one."""
    total = 0.0
    for value in np.unique(labels[labels > 0]):
        area = (labels == value).sum(axis=plane)
        total = total + area / area.max()
    return int(np.argmax(total))


def _columns(mask: np.ndarray | None, reference: np.ndarray | None) -> tuple[str, ...]:
    if mask is not None and reference is not None:
        return "Image", "Reference", "Prediction", "Difference"
    if mask is not None:
        return "Image", "Prediction"
    return ("Image", "Reference") if reference is not None else ("Image",)


def cut_all(
    volume: np.ndarray,
    mask: np.ndarray | None,
    reference: np.ndarray | None,
    plane: Plane,
    index: tuple[int, int, int],
    limits: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return picture (rows, columns, 3) in [0, 1], mask and reference of one plane."""
    place = index[plane.cut]
    if volume.shape[0] == 3 and volume.shape[3] == 1:
        parts = [cut_slice(component, plane, place) for component in volume]
        ceiling = 255.0 if volume.dtype == np.uint8 or volume.max() > 1 else 1.0
        picture = np.stack(parts, axis=-1).astype(np.float32) / ceiling
    else:
        grey = (cut_slice(volume[0], plane, place).astype(np.float32) - limits[0]) / (limits[1] - limits[0])
        picture = np.repeat(np.nan_to_num(grey)[..., np.newaxis], 3, axis=-1)
    return (
        np.clip(picture, 0.0, 1.0),
        None if mask is None else cut_slice(mask, plane, place),
        None if reference is None else cut_slice(reference, plane, place),
    )


def cut_slice(volume: np.ndarray, plane: Plane, place: int) -> np.ndarray:
    """Return one slice (down, right) as it is shown."""
    flat: np.ndarray = np.take(volume, place, axis=plane.cut)
    if plane.down > plane.right:
        flat = flat.T
    return flat[:: -1 if plane.flips[0] else 1, :: -1 if plane.flips[1] else 1]


def extent_of(shape: tuple[int, ...], plane: Plane, spacing: Triple) -> tuple[float, float]:
    """Return height and width of a slice in mm (or voxels)."""
    return shape[0] * spacing[plane.down], shape[1] * spacing[plane.right]


def picture_grid(shapes: Sequence[tuple[float, float]], columns: int, extra: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (planes, columns); an image without masks has its planes side by side."""
    if columns == 1:
        scale = 3.0 / max(extent[0] for extent in shapes)
        widths = [min(max(extent[1] * scale, 1.0), 4.5) for extent in shapes]
        figure = new_figure(sum(widths) + 0.1, 3.0 + extra, face=BLACK)
        return figure, figure.subplots(1, len(shapes), squeeze=False, gridspec_kw={"width_ratios": widths}).T
    width = 3.4 if columns == 2 else 2.55
    scale = width / max(extent[1] for extent in shapes)
    heights = [min(max(extent[0] * scale, 0.45 * width), 1.15 * width) for extent in shapes]
    figure = new_figure(width * columns + 0.1, sum(heights) + 0.32 + extra, face=BLACK)
    return figure, figure.subplots(len(shapes), columns, squeeze=False, gridspec_kw={"height_ratios": heights})


def _draw_row(
    axes_row: Sequence[Axes],
    row: tuple[np.ndarray, np.ndarray | None, np.ndarray | None],
    columns: Sequence[str],
    plane: Plane,
    spacing: Triple,
    *,
    letters: bool,
) -> None:
    picture, mask, reference = row
    aspect = spacing[plane.down] / spacing[plane.right]
    box = _zoom_box(mask, reference)
    for axes, name in zip(axes_row, columns, strict=True):
        shown = picture
        if name == "Reference" and reference is not None:
            shown = _tint(picture, reference)
        elif name == "Prediction" and mask is not None:
            shown = _tint(picture, mask)
        elif name == "Difference" and mask is not None and reference is not None:
            shown = _difference(picture, mask, reference)
        axes.imshow(shown, aspect=aspect, interpolation="nearest")
        axes.set_axis_off()
        if box is not None and name == "Image":
            top, bottom, left, right = box
            edge = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec="#ffffff", lw=0.7)
            axes.add_patch(edge)
        elif box is not None:
            axes.set_xlim(box[2] - 0.5, box[3] - 0.5)
            axes.set_ylim(box[1] - 0.5, box[0] - 0.5)
    annotate(axes_row[0], plane, letters=letters)


def annotate(axes: Axes, plane: Plane, *, letters: bool) -> None:
    """Write the plane's name and the patient's directions at the rim of a picture."""
    rim = [Stroke(linewidth=1.6, foreground="#000000"), Normal()]
    text: dict[str, Any] = {"color": PALE, "fontsize": 7.5, "transform": axes.transAxes, "path_effects": rim}
    if letters and plane.name:
        places = (
            (0.02, 0.5, "left", "center"),
            (0.98, 0.5, "right", "center"),
            (0.5, 0.98, "center", "top"),
            (0.5, 0.02, "center", "bottom"),
        )
        for (x, y, across, along), letter in zip(places, plane.letters, strict=True):
            axes.text(x, y, letter, ha=across, va=along, **text)
    if plane.name:
        axes.text(0.02, 0.98, plane.name if letters else "", ha="left", va="top", **text)


def _zoom_box(mask: np.ndarray | None, reference: np.ndarray | None) -> tuple[int, int, int, int] | None:
    """Return (top, bottom, left, right) around the masks if they fill less than a third of the slice's sides."""
    inside = [part > 0 for part in (mask, reference) if part is not None and (part > 0).any()]
    if not inside:
        return None
    found = np.logical_or.reduce(inside)
    shape = found.shape
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    share = max((rows[-1] - rows[0] + 1) / shape[0], (columns[-1] - columns[0] + 1) / shape[1])
    if share > 1 / 3:
        return None
    half = max(0.9 * share, 0.12)
    bounds: list[int] = []
    for found_line, size in ((rows, shape[0]), (columns, shape[1])):
        centre, reach = (found_line[0] + found_line[-1] + 1) / 2, half * size
        start = int(max(0.0, min(centre - reach, size - 2 * reach)))
        bounds += [start, int(min(size, np.ceil(start + 2 * reach)))]
    return bounds[0], bounds[1], bounds[2], bounds[3]


def _tint(picture: np.ndarray, labels: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """Return the picture with each label's colour laid over it."""
    tinted = picture.copy()
    for value in np.unique(labels[labels > 0]):
        _lay(tinted, labels == value, label_colour(int(value)), opacity)
    return tinted


def _difference(picture: np.ndarray, mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the picture with agreement, missed, extra and wrongly named voxels coloured."""
    shown = picture.copy()
    for name, inside in outcomes_of(mask, reference).items():
        _lay(shown, inside, OUTCOME_COLOURS[name], 0.4 if name == "both agree" else 0.8)
    return shown


def outcomes_of(mask: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """Return where two masks agree, and where and how they do not; the names are those of ``OUTCOME_COLOURS``."""
    both = (mask > 0) & (reference > 0)
    return {
        "both agree": both & (mask == reference),
        "missed by prediction": (reference > 0) & (mask == 0),
        "only in prediction": (mask > 0) & (reference == 0),
        "another label": both & (mask != reference),
    }


def _lay(picture: np.ndarray, inside: np.ndarray, colour: str, opacity: float) -> None:
    picture[inside] = (1 - opacity) * picture[inside] + opacity * np.array(to_rgb(colour), dtype=np.float32)


def _legend(
    figure: Figure,
    columns: Sequence[str],
    labels: Mapping[int, str],
    mask: np.ndarray | None,
    reference: np.ndarray | None,
) -> None:
    """Name the labels that occur and, where both masks are shown, what the difference colours mean."""
    present: set[int] = set()
    for part in (mask, reference):
        if part is not None:
            present |= {int(value) for value in np.unique(part) if value > 0}
    entries = [
        Patch(facecolor=label_colour(value), label=plain(labels.get(value, f"label {value}"), 28))
        for value in sorted(present)
    ]
    if "Difference" in columns and mask is not None and reference is not None:
        names = [
            name for name, inside in outcomes_of(mask, reference).items() if inside.any() or name != "another label"
        ]
        entries += [Patch(facecolor=OUTCOME_COLOURS[name], label=name) for name in names]
    if entries:
        wide = len(columns) * 2
        figure.legend(
            handles=entries,
            loc="outside lower left",
            ncols=min(len(entries), wide),
            labelcolor=PALE,
            fontsize=8,
            handlelength=1.0,
            handleheight=1.0,
            columnspacing=1.2,
        )


def _draw_thumbnail(
    axes: Axes, image: np.ndarray, caption: str, mask: np.ndarray | None, spacing: Triple, modality: str
) -> None:
    volume = image if image.ndim == 4 else image[np.newaxis]
    plane = PICTURE if volume.shape[3] == 1 else PLANES[0]
    index = middle_of(None, mask, (volume.shape[1], volume.shape[2], volume.shape[3]))
    limits = window(volume, modality=modality)
    picture, cut, _ = cut_all(volume, mask, None, plane, index, limits)
    shown = picture if cut is None else _tint(picture, cut)
    axes.imshow(shown, aspect=spacing[plane.down] / spacing[plane.right], interpolation="nearest")
    axes.set_title(plain(caption, 26), color=PALE, fontsize=7, fontweight="normal", loc="center", pad=3)


def label_colour(value: int) -> str:
    """Return the colour of a label on a dark picture."""
    return _LABEL_COLOURS[(value - 1) % len(_LABEL_COLOURS)]
