"""The images of one series divided into volumes, by what tells them apart.

What makes a different image anywhere (matrix, orientation, echo time) divides a series at once; what may vary within a
volume too (acquisition number, trigger time) only where several images stand at one position, or where it alone makes
regular grids of an irregular whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from medml.catalogue.axes import ALWAYS, REPEATED, SEVERAL, Axis, Value
from medml.catalogue.policies import Policies
from medml.catalogue.positions import along_normal, places_of, regular_spacing, require_geometry
from medml.errors import GeometryError, Refusal
from medml.io.dicom import Header


@dataclass(frozen=True, slots=True)
class Mark:
    """What sets one volume apart from the others of its series.

    Attributes
    ----------
    axis : Axis
    policy : str
        What was done: "split" or "stack".
    value : Value
    index, of : int
        Place among the values, from 0, and how many there are.
    """

    axis: Axis
    policy: str
    value: Value
    index: int
    of: int

    @property
    def name(self) -> str:
        """Fit for a channel's name: echo2, phase, b1000."""
        return self.value.name or f"{self.axis.prefix}{self.index + 1}"

    @property
    def key(self) -> str:
        """What makes the volume this volume, whatever else its series holds."""
        return f"{self.axis.noun}={self.value.text}"


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Images of a series that may be one volume; refused if ``refusal`` says so.

    ``repeats`` are images that were found to have the pixels of others at the same place.
    """

    headers: tuple[Header, ...]
    marks: tuple[Mark, ...] = ()
    refusal: Refusal | None = None
    repeats: tuple[Header, ...] = ()


def divide(headers: Sequence[Header], policies: Policies) -> list[Piece]:
    """Divide the images of a series into volumes, none of which has two images at one place that a tag tells apart.

    A policy "refuse" refuses the piece it finds mixed, and leaves the others.
    """
    pieces = [Piece(tuple(headers))]
    for axis in ALWAYS:
        if axis.policy == "mixed_orientation":
            pieces = each(pieces, _placed)
        pieces = each(pieces, partial(_by_axis, axis=axis, policies=policies))
    pieces = each(pieces, partial(_separate, policies=policies))
    return _complete(pieces, policies)


def each(pieces: Iterable[Piece], step: Callable[[Piece], list[Piece]]) -> list[Piece]:
    """Do ``step`` to every piece that is not refused; a refusal costs its own piece."""
    done: list[Piece] = []
    for piece in pieces:
        if piece.refusal is not None:
            done.append(piece)
            continue
        try:
            done.extend(step(piece))
        except Refusal as refusal:
            done.append(replace(piece, refusal=refusal))
    return done


def _placed(piece: Piece) -> list[Piece]:
    require_geometry(piece.headers)
    return [piece]


def _by_axis(piece: Piece, axis: Axis, policies: Policies) -> list[Piece]:
    values = axis.values(piece.headers)
    if len({value.text for value in values}) == 1:
        return [piece]
    return _split(piece, axis, values, getattr(policies, axis.policy))


def _split(piece: Piece, axis: Axis, values: Sequence[Value], policy: str) -> list[Piece]:
    """Split a piece by the values of its images.

    Raises
    ------
    GeometryError
        If the policy is to refuse it.
    """
    texts = [value.text for value in values]
    if policy == "refuse":
        listed = ", ".join(f"{text or 'none'} in {count}" for text, count in Counter(texts).most_common(3))
        raise GeometryError(
            axis.code,
            f"{len(set(texts))} values of the {axis.noun} in {len(texts)} files{f' ({listed})' if axis.shown else ''}, "
            "expected one; several images are mixed in one series",
        )
    distinct = sorted({value.text: value for value in values}.values(), key=lambda value: (value.order, value.text))
    return [
        Piece(
            tuple(header for header, text in zip(piece.headers, texts, strict=True) if text == value.text),
            (*piece.marks, Mark(axis, policy, value, index, len(distinct))),
        )
        for index, value in enumerate(distinct)
    ]


def _separate(piece: Piece, policies: Policies) -> list[Piece]:
    """Take apart images that stand at one place, and acquisitions that are volumes each but none together."""
    if len(piece.headers) == 1:
        return [piece]
    places = places_of(piece.headers)
    if np.bincount(places).max() == 1:
        return _apart(piece, policies)
    for axis in REPEATED:
        values = axis.values(piece.headers)
        if _explains(values, places, loose=axis.loose):
            policy = getattr(policies, _policy_of(axis, values, places))
            return each(_split(piece, axis, values, policy), partial(_separate, policies=policies))
    for axis, ranks in _orders(piece.headers, places):
        return _split(piece, axis, ranks, getattr(policies, axis.policy))
    return [piece]


def _explains(values: Sequence[Value], places: np.ndarray, *, loose: bool) -> bool:
    """Say whether a tag's values are volumes: some place has all of them; acquisitions may lie one beside another."""
    texts = [value.text for value in values]
    count = len(set(texts))
    at: dict[int, set[str]] = defaultdict(set)
    for place, text in zip(places.tolist(), texts, strict=True):
        at[place].add(text)
    most = max(map(len, at.values()))
    return count > 1 and (most == count or (loose and most > 1 and 2 * count <= len(texts)))


