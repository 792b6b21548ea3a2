from __future__ import annotations

import numpy as np
import pytest
from dicom_phantoms import ROOT, tagged, write_series

from medml.catalogue.config import IngestConfig
from medml.catalogue.dicom_folder import read_as_one_series
from medml.catalogue.tree import Tree
from medml.catalogue.walk import find_scans
from medml.errors import Refusal
from medml.geometry import to_canonical


def test_files_of_any_name_become_one_series(source, split) -> None:
    write_series(source.root / "deep" / "er")
    source.text("deep/er/README", "x")
    found = list(find_scans(source.root))
    candidates, outcomes = split(found)
    candidate = candidates["deep/er"]
    assert (candidate.files, candidate.patient, candidate.modality) == (4, ("HOSP", "PID7"), "CT")
    assert candidate.channel_names == ("CT",)
    assert candidate.columns == {"age": 61, "scanner": "ACME Scan 9", "sex": "F", "slice_thickness": 5.0}
    assert outcomes["deep/er/README"].code == "not_an_image"
    reading = candidate.read()
    assert reading.volume.voxels.shape == (1, 2, 3, 4)
    assert to_canonical(np.arange(24).reshape(2, 3, 4), reading.grid).shape == (2, 3, 4)
    assert candidate.locator["sop_uids"] == [f"{ROOT}.4.{n}" for n in (1, 2, 3, 4)]
    assert sum(item.files for item in found) == 5


def test_several_series_of_one_folder_have_names_of_their_own(source, split) -> None:
    for number in (1, 2):
        edit = tagged(SeriesInstanceUID=f"{ROOT}.2{number}")

        def renumbered(data, index, number=number, edit=edit) -> None:
            edit(data, index)
            data.SOPInstanceUID = f"{ROOT}.{number}.{index}"

        for path in write_series(source.root / str(number), edit=renumbered):
            path.rename(source.root / f"{number}_{path.name}")
    candidates, _ = split(list(find_scans(source.root)))
    assert [name.partition("#")[0] for name in candidates] == [".", "."]
    assert len({candidate.identity for candidate in candidates.values()}) == 2
    assert len({candidate.group for candidate in candidates.values()}) == 2


def test_a_series_that_cannot_be_proved_is_refused_with_its_files(source, split) -> None:
    paths = write_series(source.root / "s", 5)
    paths[2].unlink()
    _, outcomes = split(list(find_scans(source.root)))
    assert (outcomes["s"].outcome, outcomes["s"].files) == ("refused", 4)
    assert "mm" in outcomes["s"].reason


def test_a_manifest_may_name_a_series_and_a_mask_on_its_grid(source, split, desk) -> None:
    write_series(source.root / "dicom")
    candidates, _ = split(list(find_scans(source.root / "dicom")))
    volume = next(iter(candidates.values())).read().volume
    mask = np.zeros_like(volume.voxels, dtype=np.uint8)
    mask[0, 1, 1, 1] = 1
    from medml.io.nifti import write_nifti
    from medml.records.scan import Volume

    write_nifti(source.root / "m.nii.gz", Volume(mask, volume.affine))
    manifest = source.text("m.csv", "subject_id,image,mask,sex\np1,dicom,m.nii.gz,M\n")
    found = list(find_scans(manifest))
    candidate = found[1]
    assert (candidate.files, candidate.modality, candidate.columns["sex"]) == (5, "CT", "M")
    assert candidate.read().mask.sum() == 1
    assert len(candidate.locator["sop_uids"]) == 4
    assert desk.ingest(manifest).counts.labelled == 1


def test_a_manifest_path_without_one_series_is_refused(source) -> None:
    (source.root / "empty").mkdir()
    source.text("x.txt", "x")
    with pytest.raises(Refusal, match="holds 0 DICOM series in 0 files, expected 1"):
        read_as_one_series(Tree(source.root, IngestConfig()), "empty")


def test_one_series_in_two_folders_is_one_scan(source, desk, tmp_path) -> None:
    write_series(source.root / "a")
    first = desk.ingest(source.root)
    write_series(tmp_path / "other" / "b")
    second = desk.ingest(tmp_path / "other", config=IngestConfig(collection="source"))
    assert first.outcomes[0].scan_ids == second.outcomes[0].scan_ids
    assert len(desk.catalogue.scans()) == 1


