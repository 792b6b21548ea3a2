"""SUVbw by hand: 70 kg and 350 MBq give 70000 / 350e6 = 2e-4 g/Bq, doubled for each half-life before the scan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medml.errors import Refusal
from medml.io.suv import Pet, suvbw_factor, to_bqml

PET = Pet(
    units="BQML",
    decay_correction="START",
    weight=70.0,
    dose=350e6,
    half_life=6000.0,
    injected="20240131100000",
    series="20240131114000.00",
    acquired="20240131114100",
    reference_time=0.0,
    duration=180000.0,
)


def factor(**changes: Any) -> float:
    return suvbw_factor([replace(PET, **changes)])


def test_the_dose_decays_from_injection_to_scan() -> None:
    assert factor() == pytest.approx(4e-4)


def test_values_corrected_to_the_injection_need_no_decay() -> None:
    assert factor(decay_correction="ADMIN", half_life=None, injected="") == pytest.approx(2e-4)


def test_a_time_alone_is_of_the_day_of_the_scan_or_the_day_before() -> None:
    assert factor(injected="100000.000") == pytest.approx(4e-4)
    # Injected at 23:30, scanned at 01:10: 6000 s.
    night = {"injected": "233000", "series": "20240201011000", "acquired": "20240201011100"}
    assert factor(**night) == pytest.approx(4e-4)


def test_a_series_time_after_the_acquisition_is_not_the_scans() -> None:
    late = {"series": "20240131180000"}
    assert factor(**late, ge_scan="20240131114000") == pytest.approx(4e-4)
    # A frame of 180 s has its mean activity, with x = 180 ln 2 / 6000 = 0.020794, after 180 (1/2 - x/24) = 89.84 s; the
    # one of 11:38:30.16 has it 0 s after the scan's start, which was thus at 11:40:00.
    found = suvbw_factor([replace(PET, **late, acquired="20240131113830.16"), replace(PET, **late)])
    assert found == pytest.approx(4e-4, rel=1e-5)


def test_a_frame_reference_later_in_the_scan_leads_back_to_its_start() -> None:
    found = factor(series="20240131180000", acquired="20240131115830.16", reference_time=1200e3)
    assert found == pytest.approx(4e-4, rel=1e-5)


def test_values_in_g_per_ml_are_suv_already() -> None:
    assert factor(units="GML", weight=None) == 1.0
    assert factor(units="GML", suv_type="BW") == 1.0


def test_counts_take_the_makers_factors() -> None:
    assert factor(units="CNTS", philips_suv=0.25) == 0.25
    assert factor(units="CNTS", philips_bqml=10.0) == pytest.approx(4e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"units": ""}, "Units is none of BQML, CNTS and GML"),
        ({"units": "GML", "suv_type": "LBM"}, "SUVType is not BW but another norm"),
        ({"units": "CNTS"}, r"the private factor \(7053,1000\) is absent"),
        ({"weight": None}, "PatientWeight is absent or damaged"),
        ({"weight": 0.0}, "PatientWeight is 0, expected 0.5 to 500 kg"),
        ({"dose": None}, "RadionuclideTotalDose is absent"),
        ({"dose": 350.0}, "RadionuclideTotalDose is 350, expected 100000 to 1e[+]12 Bq"),
        ({"half_life": None}, "RadionuclideHalfLife is absent"),
        ({"decay_correction": "NONE"}, "DecayCorrection is neither START nor ADMIN"),
        ({"injected": ""}, "RadiopharmaceuticalStartDateTime and RadiopharmaceuticalStartTime are absent"),
        ({"injected": "20240131256000"}, "are absent or damaged"),
        ({"injected": "20240131120000"}, "the scan starts -1200 s after the injection"),
        ({"injected": "20240129100000"}, "the scan starts 178800 s after the injection"),
        ({"series": ""}, "SeriesDate, SeriesTime, AcquisitionDate or AcquisitionTime is absent"),
        ({"series": "20240131180000", "duration": None}, "FrameReferenceTime or ActualFrameDuration is absent"),
    ],
)
def test_a_tag_that_lacks_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words) as refusal:
        factor(**changes)
    assert refusal.value.code == "suv_unknown"


def test_images_of_one_series_must_agree() -> None:
    with pytest.raises(Refusal, match="dose, half-life or weight differ"):
        suvbw_factor([PET, replace(PET, weight=71.0)])
    counts = replace(PET, units="CNTS", philips_suv=0.25)
    with pytest.raises(Refusal, match="differs between the images"):
        suvbw_factor([counts, replace(counts, philips_suv=0.5)])


def test_counts_become_bq_per_ml_where_the_factor_is_told() -> None:
    assert to_bqml([PET, PET]) == 1.0
    assert to_bqml([replace(PET, units="CNTS", philips_bqml=3.0)]) == 3.0
    assert to_bqml([replace(PET, units="CNTS")]) is None
    assert to_bqml([replace(PET, units="GML")]) is None