def _policy_of(axis: Axis, values: Sequence[Value], places: np.ndarray) -> str:
    """Return the policy's key: acquisitions that repeat the same positions are time points."""
    if axis.noun != "acquisition number":
        return axis.policy
    at: dict[str, set[int]] = defaultdict(set)
    for place, value in zip(places.tolist(), values, strict=True):
        at[value.text].add(place)
    return "time_points" if len({frozenset(found) for found in at.values()}) == 1 else axis.policy


def _orders(headers: Sequence[Header], places: np.ndarray) -> Iterable[tuple[Axis, list[Value]]]:
    """Yield what orders the images of every place alike: times, or numbers that run through the volumes.

    Trigger times may differ from slice to slice by more than from phase to phase: then the numbers must agree.
    """
    counts = np.bincount(places)
    if counts.min() != counts.max():
        return
    numbers = [None if header.instance is None else header.instance * 1e5 + header.frame for header in headers]
    run = _ranks(numbers, places)
    run = run if run is not None and _sweeps(numbers, places, run) else None
    triggers = [_number(header.trigger_time) for header in headers]
    phases = _ranks(triggers, places)
    if phases is not None and (_sweeps(triggers, places, phases) or phases == run):
        yield next(axis for axis in REPEATED if axis.noun == "trigger time"), phases
    moments = [_number(header.acquired) for header in headers]
    times = _ranks(moments, places)
    if times is not None and _sweeps(moments, places, times):
        yield Axis("time_points", SEVERAL, "acquisition time", "time", lambda _: []), times
    if run is not None and len(counts) > 2:  # at one place or two a number may run through the volumes by chance
        yield Axis("time_points", SEVERAL, "instance number", "time", lambda _: []), run


