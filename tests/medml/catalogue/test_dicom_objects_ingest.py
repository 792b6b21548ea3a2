"""Multi-frame files, mosaics, PET and waveforms on their way into the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_objects import cine_dataset, ecg_dataset, enhanced_dataset, mosaic_dataset, pet_dataset
from dicom_phantoms import ROOT, save_slice, slice_dataset

from medml.catalogue.config import IngestConfig
from medml.catalogue.policies import Policies
from medml.catalogue.walk import find_scans
from medml.datasets.freeze import freeze
from medml.errors import NotFound
from medml.io.scans import read_image
from medml.records.experiment import DatasetChoice


def one_scan(desk, source, **config):
    desk.ingest(source.root, config=IngestConfig(collection="c", **config))
    (scan,) = desk.catalogue.scans()
    return scan, read_image(desk.home.scans, scan.scan_id)


def test_an_enhanced_file_becomes_one_volume(source, desk) -> None:
    save_slice(source.root / "e.dcm", enhanced_dataset())
    scan, image = one_scan(desk, source)
    assert (scan.shape, scan.modality, scan.spacing_mm) == ((2, 3, 4), "MR", (0.75, 0.5, 5.0))
    assert image.voxels.max() == 2 * 1321 - 7


def test_a_mosaic_becomes_one_volume(source, desk) -> None:
    save_slice(source.root / "m.dcm", mosaic_dataset())
    scan, image = one_scan(desk, source)
    assert (scan.shape, scan.spacing_mm) == ((2, 3, 3), (0.75, 0.5, 4.0))
    # The second tile lies 4 mm below the first: LPS z 26; its first row and column at LPS (-9.25, -19.25).
    place = np.argwhere(image.voxels[0] == 1100)[0]
    assert np.allclose(image.affine @ [*place, 1], [9.25, 19.25, 26.0, 1])


def write_pet(source, **tags) -> None:
    for index in range(4):
        save_slice(source.root / f"{index}.dcm", pet_dataset(index, **tags))


def test_pet_is_stored_as_suv_with_its_factor(source, desk) -> None:
    write_pet(source)
    scan, image = one_scan(desk, source)
    # 70 kg / 350 MBq, doubled by one half-life; RescaleSlope 2.
    assert scan.columns["suvbw_factor"] == pytest.approx(4e-4)
    assert scan.columns["unit"] == "g/mL"
    assert image.voxels.max() == pytest.approx(1321 * 2 * 4e-4, rel=1e-6)
    assert {finding.code: finding.severity for finding in scan.findings}["suvbw"] == "info"


def test_pet_stays_in_bq_per_ml_where_asked(source, desk) -> None:
    write_pet(source)
    scan, image = one_scan(desk, source, pet="bqml")
    assert (scan.columns["unit"], image.voxels.max()) == ("Bq/mL", 2642)
    assert "pet_bqml" in {finding.code for finding in scan.findings}


def test_pet_without_a_weight_stays_in_bq_per_ml_and_says_why(source, desk) -> None:
    write_pet(source, PatientWeight=None)
    scan, image = one_scan(desk, source)
    assert (scan.columns["unit"], image.voxels.max()) == ("Bq/mL", 2642)
    (finding,) = [finding for finding in scan.findings if finding.code == "suv_unknown"]
    assert finding.severity == "warning"
    assert "PatientWeight is absent" in finding.message


def test_pet_in_an_unknown_unit_says_so(source, desk) -> None:
    write_pet(source, Units="PROPCNTS")
    scan, _ = one_scan(desk, source)
    assert "unit" not in scan.columns
    assert "pet_unit_unknown" in {finding.code for finding in scan.findings}


def test_an_ecg_is_a_scan_that_is_no_image(source, desk) -> None:
    save_slice(source.root / "ecg.dcm", ecg_dataset(("I", "II", "III"), 40))
    scan, image = one_scan(desk, source)
    assert (scan.modality, scan.geometry, scan.shape) == ("ECG", "none", (40, 3, 1))
    assert (scan.columns["sampling_hz"], scan.columns["leads"]) == (500.0, "I II III")
    assert image.voxels[0, 39, 2, 0] == pytest.approx((2.5 * 239 + 10) / 1000)
    with pytest.raises(NotFound, match="no scan matches"):
        freeze(DatasetChoice(name="d"), "segment", desk.catalogue, desk.home)
    (outcome,) = find_scans(source.root)
    assert (outcome.outcome, outcome.reason) == ("ignored", "a waveform, no image")


def test_a_waveform_without_a_uid_is_refused(source) -> None:
    data = ecg_dataset()
    del data.SeriesInstanceUID
    save_slice(source.root / "ecg.dcm", data)
    (outcome,) = find_scans(source.root)
    assert (outcome.outcome, outcome.code) == ("refused", "missing_uid")
    assert "a waveform without study, series or SOP instance UID" in outcome.reason


def test_a_film_is_refused_by_name_or_taken_frame_by_frame(source, desk) -> None:
    save_slice(source.root / "film.dcm", cine_dataset())
    (outcome,) = find_scans(source.root)
    assert (outcome.outcome, outcome.code, outcome.files) == ("refused", "multiframe_cine", 1)
    report = desk.ingest(source.root, config=IngestConfig(policies=Policies(cine="frames")))
    scans = desk.catalogue.scans()
    assert sorted(scan.shape for scan in scans) == [(2, 3, 1)] * 3
    assert len({scan.scan_id for scan in scans}) == 3
    assert sum(item.files for item in report.outcomes) == 1


def test_whole_slides_are_ignored_by_name(source) -> None:
    data = slice_dataset(0)
    data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.77.1.6", "SM"
    save_slice(source.root / "slide.dcm", data)
    (outcome,) = find_scans(source.root)
    assert (outcome.outcome, outcome.code) == ("ignored", "not_an_image")
    assert "whole slide microscopy" in outcome.reason


def test_a_radiograph_has_the_spacing_of_the_patient_and_not_of_the_detector(source, desk) -> None:
    for number, tags in enumerate(({}, {"EstimatedRadiographicMagnificationFactor": "1.25"})):
        data = slice_dataset(0)
        del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.1.1", "DX"
        data.SOPInstanceUID, data.ImagerPixelSpacing = f"{ROOT}.7.{number}", [0.2, 0.4]
        for name, value in tags.items():
            setattr(data, name, value)
        save_slice(source.root / f"{number}.dcm", data)
    desk.ingest(source.root)
    bare, magnified = sorted(desk.catalogue.scans(), key=lambda scan: scan.geometry == "mm")
    assert (bare.geometry, bare.spacing_mm) == ("none", None)
    assert magnified.spacing_mm[:2] == pytest.approx((0.32, 0.16))
