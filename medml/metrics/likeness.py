"""Fingerprints of images, and which images are the same picture.

A fingerprint is the low end of an image's cosine transform (Ahmed 1974), without its mean and weighted towards detail,
since the coarse outlines of two patients agree. It does not change with brightness or contrast, hardly with size, noise
and compression. A flip changes signs only, a turn swaps axes only, an inversion of grey values changes all signs: so
two fingerprints can be compared over all of these.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import permutations, product

import numpy as np

SAMPLES = {2: 128, 3: 64}
FREQUENCIES = {2: 12, 3: 12}
SAME = 0.97
LEAF = 256
COMPONENTS = 24
ROUNDING = 1e-4

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
    small = all(n <= SAMPLES[dims] for n in planar.shape)
    values = planar if small else planar[np.ix_(*(_centres(n, SAMPLES[dims]) for n in planar.shape))]
    values = values.astype(np.float32)
    values -= values.mean()
    if dims == 2:
        first, second = (_cosines(count, FREQUENCIES[dims]) for count in values.shape)
        values = (second @ (first @ values).T).T
    else:
        for axis, count in enumerate(values.shape):
            values = np.moveaxis(np.tensordot(_cosines(count, FREQUENCIES[dims]), values, (1, axis)), 0, axis)
    values = values * _weights(dims)
    peak = float(np.abs(values).max())
    if peak <= 0 or not np.isfinite(peak):
        return ""
    codes = np.rint(values[_weighted(dims)] * (127 / peak)).astype(np.int8)
    return f"{dims}:{base64.b64encode(codes.tobytes()).decode()}"


def correlation(one: str, other: str) -> float:
    """Return the largest absolute correlation of two fingerprints over all flips and turns; 0 if not comparable."""
    if not one or not other or one[0] != other[0]:
        return 0.0
    first, second = _units([one, other], int(one[0]))
    return float(np.abs(_views(first) @ second.ravel()).max())


def alike(fingerprints: Sequence[str], *, threshold: float = SAME, wanted: Collection[int] | None = None) -> Groups:
    """Return the groups of images that are the same picture, as sorted indices; groups of one are left out.

    Images are the same picture if their `correlation` is at least ``threshold``, or if others link them. Copies that
    were compressed or resized reach it; different patients stay below 0.85 (radiographs, MR crops, shapes), and
    below 0.965 where all that differs is the sizes of the same few ellipsoids.

    Parameters
    ----------
    wanted : collection of int
        Look only for the groups, whole, that these images are in: far quicker for a few among many. All if None.
    """
    first_of = {text: index for index, text in reversed(list(enumerate(fingerprints)))}
    root = list(range(len(fingerprints)))
    for index, text in enumerate(fingerprints):
        if text:
            root[index] = first_of[text]
    asked = None if wanted is None else {first_of[fingerprints[index]] for index in wanted if fingerprints[index]}
    for dims in FREQUENCIES:
        chosen = sorted(index for text, index in first_of.items() if text.startswith(f"{dims}:"))
        if len(chosen) > 1:
            units = _units([fingerprints[index] for index in chosen], dims)
            begin = [place for place, index in enumerate(chosen) if asked is None or index in asked]
            for one, other in _same(units, begin, threshold):
                ends = sorted((_find(root, chosen[one]), _find(root, chosen[other])))
                root[ends[1]] = ends[0]
    groups: dict[int, list[int]] = {}
    for index in range(len(root)):
        groups.setdefault(_find(root, index), []).append(index)
    found = [tuple(group) for group in groups.values() if len(group) > 1]
    return found if wanted is None else [group for group in found if not set(group).isdisjoint(wanted)]


def _same(units: np.ndarray, begin: Sequence[int], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of what is alike, from ``begin`` on to all that it is linked with.

    What is left of many is found by ever sharper bounds that no flip or turn changes: boxes around neighbours, the few
    strongest components, `_bounds`; only then are two compared in full.
    """
    bounds = _bounds(units)
    keys = _keys(bounds)
    leaves = _leaves(keys)
    lows, highs = (np.stack([ends(keys[leaf], axis=0) for leaf in leaves]) for ends in (np.min, np.max))
    leaf_of = np.empty(len(keys), dtype=np.int64)
    for number, leaf in enumerate(leaves):
        leaf_of[leaf] = number
    flat = units.reshape(len(units), -1)
    reached = np.zeros(len(units), dtype=bool)
    done = np.zeros(len(units), dtype=bool)
    reached[begin] = True
    while (waiting := np.flatnonzero(reached & ~done)).size:
        rows = waiting[leaf_of[waiting] == leaf_of[waiting[0]]]
        low, high = keys[rows].min(axis=0), keys[rows].max(axis=0)
        gaps = np.maximum(0, np.maximum(lows - high, low - highs))
        close = np.flatnonzero((gaps**2).sum(axis=1) <= 2 - 2 * threshold + ROUNDING)
        others = np.concatenate([leaves[number] for number in close])
        others = others[~done[others]]
        near = keys[rows] @ keys[others].T >= threshold - ROUNDING
        done[rows] = True
        for row in np.flatnonzero(near.any(axis=1)):
            one, found = rows[row], others[near[row]]
            found = found[(found != one) & ~(done[found] & (found < one))]
            found = found[bounds[found] @ bounds[one] >= threshold - ROUNDING]
            if found.size:
                found = found[np.abs(_views(units[one]) @ flat[found].T).max(axis=0) >= threshold]
                reached[found] = True
                yield from ((int(one), int(other)) for other in found)


