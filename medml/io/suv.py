"""From stored PET values to SUVbw, by QIBA's rules (vendor-neutral pseudo-code of the QIBA FDG-PET/CT profile)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from medml.errors import Refusal

GRAMS = 1000.0
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Pet:
    """What a PET image says of its unit and its tracer; absent or unreadable values are None or "".

    Attributes
    ----------
    units : str
        BQML, CNTS or GML.
    suv_type : str
        Of GML: BW for body weight, which is also meant where it is absent; else another norm.
    decay_correction : str
        START (of the scan), ADMIN (of the tracer) or NONE.
    weight, dose, half_life : float or None
        kg, Bq, s.
    injected, series, acquired, ge_scan : str
        Date and time as digits (``YYYYMMDDHHMMSS.f``); ``injected`` may be a time alone. In memory only.
    reference_time, duration : float or None
        FrameReferenceTime and ActualFrameDuration, ms.
    philips_suv, philips_bqml : float or None
        Philips' private factors from stored counts to SUV, and to Bq/mL.
    """

    units: str = ""
    suv_type: str = ""
    decay_correction: str = ""
    weight: float | None = None
    dose: float | None = None
    half_life: float | None = None
    injected: str = ""
    series: str = ""
    acquired: str = ""
    ge_scan: str = ""
    reference_time: float | None = None
    duration: float | None = None
    philips_suv: float | None = None
    philips_bqml: float | None = None


def suvbw_factor(images: Sequence[Pet]) -> float:
    """Return what rescaled values of one PET series are to be multiplied with to give SUVbw in g/mL.

    Raises
    ------
    Refusal
        ``suv_unknown``, if a tag that it takes is absent or cannot be; it names the tag.
    """
    first = images[0]
    if len({(pet.units, pet.decay_correction, pet.weight, pet.dose, pet.half_life) for pet in images}) > 1:
        raise _unknown("Units, DecayCorrection, dose, half-life or weight differ between the images")
    if first.units == "GML":
        if {pet.suv_type for pet in images} - {"", "BW"}:
            raise _unknown("SUVType is not BW but another norm")
        return 1.0
    if first.units == "CNTS":
        if first.philips_suv:
            return _of_all(images, [pet.philips_suv for pet in images])
        if first.philips_bqml:
            return _of_all(images, [pet.philips_bqml for pet in images]) * _per_bqml(images)
        raise _unknown("Units is CNTS and the private factor (7053,1000) is absent")
    if first.units != "BQML":
        raise _unknown("Units is none of BQML, CNTS and GML")
    return _per_bqml(images)


def to_bqml(images: Sequence[Pet]) -> float | None:
    """Return what rescaled values are to be multiplied with to give Bq/mL; None where that is unknown."""
    if {pet.units for pet in images} == {"BQML"}:
        return 1.0
    factors = {pet.philips_bqml for pet in images}
    return factors.pop() if {pet.units for pet in images} == {"CNTS"} and len(factors) == 1 else None


def _of_all(images: Sequence[Pet], factors: list[float | None]) -> float:
    if len(set(factors)) > 1 or factors[0] is None:
        raise _unknown("the private factor (7053,xxxx) differs between the images")
    return factors[0]


def _per_bqml(images: Sequence[Pet]) -> float:
    """Return grams of patient per Bq of tracer at the time that the images are decay-corrected to."""
    first = images[0]
    weight = _within(first.weight, 0.5, 500, "PatientWeight", "kg")
    dose = _within(first.dose, 1e5, 1e12, "RadionuclideTotalDose", "Bq")
    if first.decay_correction == "ADMIN":
        return weight * GRAMS / dose
    if first.decay_correction != "START":
        raise _unknown("DecayCorrection is neither START nor ADMIN")
    half_life = _within(first.half_life, 10, 1e7, "RadionuclideHalfLife", "s")
    decay_time = _decay_time(images, half_life)
    return weight * GRAMS / (dose * 2 ** (-decay_time / half_life))


def _within(value: float | None, low: float, high: float, tag: str, unit: str) -> float:
    if value is None:
        raise _unknown(f"{tag} is absent or damaged")
    if not low <= value <= high:
        raise _unknown(f"{tag} is {value:g}, expected {low:g} to {high:g} {unit}")
    return value


def _decay_time(images: Sequence[Pet], half_life: float) -> float:
    """Return seconds from the injection to the start of the scan."""
    scan = _scan_start(images, half_life)
    text = images[0].injected
    if len(text.partition(".")[0]) <= 6:  # a time alone: of the day of the scan, or of the one before
        injected = _moment(f"{scan:%Y%m%d}{text}") if text else None
        if injected is not None and injected > scan:
            injected -= timedelta(days=1)
    else:
        injected = _moment(text)
    if injected is None:
        raise _unknown("RadiopharmaceuticalStartDateTime and RadiopharmaceuticalStartTime are absent or damaged")
    seconds = (scan - injected).total_seconds()
    if not 0 <= seconds <= min(DAY, 20 * half_life):
        raise _unknown(f"the scan starts {seconds:.0f} s after the injection, expected 0 s to a day")
    return seconds


def _scan_start(images: Sequence[Pet], half_life: float) -> datetime:
    """Return the time that DecayCorrection START means.

    SeriesTime, unless it lies after an acquisition: then the series was made anew later, and GE's private tag, or the
    first frame's times, tell it.
    """
    series = _moment(images[0].series)
    acquired = [moment for moment in (_moment(pet.acquired) for pet in images) if moment is not None]
    if series is None or len(acquired) < len(images):
        raise _unknown("SeriesDate, SeriesTime, AcquisitionDate or AcquisitionTime is absent or damaged")
    if series <= min(acquired):
        return series
    private = _moment(images[0].ge_scan)
    if private is not None and private <= min(acquired):
        return private
    earliest = min(range(len(images)), key=lambda index: acquired[index])
    reference, duration = images[earliest].reference_time, images[earliest].duration
    if reference is None or not duration or duration <= 0:
        raise _unknown("SeriesTime is after AcquisitionTime, and FrameReferenceTime or ActualFrameDuration is absent")
    rate = math.log(2) / half_life
    seconds = duration / 1000
    # The moment at which the decaying activity has its mean over the frame.
    mean = math.log(rate * seconds / -math.expm1(-rate * seconds)) / rate
    return acquired[earliest] + timedelta(seconds=mean - reference / 1000)


def _moment(text: str) -> datetime | None:
    match = re.fullmatch(r"(\d{8})(\d{2})(\d{2})?(\d{2})?(\.\d{1,6})?([+-]\d{4})?", text)
    if match is None:
        return None
    try:
        whole = datetime.strptime(f"{match[1]}{match[2]}{match[3] or '00'}{match[4] or '00'}", "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return whole + timedelta(seconds=float(match[5] or 0))


def _unknown(what: str) -> Refusal:
    return Refusal("suv_unknown", f"{what}; SUV cannot be computed")
