"""Fingerprints of images, and which images are the same picture.

A fingerprint is the low end of an image's cosine transform (Ahmed 1974), without its mean and weighted towards detail,
since the coarse outlines of two patients agree. It does not change with brightness or contrast, hardly with size, noise
and compression. A flip changes signs only, a turn swaps axes only, an inversion of grey values changes all signs: so
two fingerprints can be compared over all of these.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from itertools import permutations, product

import numpy as np

SAMPLES = {2: 128, 3: 64}
FREQUENCIES = {2: 12, 3: 12}
BLOCK = 2048
SAME = 0.97

Groups = list[tuple[int, ...]]


def fingerprint(image: np.ndarray) -> str:
    """Return the fingerprint of an image: about 200 characters, 1200 of a volume, none if all its voxels are equal.

    Parameters
    ----------
    image : ndarray of shape (I, J, K)
        Any real dtype, finite. K = 1 is a 2D image.
    """
    planar = image[..., 0] if image.shape[-1] == 1 else image
    dims = planar.ndim
    values = planar[np.ix_(*(_centres(n, SAMPLES[dims]) for n in planar.shape))].astype(np.float32)
    values -= values.mean()
    for axis, count in enumerate(values.shape):
        values = np.moveaxis(np.tensordot(_cosines(count, FREQUENCIES[dims]), values, (1, axis)), 0, axis)
    values = values * _weights(dims)
    peak = float(np.abs(values).max())
    if peak <= 0 or not np.isfinite(peak):
        return ""
    codes = np.rint(values[_weights(dims) > 0] * (127 / peak)).astype(np.int8)
    return f"{dims}:{base64.b64encode(codes.tobytes()).decode()}"


def correlation(one: str, other: str) -> float:
    """Return the largest absolute correlation of two fingerprints over all flips and turns; 0 if not comparable."""
    if not one or not other or one[0] != other[0]:
        return 0.0
    first, second = _unit(one), _unit(other)
    return float(np.abs(_views(first) @ second.ravel()).max())


def alike(fingerprints: Sequence[str], *, threshold: float = SAME) -> Groups:
    """Return the groups of images that are the same picture, as sorted indices; groups of one are left out.

    Images are the same picture if their `correlation` is at least ``threshold``, or if others link them. Copies that
    were compressed or resized reach it; different patients stay below 0.85 (radiographs, MR crops, shapes), and
    below 0.965 where all that differs is the sizes of the same few ellipsoids.
    """
    first_of = {text: index for index, text in reversed(list(enumerate(fingerprints)))}
    root = list(range(len(fingerprints)))
    for index, text in enumerate(fingerprints):
        if text:
            root[index] = first_of[text]
    for dims in FREQUENCIES:
        chosen = [index for text, index in first_of.items() if text.startswith(f"{dims}:")]
        _link(root, sorted(chosen), fingerprints, threshold)
    groups: dict[int, list[int]] = {}
    for index in range(len(root)):
        groups.setdefault(_find(root, index), []).append(index)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _link(root: list[int], chosen: list[int], fingerprints: Sequence[str], threshold: float) -> None:
    """Join what is alike: candidates by a bound that no flip or turn changes, each then compared in full."""
    if len(chosen) < 2:
        return
    units = [_unit(fingerprints[index]) for index in chosen]
    bounds, flat = np.stack([_bound(unit) for unit in units]), np.stack([unit.ravel() for unit in units])
    for start in range(0, len(chosen), BLOCK):
        near = bounds[start : start + BLOCK] @ bounds[start:].T >= threshold
        near = np.triu(near, 1)
        for row in np.flatnonzero(near.any(axis=1)):
            one, others = start + row, start + np.flatnonzero(near[row])
            same = np.abs(_views(units[one]) @ flat[others].T).max(axis=0) >= threshold
            for other in others[same]:
                ends = sorted((_find(root, chosen[one]), _find(root, chosen[other])))
                root[ends[1]] = ends[0]


def _find(root: list[int], index: int) -> int:
    while root[index] != index:
        root[index] = root[root[index]]
        index = root[index]
    return index


def _centres(length: int, count: int) -> np.ndarray:
    """Return the voxels at the centres of ``count`` equal cells, the same from both ends."""
    if length <= count:
        return np.arange(length)
    half = ((np.arange(count // 2) + 0.5) * length / count).astype(np.int64)
    return np.concatenate([half, length - 1 - half[::-1]])


@cache
def _cosines(length: int, count: int) -> np.ndarray:
    """Return the first ``count`` rows of the orthonormal cosine transform; rows beyond the length are zero."""
    order, place = np.arange(count)[:, None], (np.arange(length) + 0.5) / length
    rows = np.cos(np.pi * order * place) * np.sqrt(np.where(order, 2.0, 1.0) / length)
    rows[length:] = 0
    return np.asarray(rows.astype(np.float32))


@cache
def _weights(dims: int) -> np.ndarray:
    """Return each coefficient's weight: its squared distance from the mean; of a volume, every second is left out.

    Amplitudes in pictures fall with that distance (Field 1987), so its square favours detail. What is left out is the
    same under every turn: coefficients whose indices have an odd sum.
    """
    axes = np.stack(np.meshgrid(*[np.arange(FREQUENCIES[dims])] * dims, indexing="ij"))
    weights = (axes**2).sum(axis=0).astype(np.float32)
    if dims == 3:
        weights[axes.sum(axis=0) % 2 == 1] = 0
    return np.asarray(weights)


def _unit(text: str) -> np.ndarray:
    """Return the coefficients of a fingerprint, of length one, on their axes."""
    dims, codes = int(text[0]), np.frombuffer(base64.b64decode(text[2:]), dtype=np.int8)
    values = np.zeros((FREQUENCIES[dims],) * dims, dtype=np.float32)
    values[_weights(dims) > 0] = codes
    return np.asarray(values / np.linalg.norm(values))


def _views(values: np.ndarray) -> np.ndarray:
    """Return ``values`` under every flip and turn, one a row."""
    odd = np.arange(values.shape[0]) % 2 == 1
    rows = []
    for order in permutations(range(values.ndim)):
        turned = values.transpose(order)
        for flips in product((False, True), repeat=values.ndim):
            shown = turned
            for axis, flip in enumerate(flips):
                signs = np.where(odd & flip, -1.0, 1.0).astype(np.float32)
                shown = shown * signs.reshape([-1 if n == axis else 1 for n in range(values.ndim)])
            rows.append(shown.ravel())
    return np.stack(rows)


@cache
def _orbits(dims: int) -> tuple[np.ndarray, ...]:
    """Return the places that turns swap, as arrays (orbits, places) by their number of places."""
    shape = (FREQUENCIES[dims],) * dims
    found: dict[tuple[int, ...], list[int]] = {}
    for place in np.ndindex(*shape):
        found.setdefault(tuple(sorted(place)), []).append(int(np.ravel_multi_index(place, shape)))
    sizes = sorted({len(places) for places in found.values()})
    return tuple(np.array([places for places in found.values() if len(places) == size]) for size in sizes)


def _bound(values: np.ndarray) -> np.ndarray:
    """Return what flips and turns do not change; its correlations are never below those of `_views`."""
    flat = np.abs(values).ravel()
    return np.concatenate([np.sort(flat[places], axis=1).ravel() for places in _orbits(values.ndim)])
