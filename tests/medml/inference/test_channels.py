"""Channels in files of their own become one candidate."""

from __future__ import annotations

import numpy as np
import pytest

from medml.errors import Refusal
from medml.geometry import canonical_grid
from medml.inference.channels import join_channels
from medml.records.candidate import Candidate, Reading
from medml.records.scan import Outcome, Volume


def candidate(case: str, channel: int, value: float) -> Candidate:
    volume = Volume(voxels=np.full((1, 4, 4, 2), value, np.float32), affine=np.eye(4))
    return Candidate(
        source=f"{case}_{channel:04d}.nii.gz",
        files=1,
        identity=f"{case}/{channel}",
        stamp=f"{case}{channel}",
        read=lambda: Reading(volume=volume, grid=canonical_grid((4, 4, 2), np.eye(4))),
        patient=("", case),
        study=case,
        group=case,
        channel=channel,
        channel_names=(f"m{channel}",),
    )


def test_two_channels_of_a_case_are_read_as_one_volume_in_channel_order() -> None:
    found = [candidate("a", 1, 7.0), candidate("b", 0, 3.0), candidate("a", 0, 5.0), candidate("b", 1, 4.0)]
    first, second = join_channels(found, 2)
    assert isinstance(first, Candidate)
    assert isinstance(second, Candidate)
    assert first.files == 2
    assert first.channel_names == ("m0", "m1")
    assert first.read().volume.voxels[:, 0, 0, 0].tolist() == [5.0, 7.0]
    assert second.read().volume.voxels[:, 0, 0, 0].tolist() == [3.0, 4.0]


def test_outcomes_pass_and_one_channel_models_join_nothing() -> None:
    refused = Outcome(source="x", outcome="refused", code="broken")
    found = [refused, candidate("a", 0, 1.0), candidate("a", 1, 1.0)]
    assert list(join_channels(found, 1)) == found
    assert next(join_channels(found, 2)) is refused


def test_missing_channel_is_refused_with_the_numbers_found() -> None:
    (joined,) = join_channels([candidate("a", 0, 1.0), candidate("a", 2, 1.0)], 3)
    assert isinstance(joined, Candidate)
    with pytest.raises(Refusal, match=r"channels \[0, 2\] were found, expected 0 to 2"):
        joined.read()