def _ranks(numbers: Sequence[float | None], places: np.ndarray) -> list[Value] | None:
    """Return each image's rank among those at its place; None where one has no number, or two have the same."""
    if any(number is None for number in numbers):
        return None
    keys = np.array(numbers, dtype=float)
    order = np.lexsort((keys, places))
    same = (np.diff(places[order]) == 0) & (np.diff(keys[order]) == 0)
    if same.any():
        return None
    each_place = int(np.bincount(places)[0])
    ranks = np.empty(len(keys), dtype=int)
    ranks[order] = np.tile(np.arange(each_place), len(keys) // each_place)
    return [Value((float(rank),), str(rank + 1)) for rank in ranks.tolist()]


def _sweeps(numbers: Sequence[float | None], places: np.ndarray, ranks: Sequence[Value]) -> bool:
    """Say whether numbers run through one volume after another in one order, or through one place after another."""
    order = np.argsort(np.array(numbers, dtype=float), kind="stable")
    each_place = int(np.bincount(places)[0])
    by_volume = places[order].reshape(each_place, -1)
    by_place = places[order].reshape(-1, each_place)
    volumes = np.array([value.order[0] for value in ranks])[order].reshape(each_place, -1)
    one_order = bool((by_volume == by_volume[0]).all() and (np.ptp(volumes, axis=1) == 0).all())
    steps = np.diff(by_place[:, 0])
    return one_order or bool((np.ptp(by_place, axis=1) == 0).all() and (np.abs(steps) == 1).all())


def _apart(piece: Piece, policies: Policies) -> list[Piece]:
    """Split what stands at places of its own where each part is regular, and the whole is not, or only by chance."""
    whole = _spacing(piece.headers)
    for axis in REPEATED:
        values = axis.values(piece.headers)
        if not 2 <= len({value.text for value in values}) <= len(values) // 2:
            continue
        parts = _split(piece, axis, values, "split")
        if all(_spacing(part.headers) is not None for part in parts) and (
            axis.constant or (whole is None and axis.loose) or (whole and _by_chance(parts, whole, piece.headers[0]))
        ):
            return _split(piece, axis, values, getattr(policies, axis.policy))
    return [piece]


def _spacing(headers: Sequence[Header]) -> float | None:
    """Return the distance of slices that form one regular line, straight or oblique; None if they do not."""
    if len(headers) < 2:
        return None
    along = along_normal(headers)
    order = np.argsort(along, kind="stable")
    points = np.array([header.position for header in headers])[order]
    return regular_spacing(points, along[order])


def _by_chance(parts: Sequence[Piece], spacing: float, header: Header) -> bool:
    """Say whether parts lie between one another at a distance that the header does not speak of."""
    ends = sorted((float(along.min()), float(along.max())) for along in (along_normal(part.headers) for part in parts))
    between = any(after[0] < before[1] for before, after in pairwise(ends))
    stated = [value for value in (header.spacing_between, header.thickness) if value and value > 0]
    return between and not any(abs(value - spacing) <= 0.2 * spacing for value in stated)


def _complete(pieces: list[Piece], policies: Policies) -> list[Piece]:
    """Refuse volumes that lack slices which others of their kind have at the same places: these are missing."""
    if policies.missing_slice == "split":
        return pieces
    for loose in (False, True):
        kin: dict[tuple[str, ...], list[Piece]] = defaultdict(list)
        for piece in pieces:
            several = [mark for mark in piece.marks if mark.axis.code == SEVERAL and mark.axis.loose == loose]
            apart = tuple(mark.key for mark in piece.marks if mark not in several)
            if piece.refusal is None and several:
                kin[apart].append(piece)
        missing = {key: count for group in kin.values() for key, count in _missing(group, loose=loose).items()}
        pieces = each(pieces, partial(_require_all, missing=missing))
    return pieces


def _missing(pieces: Sequence[Piece], *, loose: bool) -> dict[int, int]:
    """Return, by the id of each piece, at how many places it lacks a slice that others have.

    Echoes and time points cover the same places, if they have any in common. Acquisitions may cover different ones,
    but have no holes where others have slices, nor do they lack so few at an end (10 %) that these must be lost.
    """
    places = places_of([header for piece in pieces for header in piece.headers]).tolist()
    held: list[set[int]] = []
    for piece in pieces:
        held.append(set(places[: len(piece.headers)]))
        del places[: len(piece.headers)]
    return {
        id(piece): len(_lost(at, [*held[:n], *held[n + 1 :]], loose=loose))
        for n, (piece, at) in enumerate(zip(pieces, held, strict=True))
    }


def _lost(at: set[int], others: Sequence[set[int]], *, loose: bool) -> set[int]:
    """Return the places of others that a volume should have as well."""
    lost: set[int] = set()
    beside = (other for other in others if min(other) <= max(at) and min(at) <= max(other))
    if not loose:
        fullest = max(beside, key=len, default=at)
        lost |= set(sorted(fullest - at)[: max(0, len(fullest) - len(at))])
    for other in (other for other in others if other & at):
        rest = other - at
        inside = min(other) <= min(at) and max(at) <= max(other)
        if not loose or (inside and len(rest) <= max(1, len(other) // 10)):
            lost |= rest
        lost |= {place for place in rest if min(at) < place < max(at)}
    return lost


def _require_all(piece: Piece, missing: Mapping[int, int]) -> list[Piece]:
    lacks = missing.get(id(piece), 0)
    if lacks:
        mark = next(mark for mark in reversed(piece.marks) if mark.axis.code == SEVERAL)
        raise GeometryError(
            "missing_slice",
            f"the volume {mark.name} (by {mark.axis.noun}) has {len(piece.headers)} slices, and none at {lacks} places "
            "where others of its series have one",
        )
    return [piece]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
