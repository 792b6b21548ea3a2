"""What kind of object a SOP class is: which hold pictures of a patient, and which of those are no volumes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medml.io.dicom_header import Header
from medml.records.scan import Finding

STORAGE = "1.2.840.10008.5.1.4.1.1."
# Storage classes that hold no picture of a patient, or one that is an annotation: their UIDs begin so.
_OTHER_OBJECTS = {
    STORAGE + "66": "segmentation, registration or raw data",
    STORAGE + "67": "real world value mapping",
    STORAGE + "68": "surface scan or content assessment",
    STORAGE + "88": "structured report",
    STORAGE + "11": "presentation state",
    STORAGE + "9": "waveform",
    STORAGE + "104": "encapsulated document",
    STORAGE + "30": "parametric map",
    STORAGE + "4.2": "spectroscopy",
    STORAGE + "77.1.6": "whole slide microscopy",
    STORAGE + "77.1.1.1": "video",
    STORAGE + "77.1.2.1": "video",
    STORAGE + "77.1.4.1": "video",
    STORAGE + "77.1.5.3": "stereometric relationship",
    STORAGE + "481.2": "radiotherapy dose",
    STORAGE + "481.3": "radiotherapy structure set",
    STORAGE + "481.4": "radiotherapy record",
    STORAGE + "481.5": "radiotherapy plan",
    STORAGE + "481.6": "radiotherapy record",
    STORAGE + "481.7": "radiotherapy record",
    STORAGE + "481.8": "radiotherapy plan",
    STORAGE + "481.9": "radiotherapy record",
    STORAGE + "78": "lens or refraction measurement",
    STORAGE + "79": "measurement report",
    "1.2.840.10008.1.3.10": "directory of media (DICOMDIR)",
}
# Waveforms that are signals over time in known channels; voice notes (9.4) are not.
_WAVEFORMS = tuple(STORAGE + f"9.{kind}" for kind in ("1", "2", "3", "5", "6", "7", "8"))
# Multi-frame classes whose frames are described by functional groups (PS3.3 C.7.6.16).
_FUNCTIONAL_GROUPS = frozenset(
    STORAGE + end
    for end in (
        *("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130", "6.2", "12.1.1", "12.2.1"),
        *("13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5", "77.1.5.4"),
    )
)
# Defined terms of Modality (PS3.3 C.7.3.1.1.1), retired ones that old files have included.
_MODALITIES = frozenset(
    re.findall(
        r"\w+",
        """
        ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT
        IVUS KER KO LEN LS MG MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG
        RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA
        XA XAPROTOCOL XC DD DF DS EC FA FS CD CF CP CS DM LP MA MS OPR ST VF AS TMS
        """,
    )
)
NUCLEAR = STORAGE + "20"
# Classes of which every object is an image, whatever a damaged header lacks.
_IMAGES = _FUNCTIONAL_GROUPS | frozenset(
    STORAGE + end
    for end in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "2", "3.1", "4", "6.1", "7", "12.1", "12.2", "20", "128", "77.1.4")
)


def object_name(header: Header) -> str:
    """Return what kind of object a header is of, empty for an image."""
    parts = header.sop_class.split(".")
    for length in range(len(parts), 6, -1):
        name = _OTHER_OBJECTS.get(".".join(parts[:length]))
        if name:
            return name
    return ""


def is_image(header: Header) -> bool:
    """Say whether a header is that of a picture of a patient, not of a report, plan, segmentation or the like."""
    return not object_name(header) and header.rows > 0 and header.columns > 0


def lacks_matrix(header: Header) -> bool:
    """Say whether an object that has pixels, or whose class has, lacks rows or columns: a damaged image."""
    return not object_name(header) and not is_image(header) and bool(header.pixel_offset or header.sop_class in _IMAGES)


def modality_of(header: Header) -> str:
    """Return the modality by its defined term; OT for any other text, which might be a name."""
    word = header.modality.upper()
    return word if word in _MODALITIES else "OT"


def is_reversed(header: Header) -> bool:
    """Say whether low is bright: MONOCHROME1, but for values with a unit, which no display changes (C.7.6.3.1.2)."""
    return header.photometric == "MONOCHROME1" and header.modality not in ("CT", "PT")


def is_waveform(header: Header) -> bool:
    """Say whether a header is that of an ECG or another signal over time, which `medml.io.waveform` reads."""
    return header.sop_class.startswith(_WAVEFORMS)


def has_functional_groups(header: Header) -> bool:
    """Say whether the class of an image describes its frames by functional groups."""
    return header.sop_class in _FUNCTIONAL_GROUPS


def flat_spacing(header: Header) -> tuple[tuple[float, ...] | None, tuple[Finding, ...]]:
    """Return the size of the pixels of a flat image in the patient, in mm, and findings on it.

    PixelSpacing is what the makers calibrate it to. ImagerPixelSpacing is measured at the detector, where the shadow
    of the patient is larger by the magnification (PS3.3 10.7.1.3): without the latter, nothing is known in mm.
    """
    if header.pixel_spacing is not None and min(header.pixel_spacing) > 0:
        if header.pixel_spacing == header.imager_spacing and header.modality in ("CR", "DX", "MG", "XA", "RF"):
            return None, (_spacing_finding("PixelSpacing repeats ImagerPixelSpacing, the detector's, uncalibrated"),)
        return header.pixel_spacing, ()
    if header.imager_spacing is None or min(header.imager_spacing) <= 0:
        return None, (_spacing_finding("no PixelSpacing"),)
    if not header.magnification or not 1 <= header.magnification <= 10:
        return None, (_spacing_finding("ImagerPixelSpacing alone, which is the detector's and not the patient's"),)
    spacing = tuple(value / header.magnification for value in header.imager_spacing)
    return spacing, (
        Finding(
            code="estimated_spacing",
            severity="info",
            message="the spacing is that of the detector divided by the estimated magnification",
            numbers={"magnification": header.magnification},
        ),
    )


def kind_findings(headers: Sequence[Header]) -> tuple[Finding, ...]:
    """Return what the kind of some images makes one wary of: raw detector values, lossy compression."""
    findings = []
    raw = sum(header.intent == "FOR PROCESSING" for header in headers)
    if raw:
        findings.append(
            Finding(
                code="for_processing",
                severity="warning",
                message=f"{raw} of {len(headers)} images are raw detector values (FOR PROCESSING)",
                numbers={"images": float(raw)},
                advice="train on them apart from images FOR PRESENTATION, which look different",
            )
        )
    lossy = sum(header.lossy for header in headers)
    if lossy:
        findings.append(
            Finding(
                code="lossy_compression",
                severity="info",
                message=f"{lossy} of {len(headers)} images were compressed with loss before they came here",
                numbers={"images": float(lossy)},
            )
        )
    return tuple(findings)


def _spacing_finding(what: str) -> Finding:
    return Finding(code="no_spacing", severity="info", message=f"{what}: nothing is given in mm")
