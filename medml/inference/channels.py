"""Files that are the channels of one case become one candidate, for models that see several channels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from medml.errors import Refusal
from medml.records.candidate import Candidate, Reading
from medml.records.scan import Outcome
from medml.transforms.preprocessing import stack_channels


def join_channels(found: Iterable[Candidate | Outcome], channels: int) -> Iterator[Candidate | Outcome]:
    """Join candidates of one patient and group (``case_0000``, ``case_0001``, …) in channel order.

    Parameters
    ----------
    found : iterable
        What a walk found; drawn whole, since channels may lie in different folders. Voxels stay on disk.
    channels : int
        How many the model sees; with one nothing is joined and nothing is held back.
    """
    if channels == 1:
        yield from found
        return
    cases: dict[tuple[object, ...], list[Candidate]] = {}
    for item in found:
        if isinstance(item, Outcome):
            yield item
        else:
            cases.setdefault((item.patient, item.group), []).append(item)
    for parts in cases.values():
        numbers = [part.channel for part in parts]
        joined = len(parts) > 1 and len(set(numbers)) == len(parts)
        yield from [_join(sorted(parts, key=lambda part: part.channel))] if joined else parts


def _join(parts: list[Candidate]) -> Candidate:
    first = parts[0]
    return replace(
        first,
        files=sum(part.files for part in parts),
        identity="\0".join(part.identity for part in parts),
        stamp=hashlib.sha256("\0".join(part.stamp for part in parts).encode()).hexdigest(),
        read=partial(_read, parts),
        channel_names=tuple(name for part in parts for name in part.channel_names),
        locator={"channels": [part.locator for part in parts]},
    )


def _read(parts: list[Candidate]) -> Reading:
    if [part.channel for part in parts] != list(range(len(parts))):
        numbers = [part.channel for part in parts]
        raise Refusal(
            "missing_channel", f"channels {numbers} were found, expected 0 to {max(numbers)}; add the missing file"
        )
    readings = [part.read() for part in parts]
    volume = stack_channels([reading.volume for reading in readings])
    findings = tuple(finding for reading in readings for finding in reading.findings)
    return Reading(volume=volume, grid=readings[0].grid, findings=findings)
