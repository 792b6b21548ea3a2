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
    assert candidate.columns == {"age": 61, "scanner": "ACME Scan 9", "sex": "F"}
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
