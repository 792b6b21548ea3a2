"""Slices with the result drawn in, for viewers that read no SEG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from medml.geometry import to_source
from medml.pages.overlays import label_colour, window
from medml.records.batch import Job, Prediction
from medml.records.labels import Author, LabelMeaning
from medml.records.plan import Plan

LEAST_SIDE, MOST_SIDE = 512, 1536  # pixels of the longer side
TINT = 0.3
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """One picture.

    Attributes
    ----------
    pixels : ndarray of shape (rows, columns, 3), uint8
    place : int
        The source slice it shows, in the order of the scan's slices.
    zoom : float
        Pixels of the picture along each side of one of the source's.
    """

    pixels: np.ndarray
    place: int
    zoom: float


def capture_pictures(
    job: Job, prediction: Prediction, plan: Plan, author: Author, header: Any, *, most: int
) -> Iterator[Capture]:
    """Yield the slices that show the mask, evenly spaced; of an empty mask and of a classifier the middle one.

    They are the source's own slices, as it stored them: those of a tilted series too. What is written in names the
    model and its labels, and nobody.

    Parameters
    ----------
    header : Dataset
        Of the source's first image: a CT is shown in its own window.
    most : int
        Pictures at most.
    """
    from medml.io.burned_text import burn_text
    from medml.results.dicom_objects import label_meanings

    meanings = label_meanings(plan)
    image = to_source(job.reading.volume.voxels, job.reading.grid)
    mask = None if prediction.mask is None else to_source(prediction.mask, job.reading.grid)
    limits = _window(job, plan, header)
    places = shown_places(mask, image.shape[3], most=most)
    for number, place in enumerate(places, start=1):
        pixels, zoom = _drawn(image[..., place], None if mask is None else mask[..., place], meanings, limits)
        count = f"picture {number} of {len(places)}, slice {place + 1} of {image.shape[3]}"
        yield Capture(
            pixels=burn_text(
                pixels,
                [(count, WHITE), *_words(mask, prediction, plan, meanings)],
                foot=f"Not for diagnosis. Made by the model {author.name} version {author.version}.",
            ),
            place=place,
            zoom=zoom,
        )


def shown_places(mask: np.ndarray | None, count: int, *, most: int) -> list[int]:
    """Return which of ``count`` slices to show: of those with a mask the one with most of it, and others around it."""
    areas = np.zeros(count) if mask is None else np.count_nonzero(mask, axis=(0, 1))
    found = np.flatnonzero(areas)
    if not found.size:
        return [count // 2]
    if len(found) <= most:
        return found.tolist()
    chosen = found[np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))]
    fullest = int(areas.argmax())
    chosen[np.abs(chosen - fullest).argmin()] = fullest
    return sorted(set(chosen.tolist()))


def _window(job: Job, plan: Plan, header: Any) -> tuple[float, float]:
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if plan.modality == "CT" and centre is not None and width is not None:
        first = [float(value[0] if hasattr(value, "__len__") else value) for value in (centre, width)]
        if first[1] > 1:
            return first[0] - first[1] / 2, first[0] + first[1] / 2
    return window(job.reading.volume.voxels, modality=plan.modality)


def _drawn(
    image: np.ndarray, mask: np.ndarray | None, meanings: Mapping[int, LabelMeaning], limits: tuple[float, float]
) -> tuple[np.ndarray, float]:
    """Return one slice (C, columns, rows) as pixels (rows, columns, 3), tinted and outlined, and its zoom."""
    low, high = limits
    grey = np.clip((np.nan_to_num(image.astype(np.float32)) - low) / max(high - low, 1e-6), 0, 1)
    colour = grey if image.shape[0] == 3 else np.repeat(grey[:1], 3, axis=0)
    pixels = np.ascontiguousarray(colour.transpose(2, 1, 0))
    labels = np.zeros(pixels.shape[:2], np.uint8) if mask is None else np.ascontiguousarray(mask.T)
    side = max(labels.shape)
    if side > MOST_SIDE:
        step = -(-side // MOST_SIDE)
        pixels, labels, zoom = pixels[::step, ::step], labels[::step, ::step], 1 / step
    else:
        times = -(-LEAST_SIDE // side) if side < LEAST_SIDE else 1
        pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
        labels = labels.repeat(times, axis=0).repeat(times, axis=1)
        zoom = float(times)
    pixels = pixels.copy()
    for value, meaning in meanings.items():
        inside = labels == value
        if value != 0 and inside.any():
            tone = np.array(_colour(value, meaning), dtype=np.float32) / 255
            pixels[inside] = (1 - TINT) * pixels[inside] + TINT * tone
            pixels[inside & ~ndimage.binary_erosion(inside, iterations=2 if zoom > 1 else 1)] = tone
    return np.rint(pixels * 255).astype(np.uint8), zoom


def _words(
    mask: np.ndarray | None,
    prediction: Prediction,
    plan: Plan,
    meanings: Mapping[int, LabelMeaning],
) -> list[tuple[str, tuple[int, int, int]]]:
    """Return what is said of each label, in its colour."""
    if prediction.probabilities is not None:
        return [(f"{plan.labels[n]}: {prediction.probabilities[n]:.2f}", WHITE) for n in sorted(plan.labels)]
    present = set() if mask is None else set(np.unique(mask).tolist())
    return [
        (meaning.name if value in present else f"{meaning.name}: not found", _colour(value, meaning))
        for value, meaning in meanings.items()
    ]


def _colour(value: int, meaning: LabelMeaning) -> tuple[int, int, int]:
    """Return the label's own colour, else the one of all our pictures: light enough for a dark ground."""
    if meaning.colour:
        return meaning.colour
    red, green, blue = bytes.fromhex(label_colour(value)[1:])
    return red, green, blue