def two_echoes(data, index) -> None:
    """Slices 0 to 3 are the first echo, 4 to 7 the second, at the same places."""
    data.EchoTime = (10, 80)[index // 4]
    data.ImagePositionPatient = [-10.0, -20.0, 5.0 * (index % 4)]


def test_echoes_of_one_series_are_scans_of_one_case(source, split, desk, tmp_path) -> None:
    write_series(source.root / "s", 8, edit=two_echoes)
    found = list(find_scans(source.root))
    assert [(item.source, item.files, item.channel_names) for item in found] == [
        ("s#echo1", 4, ("echo1",)),
        ("s#echo2", 4, ("echo2",)),
    ]
    assert len({candidate.group for candidate in found}) == 1
    assert len({candidate.stamp for candidate in found}) == 2
    report = desk.ingest(source.root)
    assert (report.counts.files, report.counts.accepted, report.counts.scans) == (8, 8, 2)
    scans = {scan.columns["part"]: scan for scan in desk.catalogue.scans()}
    assert scans["echo1"].group == scans["echo2"].group
    assert "several_volumes" in {finding.code for finding in scans["echo2"].findings}
    # elsewhere, under other names and in another order, they are the same scans
    for number, path in enumerate(sorted((source.root / "s").iterdir(), reverse=True)):
        (tmp_path / "other").mkdir(exist_ok=True)
        path.rename(tmp_path / "other" / f"{number:02d}.dcm")
    again = desk.ingest(tmp_path / "other", config=IngestConfig(collection="source"))
    assert {scan_id for item in again.outcomes for scan_id in item.scan_ids} == {s.scan_id for s in scans.values()}


def test_echoes_may_be_components_of_one_scan(source, split) -> None:
    write_series(source.root / "s", 8, edit=two_echoes)
    (candidate,) = find_scans(source.root, IngestConfig(policies={"echoes": "stack"}))
    assert (candidate.source, candidate.files, candidate.channel_names) == ("s", 8, ("echo1", "echo2"))
    assert candidate.read().volume.voxels.shape == (2, 2, 3, 4)
    assert candidate.locator["sop_uids"] == [f"{ROOT}.4.{n}" for n in (1, 2, 3, 4)]
    assert candidate.locator["stacked"] == [[f"{ROOT}.4.{n}" for n in (5, 6, 7, 8)]]


def test_a_bad_part_is_refused_and_every_file_counted_once(source, desk) -> None:
    write_series(source.root / "s", 8, edit=two_echoes)
    next((source.root / "s").glob("*_6")).unlink()
    report = desk.ingest(source.root)
    assert (report.counts.files, report.counts.accepted, report.counts.refused) == (7, 4, 3)
    assert [(item.source, item.code) for item in report.outcomes] == [
        ("s#echo1", "accepted"),
        ("s#echo2", "missing_slice"),
    ]


def test_a_tilted_series_is_stored_straight_with_its_way_back(source, desk) -> None:
    def tilted(data, index) -> None:
        data.ImagePositionPatient = [0.0, 1.0 * index, 5.0 * index]

    write_series(source.root / "s", 4, edit=tilted)
    report = desk.ingest(source.root)
    (scan,) = desk.catalogue.scans()
    assert scan.source_grid.repair is not None
    assert scan.source_grid.repair.kind == "gantry_tilt"
    assert scan.shape == (2, 9, 4)
    locator = desk.crosswalk.locator(scan.scan_id)
    assert locator["repair"]["places"] == [list(place) for place in scan.source_grid.repair.places]
    assert "gantry_tilt" in report.findings


def test_a_manifest_may_not_name_a_series_of_several_volumes(source) -> None:
    write_series(source.root / "s", 8, edit=two_echoes)
    with pytest.raises(Refusal, match="the series holds 2 volumes, expected 1"):
        read_as_one_series(Tree(source.root, IngestConfig()), "s")
    series = read_as_one_series(Tree(source.root, IngestConfig(policies={"echoes": "stack"})), "s")
    assert series.read().volume.voxels.shape[0] == 2
