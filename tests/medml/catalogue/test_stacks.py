"""Series that hold several volumes: taken apart, stacked or refused, each part with a name and identity of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_phantoms import headers_of, set_pixels, write_series
from pydicom.dataset import Dataset

from medml.catalogue.parts import ProvedSeries, RefusedSeries
from medml.catalogue.policies import DEFAULT, Policies
from medml.catalogue.series import prove_series
from medml.io.dicom import Header, read_series

Change = Callable[[Dataset, int, int], None]


def volumes(folder: Path, change: Change, *, count: int = 2, slices: int = 3, skip: Sequence[int] = ()) -> list[Header]:
    """Write ``count`` volumes of ``slices`` slices, 5 mm apart, in one series; ``change(data, volume, slice)``."""

    def edit(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [-10.0, -20.0, 5.0 * (index % slices)]
        change(data, index // slices, index % slices)

    paths = write_series(folder, count * slices, edit=edit)
    return headers_of([path for index, path in enumerate(paths) if index not in skip])


def setting(name: str, *values: Any) -> Change:
    return lambda data, volume, _: setattr(data, name, values[volume])


def accepted(headers: Sequence[Header], policies: Policies = DEFAULT) -> list[ProvedSeries]:
    parts = prove_series(headers, policies)
    assert all(isinstance(part, ProvedSeries) for part in parts)
    return [part for part in parts if isinstance(part, ProvedSeries)]


def refusals(headers: Sequence[Header], policies: Policies = DEFAULT) -> list[tuple[str, int, str]]:
    parts = prove_series(headers, policies)
    found = [part for part in parts if isinstance(part, RefusedSeries)]
    assert sum(len(part.members) for part in parts) == len(headers)
    return [(part.refusal.code, len(part.members), str(part.refusal)) for part in found]


@pytest.mark.parametrize(
    ("name", "values", "names"),
    [
        ("EchoTime", (10, 80), ("echo1", "echo2")),
        ("EchoTime", (80, 10), ("echo1", "echo2")),
        ("EchoNumbers", (1, 2), ("echo1", "echo2")),
        ("InversionTime", (500, 2500), ("inversion1", "inversion2")),
        ("FlipAngle", (5, 20), ("flip1", "flip2")),
        ("DiffusionBValue", (0.0, 1000.0), ("b0", "b1000")),
        ("ComplexImageComponent", ("MAGNITUDE", "PHASE"), ("magnitude", "phase")),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), ("magnitude", "phase")),
        ("TemporalPositionIdentifier", (1, 2), ("time1", "time2")),
        ("TriggerTime", (0.0, 400.0), ("cycle1", "cycle2")),
        ("AcquisitionNumber", (1, 2), ("acquisition1", "acquisition2")),
        ("SeriesNumber", (3, 4), ("series1", "series2")),
        ("ConvolutionKernel", ("B30f", "B70f"), ("kernel1", "kernel2")),
        ("AcquisitionTime", ("101500", "101502"), ("time1", "time2")),
    ],
)
def test_what_tells_volumes_apart_splits_them(
    tmp_path: Path, name: str, values: tuple[Any, Any], names: tuple[str, str]
) -> None:
    parts = accepted(volumes(tmp_path, setting(name, *values)))
    assert tuple(part.name for part in parts) == names
    assert [len(part.headers) for part in parts] == [3, 3]
    assert all(len({h.position for h in part.headers}) == 3 for part in parts)
    by_low_value = values[0] > values[1] if name == "EchoTime" else False
    first = {header.instance for header in parts[0].headers}
    assert first == ({4, 5, 6} if by_low_value else {1, 2, 3})
    assert [(f.code, f.numbers) for f in parts[1].findings] == [("several_volumes", {"volumes": 2.0, "index": 2.0})]


def test_the_key_of_a_part_depends_on_its_value_and_not_on_the_files(tmp_path: Path) -> None:
    headers = volumes(tmp_path, setting("EchoTime", 10, 20, 30), count=3)
    keys = [part.key for part in accepted(headers)]
    assert keys == ["echo time=10", "echo time=20", "echo time=30"]
    assert [part.key for part in accepted(headers[::-1])] == keys
    assert [part.key for part in accepted([h for h in headers if h.echo_time != 10])] == keys[1:]
    assert [part.group for part in accepted(headers)] == ["", "", ""]  # one case with three images


def test_time_points_are_cases_of_their_own(tmp_path: Path) -> None:
    parts = accepted(volumes(tmp_path, setting("TemporalPositionIdentifier", 1, 2)))
    assert [part.group for part in parts] == ["temporal position=1", "temporal position=2"]


def test_echoes_in_halves_of_one_stack_are_told_apart(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.EchoTime = 10 if index < 3 else 80

    parts = accepted(headers_of(write_series(tmp_path, 6, edit=edit)))
    assert [(part.name, len(part.headers)) for part in parts] == [("echo1", 3), ("echo2", 3)]


def test_rounded_echo_times_are_one_echo(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.EchoTime = 9.84 if index % 2 else 9.85

    assert len(accepted(headers_of(write_series(tmp_path, 6, edit=edit)))) == 1


def test_two_tags_make_four_volumes(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.EchoTime, data.TemporalPositionIdentifier = (10, 80)[volume % 2], volume // 2 + 1

    parts = accepted(volumes(tmp_path, change, count=4))
    assert [part.name for part in parts] == ["echo1_time1", "echo1_time2", "echo2_time1", "echo2_time2"]
    (first, second) = accepted(volumes(tmp_path, change, count=4), Policies(echoes="stack"))
    assert (first.name, first.components) == ("time1", ("echo1", "echo2"))
    assert second.name == "time2"


def test_gradient_directions_are_volumes_of_their_own(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.DiffusionBValue = 0.0 if volume == 0 else 1000.0
        if volume:
            data.DiffusionGradientOrientation = [1.0, 0.0, 0.0] if volume == 1 else [0.0, 1.0, 0.0]

    assert [p.name for p in accepted(volumes(tmp_path, change, count=3))] == [
        "b0",
        "b1000_direction1",
        "b1000_direction2",
    ]


def test_trigger_times_that_differ_from_slice_to_slice_are_ranked(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.TriggerTime = 100.0 * volume + place

    parts = accepted(volumes(tmp_path, change, count=3))
    assert [part.name for part in parts] == ["cycle1", "cycle2", "cycle3"]
    assert [{h.instance for h in part.headers} for part in parts] == [{1, 2, 3}, {4, 5, 6}, {7, 8, 9}]


@pytest.mark.parametrize("by_slice", [False, True])
def test_numbers_that_sweep_the_positions_tell_time_points_apart(tmp_path: Path, by_slice: bool) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.InstanceNumber = place * 2 + volume + 1 if by_slice else volume * 3 + place + 1

    parts = accepted(volumes(tmp_path, change))
    assert [part.name for part in parts] == ["time1", "time2"]
    for volume, part in enumerate(parts):
        assert {header.sop_uid[-1] for header in part.headers} == {str(3 * volume + n) for n in (1, 2, 3)}


def test_images_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    same = refusals(volumes(tmp_path / "a", setting("InstanceNumber", 1, 1)))
    assert [(code, files) for code, files, _ in same] == [("duplicate_positions", 6)]

    def shuffled(data: Dataset, volume: int, place: int) -> None:
        data.InstanceNumber = [1, 5, 2, 4, 3, 6][volume * 3 + place]

    assert [code for code, _, _ in refusals(volumes(tmp_path / "b", shuffled))] == ["duplicate_positions"]


def test_a_volume_that_lacks_a_slice_is_refused_and_the_other_kept(tmp_path: Path) -> None:
    for tag in ("EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber"):
        headers = volumes(tmp_path / tag, setting(tag, 1, 80), skip=[5])
        ((code, files, reason),) = refusals(headers)
        assert (code, files) == ("missing_slice", 2)
        assert "has 2 slices, and none at 1 places where others of its series have one" in reason
        (kept,) = [part for part in prove_series(headers) if isinstance(part, ProvedSeries)]
        assert len(kept.headers) == 3
        finding = kept.findings[-1]
        assert (finding.code, finding.numbers) == ("partial_series", {"refused": 2.0, "images": 5.0})


def test_a_short_second_acquisition_is_a_scan(tmp_path: Path) -> None:
    headers = volumes(tmp_path, setting("AcquisitionNumber", 1, 2), slices=6, skip=[6, 9, 10, 11])
    assert [len(part.headers) for part in accepted(headers)] == [6, 2]


@pytest.mark.parametrize("policy", ["echoes", "time_points", "b_values", "phases", "image_types", "contrasts"])
def test_a_policy_may_refuse_volumes_or_stack_them(tmp_path: Path, policy: str) -> None:
    tags: dict[str, tuple[str, Any, Any]] = {
        "echoes": ("EchoTime", 10, 80),
        "time_points": ("TemporalPositionIdentifier", 1, 2),
        "b_values": ("DiffusionBValue", 0.0, 800.0),
        "phases": ("TriggerTime", 0, 500),
        "image_types": ("ComplexImageComponent", "REAL", "IMAGINARY"),
        "contrasts": ("RepetitionTime", 500, 2000),
    }
    headers = volumes(tmp_path, setting(*tags[policy]))
    ((code, files, reason),) = refusals(headers, Policies.model_validate({policy: "refuse"}))
    assert (code, files) == ("several_volumes", 6)
    assert "in 6 files" in reason
    assert "expected one; several images are mixed in one series" in reason
    (stack,) = accepted(headers, Policies.model_validate({policy: "stack"}))
    assert len(stack.components) == 2
    assert stack.key == ""
    volume, grid, _ = read_series(stack.headers, components=2)
    assert volume.voxels.shape == (2, 2, 3, 3)
    assert grid.shape == (2, 3, 3)
    # slice 0 of each volume: 1000 + 100 x index + 10 x row + column - 1024, at LPS (-10, -20, 0)
    corner = np.linalg.inv(volume.affine) @ [10.0, 20.0, 0.0, 1.0]
    i, j, k = corner[:3].round().astype(int)
    values = [-24, 276] if policy != "image_types" else [276, -24]  # imaginary comes before real
    assert volume.voxels[:, i, j, k].tolist() == values


def test_volumes_on_different_grids_are_not_stacked(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.EchoTime = (10, 80)[volume]
        data.ImagePositionPatient = [-10.0 + volume, -20.0, 5.0 * place]

    ((code, files, reason),) = refusals(volumes(tmp_path, change), Policies(echoes="stack"))
    assert (code, files) == ("several_volumes", 6)
    assert "2 volumes of one series stand at different positions and cannot be stacked" in reason


def test_a_stack_with_a_refused_volume_is_refused(tmp_path: Path) -> None:
    headers = volumes(tmp_path, setting("EchoTime", 10, 80), skip=[4])
    assert [(code, files) for code, files, _ in refusals(headers, Policies(echoes="stack"))] == [("missing_slice", 5)]


def test_too_many_volumes_are_not_stacked(tmp_path: Path) -> None:
    times = range(1, 18)
    headers = volumes(tmp_path, setting("TemporalPositionIdentifier", *times), count=17, slices=2)
    ((code, _, reason),) = refusals(headers, Policies(time_points="stack"))
    assert (code, reason[:42]) == ("too_many_components", "17 volumes to stack, expected at most 16; ")


@pytest.mark.parametrize(
    ("name", "values", "code"),
    [
        ("ImageOrientationPatient", ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]), "mixed_orientation"),
        ("PixelSpacing", ([0.5, 0.75], [0.5, 0.8]), "mixed_spacing"),
        ("FrameOfReferenceUID", ("1.2", "1.3"), "mixed_frame_of_reference"),
        ("Modality", ("CT", "MR"), "mixed_modality"),
    ],
)
def test_mixtures_may_be_split(tmp_path: Path, name: str, values: tuple[Any, Any], code: str) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        setattr(data, name, values[volume])
        data.ImagePositionPatient = [0.0, 5.0 * place if volume and code == "mixed_orientation" else 0.0, 5.0 * place]
        if volume and code == "mixed_orientation":
            data.ImagePositionPatient = [0.0, 5.0 * place, 0.0]

    parts = accepted(volumes(tmp_path, change), Policies.model_validate({code: "split"}))
    assert [len(part.headers) for part in parts] == [3, 3]
    assert [[finding.code for finding in part.findings] for part in parts] == [[code], [code]]
    assert len({part.key for part in parts}) == 2
    assert len({part.group for part in parts}) == 2


def test_a_matrix_of_its_own_splits_off(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        if index == 4:
            set_pixels(data, np.zeros((4, 4), np.uint16))

    parts = accepted(headers_of(write_series(tmp_path, 5, edit=edit)))
    assert [(part.name, len(part.headers)) for part in parts] == [("matrix1", 4), ("matrix2", 1)]


def test_a_scout_is_refused_and_the_rest_of_its_series_kept(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        if index == 4:
            data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    headers = headers_of(write_series(tmp_path, 5, edit=edit))
    assert [(code, files) for code, files, _ in refusals(headers)] == [("localizer", 1)]
    (kept,) = [part for part in prove_series(headers) if isinstance(part, ProvedSeries)]
    assert (len(kept.headers), kept.key) == (4, "")
    assert [finding.code for finding in kept.findings] == ["partial_series"]
    assert len(accepted(headers, Policies(localizer="split"))) == 2


def test_interleaved_acquisitions_are_not_merged_by_chance(tmp_path: Path) -> None:
    def shifted(data: Dataset, volume: int, place: int) -> None:
        data.AcquisitionNumber = volume + 1
        data.ImagePositionPatient = [0.0, 0.0, 5.0 * place + 2.5 * volume]

    parts = accepted(volumes(tmp_path / "a", shifted))
    assert [(part.name, len(part.headers)) for part in parts] == [("acquisition1", 3), ("acquisition2", 3)]

    def interleaved(data: Dataset, volume: int, place: int) -> None:
        shifted(data, volume, place)
        data.SliceThickness = 2.5

    assert [len(part.headers) for part in accepted(volumes(tmp_path / "b", interleaved))] == [6]


@pytest.mark.parametrize("tag", ["StackID", "SeriesNumber", "TemporalPositionIdentifier"])
def test_parts_that_a_sound_volume_has_one_of_are_split_wherever_they_lie(tmp_path: Path, tag: str) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        setattr(data, tag, volume + 1 if tag != "StackID" else str(volume + 1))
        data.ImagePositionPatient = [0.0, 0.0, 5.0 * place + 15.0 * volume]

    assert [len(part.headers) for part in accepted(volumes(tmp_path, change))] == [3, 3]


def test_thick_and_thin_slices_are_told_apart(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.SliceThickness = (5, 1)[volume]

    parts = accepted(volumes(tmp_path, change))
    assert [(part.name, len(part.headers)) for part in parts] == [("thickness1", 3), ("thickness2", 3)]


def test_a_tag_that_some_slices_lack_does_not_split_them(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.SliceThickness = 5.0 if index % 2 else None
        if index:
            data.FlipAngle = 30

    assert len(accepted(headers_of(write_series(tmp_path, 5, edit=edit)))) == 1


def test_random_trigger_times_do_not_make_phases(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.TriggerTime = [310, 20, 500, 15, 470, 400][volume * 3 + place]
        data.InstanceNumber = [1, 5, 2, 4, 3, 6][volume * 3 + place]

    assert [code for code, _, _ in refusals(volumes(tmp_path, change))] == ["duplicate_positions"]


def test_each_of_two_echoes_may_lack_another_slice(tmp_path: Path) -> None:
    headers = volumes(tmp_path, setting("EchoTime", 10, 80), skip=[1, 5])
    assert [code for code, _, _ in refusals(headers)] == ["missing_slice", "missing_slice"]


def test_acquisitions_with_a_gap_between_are_scans_of_their_own(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.AcquisitionNumber = volume + 1
        data.ImagePositionPatient = [0.0, 0.0, 5.0 * place + 100.0 * volume]

    assert [len(part.headers) for part in accepted(volumes(tmp_path, change))] == [3, 3]
    refused = refusals(volumes(tmp_path, change), Policies(acquisitions="refuse"))
    assert [(code, files) for code, files, _ in refused] == [("several_volumes", 6)]


def test_a_gap_may_split_a_volume_into_its_runs(tmp_path: Path) -> None:
    heights = [0, 5, 10, 20, 25, 40]

    def edit(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [0.0, 0.0, heights[index]]

    headers = headers_of(write_series(tmp_path, 6, edit=edit))
    assert [(code, files) for code, files, _ in refusals(headers)] == [("missing_slice", 6)]
    parts = prove_series(headers, Policies(missing_slice="split"))
    kept = [part for part in parts if isinstance(part, ProvedSeries)]
    assert [(part.key, len(part.headers)) for part in kept] == [("run of slices=0.0", 3), ("run of slices=20.0", 2)]
    assert [finding.code for finding in kept[0].findings] == ["missing_slice", "partial_series"]
    (alone,) = refusals(headers, Policies(missing_slice="split"))
    assert alone[2] == "the slice at 40.00 mm stands alone between gaps, expected its neighbours"


def test_images_with_the_same_pixels_at_one_place_may_be_taken_once(tmp_path: Path) -> None:
    def change(data: Dataset, volume: int, place: int) -> None:
        data.InstanceNumber = place + 1
        set_pixels(data, np.full((3, 2), 7 + place, np.uint16))

    headers = volumes(tmp_path / "a", change)
    assert [code for code, _, _ in refusals(headers)] == ["duplicate_positions"]
    (part,) = accepted(headers, Policies(duplicate_positions="repair"))
    assert (len(part.headers), len(part.members)) == (3, 6)
    assert [(f.code, f.numbers) for f in part.findings] == [("duplicate_positions", {"repeats": 3.0})]

    def other(data: Dataset, volume: int, place: int) -> None:
        change(data, volume, place)
        set_pixels(data, np.full((3, 2), 7 + place + volume, np.uint16))

    refused = refusals(volumes(tmp_path / "b", other), Policies(duplicate_positions="repair"))
    assert [code for code, _, _ in refused] == ["duplicate_positions"]
