"""Random series whose truth is known: no accepted scan mixes volumes, leaves a slice out or loses an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.catalogue.parts import ProvedSeries
from medml.catalogue.series import prove_series
from medml.io.dicom import Header

SLICES = 5
PLAIN = Header(
    path=Path("/nowhere"),
    size=600_000,
    changed=0,
    transfer_syntax="1.2.840.10008.1.2.1",
    sop_class="1.2.840.10008.5.1.4.1.1.4",
    study_uid="1.1",
    series_uid="1.2",
    frame_uid="1.3",
    patient_id="P",
    modality="MR",
    rows=12,
    columns=12,
    orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    pixel_spacing=(0.7, 0.7),
    image_type=("ORIGINAL", "PRIMARY", "OTHER"),
    photometric="MONOCHROME2",
    bits_allocated=16,
    bits_stored=12,
    high_bit=11,
    pixel_offset=1000,
    pixel_bytes=288,
    pixel_present=288,
)
TAGS: dict[str, tuple[Any, ...]] = {
    "echo_time": (10.0, 40.0, 70.0),
    "echo_number": ("1", "2", "3"),
    "temporal_position": ("1", "2", "3"),
    "trigger_time": ("0", "310", "620"),
    "b_value": (0.0, 500.0, 1000.0),
    "series_number": ("5", "6", "7"),
    "component": ("MAGNITUDE", "PHASE", "REAL"),
    "kernel": ("B20f", "B40f", "B60f"),
    "flip_angle": (5.0, 15.0, 25.0),
    "inversion_time": (100.0, 400.0, 700.0),
    "stack_id": ("1", "2", "3"),
    "acquired": ("20240101120000", "20240101120100", "20240101120200"),
    "acquisition": ("1", "2", "3"),
}


def random_series(rng: np.random.Generator) -> tuple[list[Header], set[tuple[int, int]]]:
    """Return headers whose UIDs end in volume and slice, and which of them were removed again."""
    count, tag = int(rng.integers(1, 4)), str(rng.choice(list(TAGS)))
    spacing, tilt = float(rng.choice([0.5, 1.25, 5.0])), float(rng.choice([0.0, 0.0, 0.3]))
    numbering = str(rng.choice(["by volume", "by slice", "random", "none"]))
    numbers = rng.permutation(count * SLICES)
    headers = []
    for volume in range(count):
        for place in range(SLICES):
            at = volume * SLICES + place
            number = {"by volume": at, "by slice": place * count + volume, "random": int(numbers[at]), "none": 0}
            z = spacing * place + float(rng.uniform(-0.002, 0.002))
            changes = {tag: TAGS[tag][volume]} if count > 1 else {}
            header = replace(
                PLAIN,
                sop_uid=f"1.9.{volume}.{place}.0",
                position=(0.0, tilt * z, z),
                thickness=spacing,
                instance=number[numbering] + 1,
                **changes,
            )
            headers.append(header)
    kept = rng.permutation(len(headers))[int(rng.choice([0, 0, 1])) :]
    gone = {truth_of(header) for n, header in enumerate(headers) if n not in kept}
    headers = [headers[n] for n in kept]
    if rng.random() < 0.2:
        headers.append(replace(headers[0], sop_uid=f"{headers[0].sop_uid}.1"))  # sent twice under another UID
    return headers, gone


def truth_of(header: Header) -> tuple[int, int]:
    volume, place = header.sop_uid.split(".")[2:4]
    return int(volume), int(place)


@pytest.mark.parametrize("seed", range(0, 400, 100))
def test_no_accepted_scan_mixes_volumes_or_leaves_a_slice_out(seed: int) -> None:
    accepted = 0
    for number in range(seed, seed + 100):
        headers, gone = random_series(np.random.default_rng(number))
        parts = prove_series(headers)
        members = sorted(header.sop_uid for part in parts for header in part.members)
        assert members == sorted(header.sop_uid for header in headers), number
        scans = [part for part in parts if isinstance(part, ProvedSeries)]
        assert len({scan.key for scan in scans}) == len(scans), number
        for scan in scans:
            truth = [truth_of(header) for header in scan.headers]
            volume, first = truth[0]
            assert truth == [(volume, place) for place in range(first, first + len(truth))], number
            lost = {(volume, place) for place in range(SLICES)} - set(truth)
            # one volume alone cannot tell that its first or last slice is missing, nor that all others lack it too
            assert lost <= gone, number
            accepted += 1
    assert accepted > 60
