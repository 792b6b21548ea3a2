"""Facts of a DICOM header that may leave the clinical side: an allow-list of tags, each with a strict pattern."""

from __future__ import annotations

import re

from medml.io.confidentiality.values import known_words
from medml.io.dicom_header import Header
from medml.records.scan import Column


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Defined terms of BodyPartExamined (PS3.16 annex L, the common ones) and of ViewPosition (PS3.3 C.8.11.7).
_PARTS = _terms(
    """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BODY BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS
    CALF CAROTID CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CHESTABDOPELV CIRCLEOFWILLIS CLAVICLE COCCYX COLON
    CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT
    FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS ILEUM ILIUM IAC JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER
    LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT
    OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHANTOM PHARYNX PROSTATE RADIUS RECTUM RIB SACRUM SCALP SCAPULA SCLERA
    SCROTUM SHOULDER SKIN SKULL SIJOINT SINUS SPINE SPLEEN SSPINE STERNUM STOMACH TSPINE TLSPINE TESTIS THIGH THUMB
    THORAX THYMUS THYROID TIBIA TMJ TOE TONGUE TRACHEA TRUNK ULNA URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST
    ZYGOMA
    """
)
_VIEWS = _terms(
    """
    AP PA LL RL RLD LLD RLO LLO LPO RPO LAO RAO LATERAL LAT OBLIQUE AXIAL CC MLO ML LM LMO XCCL XCCM FB SIO CV ISO
    TAN RCC LCC RMLO LMLO SUPINE PRONE DECUBITUS TANGENTIAL
    """
)
_KERNEL_WORDS = _terms(
    """
    STANDARD STND SOFT BONE BONEPLUS LUNG DETAIL CHEST EDGE ULTRA SHARP SMOOTH BRAIN BODY HEAD ASIR
    A B C D E F L YA YB YC YD YE UA UB UC
    """
)
_KERNEL_CODE = re.compile(r"[A-Z]{1,2}[A-Z]?\d{1,3}[A-Z]{0,3}")
_LONG_NUMBER = re.compile(r"\d{5}")


def columns_of(header: Header) -> dict[str, Column]:
    """Return the allow-listed facts about patient (sex, age up to 90), scanner and protocol that ``header`` gives."""
    facts: dict[str, Column] = {
        "sex": header.sex if header.sex in ("M", "F", "O") else None,
        "age": header.age,
        "scanner": _scanner(f"{header.manufacturer} {header.model}"),
        "view": _term(header.view, _VIEWS),
        "body_part": _term(header.body_part, _PARTS),
        "laterality": header.laterality if header.laterality in ("L", "R", "B") else None,
        "field_strength": _between(header.field_strength, 0.01, 30),
        "slice_thickness": _between(header.thickness, 0.01, 500),
        "kvp": _between(header.kvp, 1, 1000),
        "kernel": kernel_of(header.kernel),
        "contrast": "yes" if header.contrast else None,
        "purpose": "for processing" if header.intent == "FOR PROCESSING" else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def kernel_of(text: str) -> str | None:
    """Return the code of a reconstruction kernel (``B30F``, ``STANDARD``); None if the text is none."""
    word = text.partition("\\")[0].strip().upper()
    return word if word in _KERNEL_WORDS or _KERNEL_CODE.fullmatch(word) else None


def _scanner(text: str) -> str | None:
    """Return the known words of maker and model; nothing if they look like a name (``^``), an address or a number."""
    if "^" in text or "@" in text or _LONG_NUMBER.search(text):
        return None
    return known_words(" ".join(re.sub(r"[^A-Za-z0-9 ._/+()-]", "", text).split()))[:64].strip() or None


def _term(text: str, allowed: frozenset[str]) -> str | None:
    word = re.sub(r"[ _-]", "", text.upper())
    return word if word in allowed else None


def _between(number: float | None, low: float, high: float) -> float | None:
    return number if number is not None and low <= number <= high else None