def _keys(bounds: np.ndarray) -> np.ndarray:
    """Return a few numbers for each row, whose products are never below those of the rows: all are of length one.

    They are the components along the axes on which the rows are longest, and the length of the rest.
    """
    if len(bounds) <= LEAF:
        return bounds
    _, axes = np.linalg.eigh(bounds.T @ bounds)
    main = bounds @ axes[:, -COMPONENTS:]
    rest = np.sqrt(np.maximum(0, 1 - (main**2).sum(axis=1, keepdims=True)))
    return np.ascontiguousarray(np.concatenate([main, rest], axis=1), dtype=np.float32)


def _leaves(keys: np.ndarray) -> list[np.ndarray]:
    """Cut rows into neighbourhoods of at most `LEAF`: halves along the widest axis, again and again."""
    waiting, leaves = [np.arange(len(keys))], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= LEAF:
            leaves.append(rows)
            continue
        values = keys[rows, keys[rows].var(axis=0).argmax()]
        order = np.argpartition(values, len(rows) // 2)
        waiting += [rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]]
    return leaves


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


@cache
def _weighted(dims: int) -> np.ndarray:
    """Return which coefficients have a weight."""
    return np.asarray(_weights(dims) > 0)


def _units(texts: Sequence[str], dims: int) -> np.ndarray:
    """Return the coefficients of fingerprints of ``dims`` axes, one a row: each of length one, on their axes."""
    codes = np.frombuffer(b"".join(base64.b64decode(text[2:]) for text in texts), dtype=np.int8)
    values = np.zeros((len(texts), *(FREQUENCIES[dims],) * dims), dtype=np.float32)
    values[:, _weighted(dims)] = codes.reshape(len(texts), -1)
    lengths = np.linalg.norm(values.reshape(len(texts), -1), axis=1)
    values /= lengths.reshape(-1, *(1,) * dims)
    return values


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


def _bounds(units: np.ndarray) -> np.ndarray:
    """Return, for each row, what flips and turns do not change; its correlations are never below those of `_views`."""
    flat = np.abs(units).reshape(len(units), -1)
    parts = [np.sort(flat[:, places], axis=2).reshape(len(units), -1) for places in _orbits(units.ndim - 1)]
    bounds = np.concatenate(parts, axis=1)
    return np.asarray(bounds[:, bounds.any(axis=0)])
