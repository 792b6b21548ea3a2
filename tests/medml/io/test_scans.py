"""The folder of one accepted scan."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from medml.errors import MedmlError, NotFound, Refusal
from medml.geometry import canonical_grid
from medml.io import scans
from medml.io.files import content_digest, mask_digest
from medml.records.home import Home
from medml.records.scan import Annotation, Scan, Volume

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = [0.1, 1 / 3, -7]
MASK = np.zeros((2, 3, 4), np.uint8)
MASK[1, 1, 1] = 1


def image() -> Volume:
    return Volume(np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4), AFFINE)


def record(number: int = 1) -> Scan:
    grid = canonical_grid((2, 3, 4), AFFINE)
    return Scan(
        scan_id=f"{number:024x}",
        collection="c",
        patient="p-1",
        study="s-1",
        group="g-1",
        shape=(2, 3, 4),
        affine=grid.affine,
        spacing_mm=(1, 2, 3),
        content=content_digest(image()),
        source_grid=grid,
    )


def annotation(origin: str = "expert") -> Annotation:
    return Annotation(
        scan_id=record().scan_id,
        kind="mask",
        labels={0: "background", 1: "organ"},
        origin=origin,
        file=scans.MASK_FILE,
        content=mask_digest(MASK),
    )


def stamps(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in os.listdir(folder)}


def test_a_scan_comes_back_as_it_was(tmp_path: Path) -> None:
    home = Home(tmp_path)
    scans.write_scan(home, image(), record(), [annotation()], {scans.MASK_FILE: MASK})
    volume = scans.read_image(home.scans, record().scan_id)
    assert np.array_equal(volume.voxels, image().voxels)
    assert np.array_equal(volume.affine, AFFINE)
    assert content_digest(volume) == record().content
    assert np.array_equal(scans.read_mask(home.scans, record().scan_id).voxels[0], MASK)
    assert scans.read_scan(home.scans, record().scan_id) == record()
    assert scans.read_annotations(home.scans, record().scan_id) == (annotation(),)


def test_a_rerun_writes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder = home.scan_folder(record().scan_id)
    scans.write_scan(home, image(), record(), [annotation()], {scans.MASK_FILE: MASK})
    before = stamps(folder)
    scans.write_scan(home, image(), record(), [annotation()], {scans.MASK_FILE: MASK})
    assert stamps(folder) == before


def test_what_is_missing_is_added_and_the_rest_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder = home.scan_folder(record().scan_id)
    scans.write_scan(home, image(), record())
    assert scans.read_annotations(home.scans, record().scan_id) == ()
    before = stamps(folder)
    scans.write_scan(home, image(), record(), [annotation()], {scans.MASK_FILE: MASK})
    assert {name: stamps(folder)[name] for name in before} == before
    assert sorted(stamps(folder)) == ["annotations.json", "image.nii.gz", "mask.nii.gz", "scan.json"]
    (folder / "image.nii.gz").unlink()
    (folder / "scan.json").unlink()
    scans.write_scan(home, image(), record(), [annotation("reader")])
    assert np.array_equal(scans.read_image(home.scans, record().scan_id).voxels, image().voxels)
    assert [a.origin for a in scans.read_annotations(home.scans, record().scan_id)] == ["expert", "reader"]


def test_a_stored_mask_is_never_overwritten_by_another(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder = home.scan_folder(record().scan_id)
    scans.write_scan(home, image(), record(), [annotation()], {scans.MASK_FILE: MASK})
    changed = annotation().model_copy(update={"content": mask_digest(1 - MASK)})
    for _ in range(2):
        scans.write_scan(home, image(), record(), [changed], {scans.MASK_FILE: 1 - MASK})
    assert np.array_equal(scans.read_mask(home.scans, record().scan_id).voxels[0], MASK)
    other = f"mask-{changed.content[:16]}.nii.gz"
    assert np.array_equal(scans.read_mask(home.scans, record().scan_id, other).voxels[0], 1 - MASK)
    stored = scans.read_annotations(home.scans, record().scan_id)
    assert stored == (annotation(), changed.model_copy(update={"file": other}))
    assert sorted(os.listdir(folder)) == sorted(["annotations.json", "image.nii.gz", "mask.nii.gz", other, "scan.json"])


def test_a_mask_left_without_its_annotation_by_a_kill_is_taken_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    scans.write_scan(home, image(), record(), masks={scans.MASK_FILE: MASK})
    scans.write_scan(home, image(), record(), [annotation()], {scans.MASK_FILE: MASK})
    assert scans.read_annotations(home.scans, record().scan_id) == (annotation(),)


def _stage(work: Path, numbers: range) -> list[scans.Staged]:
    return [scans.stage_scan(work / str(n), scans.ScanFiles(image(), record(n))) for n in numbers]


def test_a_group_is_placed_and_leaves_no_temporary_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with scans.work_folder(home) as work:
        scans.place_scans(home, _stage(work, range(70)))
    names = [name for _, folders, _ in os.walk(home.scans) for name in folders if len(name) > 2]
    assert sorted(names) == [f"{n:024x}" for n in range(70)]
    assert [name for name in os.listdir(home.scans) if name.startswith(".")] == []


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with scans.work_folder(home) as living:
        place, pid, _, token = living.name.removeprefix(".work.").removesuffix(".tmp").split("-")
        (home.scans / f".work.{place}-{pid}-1-{token}.tmp" / "0").mkdir(parents=True)
        with scans.work_folder(home) as second:
            assert sorted(os.listdir(home.scans)) == sorted([living.name, second.name])
    assert os.listdir(home.scans) == []


def test_a_mask_or_record_of_another_shape_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(Refusal, match=r"the mask has the shape \(1, 3, 4\), its image \(2, 3, 4\)"):
        scans.write_scan(home, image(), record(), masks={scans.MASK_FILE: MASK[:1]})
    small = Volume(image().voxels[:, :1], AFFINE)
    with pytest.raises(Refusal, match=r"the image has the shape \(1, 3, 4\), its record says \(2, 3, 4\)"):
        scans.write_scan(home, small, record())
    assert not home.scan_folder(record().scan_id).exists()


def test_a_changed_image_is_noticed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    scans.write_scan(home, image(), record())
    folder = home.scan_folder(record().scan_id)
    scans.save_nifti(folder / "image.nii.gz", Volume(image().voxels[:, :1], AFFINE))
    with pytest.raises(Refusal, match="the folder was changed"):
        scans.read_image(home.scans, record().scan_id)


def test_only_a_well_formed_name_becomes_a_path(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(NotFound, match="is not a scan id"):
        scans.read_image(home.scans, "../../etc")
    scans.write_scan(home, image(), record())
    with pytest.raises(Refusal, match="is not a mask's file name"):
        scans.read_mask(home.scans, record().scan_id, "../scan.json")
    with pytest.raises(NotFound, match=r"has no mask\.nii\.gz"):
        scans.read_mask(home.scans, record().scan_id)


def test_damaged_annotations_are_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    scans.write_scan(home, image(), record(), [annotation()])
    (home.scan_folder(record().scan_id) / "annotations.json").write_text("[1]")
    with pytest.raises(MedmlError, match=r"annotations\.json: not a list of annotations"):
        scans.read_annotations(home.scans, record().scan_id)


def test_verifying_names_what_changed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    scans.write_scan(home, image(), record(), [annotation()], {scans.MASK_FILE: MASK})
    folder = home.scan_folder(record().scan_id)
    assert scans.verify_scan(home.scans, record(), [annotation()]) == []
    scans.save_nifti(folder / "image.nii.gz", Volume(image().voxels + 1, AFFINE))
    scans.save_nifti(folder / "mask.nii.gz", Volume(1 - MASK[None], AFFINE))
    other = record().model_copy(update={"group": "g-2"})
    found = scans.verify_scan(home.scans, other, [annotation()])
    assert [line.partition(": ")[2].split()[0] for line in found] == ["scan.json", "image.nii.gz", "mask.nii.gz"]
    (folder / "image.nii.gz").unlink()
    assert "has no image.nii.gz" in scans.verify_scan(home.scans, record(), [])[0]
