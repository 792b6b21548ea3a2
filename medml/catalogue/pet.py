"""The unit that PET is stored in: SUVbw where the tags allow it, else Bq/mL or what the file has, said in a finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from medml.catalogue.parts import ProvedSeries
from medml.errors import Refusal
from medml.io.dicom import Header
from medml.io.suv import suvbw_factor, to_bqml
from medml.records.scan import Finding

PetUnit = Literal["suv", "bqml"]


def in_unit(series: ProvedSeries, unit: PetUnit) -> ProvedSeries:
    """Return a proved series whose rescale gives SUVbw, or Bq/mL; one that is no PET as it is.

    The factor goes into slope and intercept of every slice, so that whatever reads the series applies it, and stands in
    a finding. Where a tag lacks, the values stay in Bq/mL, or in the file's own unit, and a warning names the tag.
    """
    images = [header.pet for header in series.headers if header.pet is not None]
    if not images or len(images) != len(series.headers):
        return series
    reason = ""
    if unit == "suv":
        try:
            return _scaled(series, suvbw_factor(images), "g/mL", "")
        except Refusal as refusal:
            reason = str(refusal)
    factor = to_bqml(images)
    if factor is None:
        return _scaled(series, 1.0, "", reason or "Units is not BQML; Bq/mL cannot be computed")
    return _scaled(series, factor, "Bq/mL", reason)


def pet_facts(series: ProvedSeries) -> Mapping[str, object]:
    """Return the columns that tell the unit of a PET series, and what it was multiplied with."""
    for finding in series.findings:
        if finding.code in _UNITS:
            return {"unit": _UNITS[finding.code], "suvbw_factor": finding.numbers.get("suvbw_factor")}
    return {}


_UNITS = {"suvbw": "g/mL", "pet_bqml": "Bq/mL", "suv_unknown": "Bq/mL", "pet_unit_unknown": ""}


def _scaled(series: ProvedSeries, factor: float, unit: str, reason: str) -> ProvedSeries:
    headers = tuple(_times(header, factor) for header in series.headers) if factor != 1 else series.headers
    return replace(series, headers=headers, findings=(*series.findings, _finding(factor, unit, reason)))


def _times(header: Header, factor: float) -> Header:
    slope = 1.0 if header.slope is None else header.slope
    return replace(header, slope=slope * factor, intercept=(header.intercept or 0.0) * factor)


def _finding(factor: float, unit: str, reason: str) -> Finding:
    if unit == "g/mL":
        numbers = {"suvbw_factor": factor}
        return Finding(code="suvbw", severity="info", message="the values are SUVbw in g/mL", numbers=numbers)
    if not reason:
        return Finding(code="pet_bqml", severity="info", message="the values are Bq/mL, as the configuration asks")
    code = "suv_unknown" if unit else "pet_unit_unknown"
    where = f"the values stay in {unit or 'the unit of the file'}"
    return Finding(code=code, severity="warning", message=f"{reason}: {where}", advice="do not mix them with SUV")
