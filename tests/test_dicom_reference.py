"""Every series of the reference data against the NIfTI files that others made of it, voxel by voxel in world space.

``docs/ingest_reference.md`` explains what is compared and what differs.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medml.catalogue.config import IngestConfig
from medml.catalogue.policies import Policies
from medml.catalogue.walk import find_scans
from medml.records.candidate import Candidate, Reading
from medml.records.scan import Volume

STACKED = IngestConfig(pictures="ignore", policies=Policies(time_points="stack"))
SETS = ("dcm_qa_nih", "dcm_qa_ts")


@pytest.fixture(scope="module")
def reference(real_data: Path) -> Path:
    folder = real_data / "dicom_reference"
    if not folder.is_dir():
        pytest.skip(f"the reference data is not at {folder}")
    return folder


def candidates_of(folder: Path, config: IngestConfig) -> tuple[list[Candidate], list[str]]:
    """Return the scans to be, and the reasons for every DICOM file that is none."""
    found = list(find_scans(folder, config))
    refused = [
        f"{item.code}: {item.reason}" for item in found if not isinstance(item, Candidate) and item.outcome == "refused"
    ]
    return [item for item in found if isinstance(item, Candidate)], refused


def reference_volume(path: Path) -> Volume:
    """Return a reference with its axes permuted and flipped to RAS+, by nibabel and not by us."""
    image = nib.as_closest_canonical(nib.load(path))
    voxels = np.asanyarray(image.dataobj)
    return Volume(np.moveaxis(voxels[..., None] if voxels.ndim == 3 else voxels, 3, 0), image.affine)


def same(ours: Volume, theirs: Volume) -> bool:
    """Say whether two volumes hold the same value at every place: a hundredth of a voxel, and the exact value."""
    if ours.voxels.shape != theirs.voxels.shape:
        return False
    apart = np.abs(ours.affine - theirs.affine).max(axis=0)
    steps = np.array([*np.array(ours.voxels.shape[1:]), 1.0])
    smallest = np.linalg.norm(ours.affine[:3, :3], axis=0).min()
    return bool(apart @ steps <= 0.01 * smallest and np.array_equal(ours.voxels, theirs.voxels))


@pytest.mark.parametrize("name", SETS)
def test_every_series_agrees_with_its_reference_in_world_space(reference: Path, name: str) -> None:
    candidates, refused = candidates_of(reference / name / "In", STACKED)
    assert refused == []
    readings: list[Reading] = [candidate.read() for candidate in candidates]
    unmatched = dict(zip((candidate.source for candidate in candidates), readings, strict=True))
    assert len(unmatched) == len(readings)
    missing = []
    for path in sorted((reference / name / "Ref").glob("*.nii")):
        theirs = reference_volume(path)
        source = next((source for source, reading in unmatched.items() if same(reading.volume, theirs)), None)
        if source is None:
            missing.append(path.name)
        else:
            del unmatched[source]
    assert (missing, list(unmatched)) == ([], [])


def test_time_points_may_be_scans_of_their_own(reference: Path) -> None:
    folder = reference / "dcm_qa_nih" / "In" / "20180918GE"
    stacked, _ = candidates_of(folder, STACKED)
    split, _ = candidates_of(folder, IngestConfig(pictures="ignore"))
    assert [len(candidate.channel_names) for candidate in stacked] == [10] * 4
    assert len(split) == 40
    assert len({candidate.identity for candidate in split}) == 40
    volume = stacked[0].read().volume
    series = [item for item in split if item.locator["series_uid"] == stacked[0].locator["series_uid"]]
    for name, voxels in zip(stacked[0].channel_names, volume.voxels, strict=True):
        part = next(item for item in series if item.channel_names == (name,))
        assert np.array_equal(part.read().volume.voxels[0], voxels)


def test_every_file_is_counted_once(reference: Path) -> None:
    folder = reference / "dcm_qa_nih" / "In"
    on_disk = sum(path.is_file() for path in folder.rglob("*"))
    for config in (STACKED, IngestConfig()):
        assert sum(item.files for item in find_scans(folder, config)) == on_disk
