"""Secondary Captures: the source's own slices, the result drawn in, nobody named."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from corpus.dicom import Stack
from corpus.phantom import AXIAL, Grid, even, make_grid, organ_mask
from corpus.source import Source

from medml.catalogue.walk import find_scans
from medml.geometry import to_source
from medml.io.burned_text import burn_text
from medml.io.files import content_digest
from medml.records.batch import Job, Prediction
from medml.records.candidate import Candidate
from medml.records.labels import Author
from medml.records.plan import Plan
from medml.results.captures import shown_places
from medml.results.dicom_objects import DicomResults, write_dicom

PlanMaker = Callable[..., Plan]
LABELS = {0: "background", 1: "liver", 2: "lesion"}


def name_uid(text: str) -> str:
    return f"2.25.{sum(ord(letter) * 257**n for n, letter in enumerate(text)) % 10**30}"


def captures_of(
    folder: Path, make_plan: PlanMaker, grid: Grid = AXIAL, *, empty: bool = False, most: int = 24
) -> tuple[Job, np.ndarray, list[pydicom.Dataset]]:
    """Return the job, the mask on the source's slices and the captures of a CT phantom."""
    Stack(Source(folder / "src", "ct"), grid, change=even).write("ct")
    found = next(item for item in find_scans(folder / "src") if isinstance(item, Candidate))
    reading = found.read()
    job = Job("ab12", "ct", reading, content_digest(reading.volume), found.locator)
    mask = organ_mask(reading.volume.affine, reading.volume.voxels.shape[1:]) * (not empty)
    results = DicomResults(Author(name="demo", version="3", digest="ab" * 32), name_uid, captures=most)
    plan = make_plan(modality="CT", labels=LABELS)
    paths, reason = write_dicom(folder, job, Prediction(mask=mask.astype(np.uint8)), plan, results)
    assert reason == ""
    captures = [pydicom.dcmread(path) for path in paths if ".sc-" in path.name]
    return job, to_source(mask, reading.grid), captures


@pytest.mark.parametrize("shear", [(0.0, 0.0), (0.0, 1.2)], ids=["axial", "tilted gantry"])
def test_each_picture_lies_on_the_source_slice_it_shows(
    tmp_path: Path, make_plan: PlanMaker, shear: tuple[float, float]
) -> None:
    job, mask, captures = captures_of(tmp_path, make_plan, make_grid(shear=shear))
    shown = np.flatnonzero(mask.any(axis=(0, 1)))
    assert len(captures) == len(shown)
    assert len({data.SeriesInstanceUID for data in captures}) == 1
    sources = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, job.locator["files"])}
    for data, place in zip(captures, shown, strict=True):
        source = sources[data.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert source.SOPInstanceUID == job.locator["sop_uids"][place]
        assert data.InstanceNumber == 1 + list(shown).index(place)
        for keyword in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
            assert data[keyword].value == source[keyword].value
        assert data.SeriesInstanceUID != source.SeriesInstanceUID
        zoom = data.Rows / source.Rows
        assert (zoom, data.Columns / source.Columns) == (22, 22)  # 24 x 20 pixels become 528 x 440
        np.testing.assert_allclose(np.array(data.PixelSpacing) * zoom, source.PixelSpacing)
        # The outer corner of the first pixel is one and the same place in the patient.
        assert np.allclose(corner(data), corner(source), atol=1e-3)


def corner(data: pydicom.Dataset) -> np.ndarray:
    row, column = np.split(np.array(data.ImageOrientationPatient, float), 2)
    down, across = (float(value) for value in data.PixelSpacing)
    start: np.ndarray = np.array(data.ImagePositionPatient, float) - row * across / 2 - column * down / 2
    return start


def test_the_mask_is_drawn_where_it_lies(tmp_path: Path, make_plan: PlanMaker) -> None:
    _, mask, captures = captures_of(tmp_path, make_plan)
    place = int(np.flatnonzero(mask.any(axis=(0, 1)))[2])
    pixels = captures[2].pixel_array.astype(int)
    coloured = np.ptp(pixels, axis=2) > 40
    coloured[:100] = coloured[-30:] = False  # there are words
    labels = mask[:, :, place].T.repeat(22, axis=0).repeat(22, axis=1) > 0
    labels[:100] = labels[-30:] = False
    assert (coloured & ~labels).sum() < 0.03 * labels.sum()  # JPEG bleeds a little
    assert (coloured & labels).sum() > 0.1 * labels.sum()  # at least its outline


def test_a_rerun_keeps_the_uids_and_fewer_pictures_show_the_fullest_slice(tmp_path: Path, make_plan: PlanMaker) -> None:
    _, mask, first = captures_of(tmp_path / "a", make_plan)
    areas = (mask > 0).sum(axis=(0, 1))
    assert shown_places(mask, mask.shape[2], most=3) == sorted({*shown_places(mask, mask.shape[2], most=3)})
    assert int(areas.argmax()) in shown_places(mask, mask.shape[2], most=3)
    assert len(shown_places(mask, mask.shape[2], most=3)) <= 3
    assert shown_places(np.zeros((2, 2, 9)), 9, most=3) == [4]
    assert len({data.SOPInstanceUID for data in first}) == len(first)


def test_an_empty_result_is_shown_too_and_the_pixels_name_nobody(tmp_path: Path, make_plan: PlanMaker) -> None:
    _, _, captures = captures_of(tmp_path, make_plan, empty=True)
    (data,) = captures
    assert (data.BurnedInAnnotation, data.Modality, data.ConversionType) == ("NO", "OT", "WSD")
    assert data.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert (data.LossyImageCompression, data.PhotometricInterpretation) == ("01", "YBR_FULL_422")
    assert data.pixel_array[:60].max() > 200  # words at the top


def test_words_fit_the_picture() -> None:
    pixels = burn_text(np.zeros((120, 120, 3), np.uint8), [("x" * 60, (0, 255, 0))], foot="y" * 60)
    assert pixels[:, -4:].max() == 0
    assert pixels[:40, :, 1].max() > 150
    assert pixels[:40, :, 0].max() == 0
    assert pixels[90:].max() > 150


@pytest.mark.system
def test_dicom3tools_find_no_error_in_pictures(tmp_path: Path, make_plan: PlanMaker) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed; make system installs it")
    captures_of(tmp_path, make_plan, make_grid((0.96, 0.28, 0), (-0.168, 0.576, -0.8)), most=2)
    for path in sorted((tmp_path / "dicom").glob("*.sc-*.dcm")):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
