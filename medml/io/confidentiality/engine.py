"""The engine: raw elements of one data set in, the elements that may leave out, and what was done to each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from medml.errors import Refusal
from medml.io.confidentiality.content import content_action, dummy_content
from medml.io.confidentiality.elements import Encoding, bytes_of, encode_item, encode_tree, encoded, items_of, text_of
from medml.io.confidentiality.options import BASIC_CODE, OPTION_CODES, DeidentifyConfig
from medml.io.confidentiality.plan import OPAQUE, Level, Plan, Step, make_plan
from medml.io.confidentiality.tables import SAFE_PRIVATE
from medml.io.confidentiality.values import (
    TEXTS,
    Cleaner,
    capped_age,
    dummy,
    has_form,
    identity_words,
    is_code,
    moved_dates,
    padded,
)
from medml.io.files import Pseudonyms

MAX_DEPTH = 24
MAX_REMEMBERED = 200_000

_PATIENT_ID, _ISSUER, _AGE, _TIMEZONE = 0x00100020, 0x00100021, 0x00101010, 0x00080201
_CODE_VALUE, _CODE_SCHEME, _CONTENT = 0x00080100, 0x00080102, 0x0040A730
_STUDY_UID = 0x0020000D
# Whose words mark a text as naming the patient: ids, names, address, telephone.
IDENTIFYING = (
    0x00080050, 0x00080090, 0x00081048, 0x00081050, 0x00081060, 0x00081070, 0x00100010, 0x00100020, 0x00100021,
    0x00100030, 0x00101000, 0x00101001, 0x00101005, 0x00101040, 0x00101060, 0x00101090, 0x00102154, 0x00321032,
    0x00400006, 0x00401010,
)  # fmt: skip
# Codes that steer how pixels and texts are read: no echo of a name is looked for in them.
_STEERING = frozenset({0x00080005, 0x00080060, 0x00280004})
# VRs of text in which a backslash parts values.
_SEVERAL = frozenset({"AE", "LO", "PN", "SH", "UC"})

Elements = dict[int, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Patient:
    """Whose file it is: what dates move by, and the words that must not be found again."""

    pseudonym: str
    days: int
    words: frozenset[bytes]


class Engine:
    """De-identifies data sets under one key and one choice of options.

    Parameters
    ----------
    config : DeidentifyConfig
    pseudonyms : Pseudonyms
    """

    def __init__(self, config: DeidentifyConfig, pseudonyms: Pseudonyms) -> None:
        self.config = config
        self.pseudonyms = pseudonyms
        self.cleaner = Cleaner(pseudonyms, config.allowed_words)
        self.plan: Callable[[str], Plan] = lru_cache(maxsize=256)(lambda sop: make_plan(sop, config.options))
        self._patients: dict[tuple[bytes, ...], Patient] = {}
        self._texts: dict[tuple[frozenset[bytes], str, bytes], bytes] = {}

    def rewrite(self, elements: Mapping[int, Any], plan: Plan, encoding: Encoding) -> tuple[Elements, list[str]]:
        """Return the elements that leave, encoded and by tag, and what was done (``"Keyword.Keyword A"``).

        Parameters
        ----------
        elements : mapping
            pydicom's raw elements of the data set, by tag, PixelData left out.

        Raises
        ------
        Refusal
            If sequences are damaged or nested too deeply.
        """
        task = _Task(self, self.patient(elements), encoding)
        written = task.items(list(elements.values()), plan.top, 0)
        for tag, value in self._method(encoding).items():
            written[tag] = value
        return written, task.done

    def patient(self, elements: Mapping[int, Any]) -> Patient:
        """Return whose data set it is; without a PatientID, a study is a patient of its own, as in ingest."""
        values = tuple(bytes_of(elements.get(tag)) for tag in IDENTIFYING)
        key = (*values, bytes_of(elements.get(_STUDY_UID)) if not text_of(elements.get(_PATIENT_ID)) else b"")
        known = self._patients.get(key)
        if known is None:
            issuer, name = text_of(elements.get(_ISSUER)), text_of(elements.get(_PATIENT_ID))
            if not name:
                issuer, name = "study", text_of(elements.get(_STUDY_UID))
            known = Patient(
                pseudonym=self.pseudonyms.patient(issuer, name),
                days=self.pseudonyms.days(issuer, name),
                words=identity_words(values),
            )
            if len(self._patients) < MAX_REMEMBERED:
                self._patients[key] = known
        return known

    def cleaned(self, vr: str, value: bytes, words: frozenset[bytes]) -> bytes:
        """Return a text or code string as far as its words may stay."""
        key = (words, vr, value)
        known = self._texts.get(key)
        if known is None:
            clean = self.cleaner.codes if vr == "CS" else self.cleaner.texts if vr in _SEVERAL else self.cleaner.text
            known = clean(value, words)
            if len(self._texts) < MAX_REMEMBERED:
                self._texts[key] = known
        return known

    def _method(self, encoding: Encoding) -> Elements:
        """Return the attributes that say how the file was de-identified (PS3.15 E.1.1, PS3.3 C.12.1.1.1)."""
        codes = [BASIC_CODE, *(OPTION_CODES[name] for name in self.config.options)]
        items = [
            {
                0x00080100: ("SH", code.encode()),
                0x00080102: ("SH", b"DCM"),
                0x00080104: ("LO", meaning.encode()),
            }
            for code, meaning in codes
        ]
        sequence = b"".join(encode_item(encode_tree(item, encoding), encoding) for item in items)
        values = {
            0x00120062: ("CS", b"YES"),
            0x00120063: ("LO", b"medml: PS3.15 2026c table E.1-1"),
            0x00120064: ("SQ", sequence),
            0x00280303: ("CS", self.config.dates.encode()),
        }
        return {tag: encoded(tag, vr, value, encoding) for tag, (vr, value) in values.items()}


class _Task:
    """One data set on its way through the engine."""

    def __init__(self, engine: Engine, patient: Patient, encoding: Encoding) -> None:
        self.engine = engine
        self.patient = patient
        self.encoding = encoding
        self.done: list[str] = []

    def items(self, elements: list[Any], level: Level, depth: int) -> Elements:
        """Rewrite the elements of the data set or of one item."""
        written: Elements = {}
        done = self.done
        creators: dict[int, bytes] = {}
        scheme = b""
        if level.parent and depth:
            scheme = next((bytes_of(element) for element in elements if element.tag == _CODE_SCHEME), b"")
        for element in elements:
            tag = int(element.tag)
            if tag & 0x10000:
                self._private(element, tag, creators, written)
                continue
            step = level[tag]
            action = step.action
            if action == "X":
                done.append(step.path + " X")
                continue
            value, action = self._value(element, step, level, depth, scheme)
            done.append(f"{step.path} {action}")
            if value is not None:
                written[tag] = self._written(element, step, value)
        return written if _in_order(written) else dict(sorted(written.items()))

    def _value(self, element: Any, step: Step, level: Level, depth: int, scheme: bytes) -> tuple[bytes | None, str]:
        """Return the new value, None to leave the attribute out, and the action that led to it."""
        action = step.action
        if action == "Z":
            return (self.patient.pseudonym.encode() if step.tag == _PATIENT_ID else b""), "Z"
        if step.vr == "SQ":
            return self._sequence(element, step, level, depth)
        if action == "D":
            return self._dummy(step, level), "D"
        value = _raw(element)
        if value is None or not self._has_vr(element, step):
            return self._instead(step, level)
        if action == "U":
            return self.engine.cleaner.uids(value), "U"
        if action == "":
            return self._unlisted(value, step, level, scheme)
        return self._retained(value, step, level) if action == "K" else self._cleaned(value, step, level)

    def _unlisted(self, value: bytes, step: Step, level: Level, scheme: bytes) -> tuple[bytes | None, str]:
        """Keep what the table does not list as far as its form and words are known."""
        vr = step.vr
        if vr in TEXTS:
            words = frozenset() if step.tag in _STEERING else self.patient.words
            if step.tag == _CODE_VALUE and is_code(scheme, value):
                return value, "K"
            kept = self.engine.cleaned(vr, value, words) if vr != "UR" else b""
            stripped = value.strip(b" \0\r\n\t")
            if kept == stripped:
                return value, "K"
            return (kept, "C") if kept else self._instead(step, level)
        if vr == "UI":
            new = self.engine.cleaner.uids(value)
            return new, "K" if new.rstrip(b"\0") == value.rstrip(b" \0") else "U"
        if step.tag in OPAQUE or (vr != "OB" and has_form(vr, value, step.single)):
            return value, "K"
        return self._instead(step, level)

    def _retained(self, value: bytes, step: Step, level: Level) -> tuple[bytes | None, str]:
        """Keep a value as an option asks, unless it echoes the patient's name or is not what its VR says."""
        if step.vr in TEXTS:
            lower = value.lower()
            if any(word in lower for word in self.patient.words):
                return self._cleaned(value, step, level)
            return value, "K"
        if not has_form(step.vr, value, step.single):
            return self._instead(step, level)
        return (capped_age(value) if step.tag == _AGE else value), "K"

    def _cleaned(self, value: bytes, step: Step, level: Level) -> tuple[bytes | None, str]:
        """Apply the action C."""
        if step.vr in ("DA", "DT", "TM"):
            good = has_form(step.vr, value, step.single)
            moved = moved_dates(step.vr, value, self.patient.days) if good else None
        elif step.tag == _TIMEZONE:
            moved = value if len(value.strip()) == 5 and value.strip()[1:].isdigit() else None
        elif step.vr in TEXTS:
            moved = self.engine.cleaned(step.vr, value, self.patient.words) or None
        else:
            moved = None
        return (moved, "C") if moved is not None else self._instead(step, level)

    def _instead(self, step: Step, level: Level) -> tuple[bytes | None, str]:
        """Return what stands for a value that must not stay: nothing, an empty value or a dummy."""
        action = step.fallback if step.listed and step.fallback in "XZD" else "DZX"[step.kind - 1]
        if action == "X":
            return None, "X"
        return (b"", "Z") if action == "Z" else (self._dummy(step, level), "D")

    def _dummy(self, step: Step, level: Level, depth: int = 0) -> bytes:
        """Return a value that is not empty and says nothing; a sequence has one item of what its items require."""
        if step.vr == "UI":
            return padded(self.engine.pseudonyms.uid("removed").encode(), "UI")
        if step.tag == _PATIENT_ID:
            return self.patient.pseudonym.encode()
        if step.vr != "SQ":
            return dummy(step.vr)
        if step.tag == _CONTENT:
            return encode_item(encode_tree(dummy_content(), self.encoding), self.encoding)
        below = level.below(step.tag)
        parts = {}
        for tag, kind in sorted(below.required().items()) if depth < 3 else ():
            inner = below[tag]
            if inner.action != "X" and not (kind == 1 and inner.vr == "SQ" and depth == 2):
                value = self._dummy(inner, below, depth + 1) if kind == 1 else b""
                parts[tag] = encoded(tag, inner.vr, value, self.encoding)
        return encode_item(b"".join(parts.values()), self.encoding)

    def _sequence(self, element: Any, step: Step, level: Level, depth: int) -> tuple[bytes | None, str]:
        """Rewrite the items of a sequence, or put a dummy in its place."""
        if step.action == "D":
            return self._dummy(step, level), "D"
        if depth >= MAX_DEPTH:
            raise Refusal("too_deep", f"sequences are nested over {MAX_DEPTH} deep; export the file again")
        items = items_of(element)
        if items is None:
            return self._instead(step, level)
        below = level.below(step.tag)
        cleans = step.action == "C"
        parts = []
        for elements in items:
            content = content_action(elements, self.engine.config.options) if cleans or step.tag == _CONTENT else "K"
            if content == "X":
                self.done.append(f"{step.path} item X")
                continue
            written = self.items(elements, below, depth + 1)
            if content == "D" and 0x0040A160 in written:
                written[0x0040A160] = encoded(0x0040A160, "UT", b"REMOVED", self.encoding)
            parts.append(encode_item(b"".join(written.values()), self.encoding))
        if items and not parts:
            return self._instead(step, level)
        return b"".join(parts), step.action or "K"

    def _private(self, element: Any, tag: int, creators: dict[int, bytes], written: Elements) -> None:
        """Leave a private attribute out, unless it is a number that is known to be safe."""
        value = element.value
        low = tag & 0xFFFF
        if 0x10 <= low <= 0xFF and isinstance(value, bytes):
            creators[tag & 0xFFFF0000 | low << 8] = value
            return
        block = creators.get(tag & 0xFFFFFF00) if "retain_safe_private" in self.engine.config.options else None
        if block is not None and isinstance(value, bytes):
            vr = SAFE_PRIVATE.get(block.strip(b" \0").decode("latin-1"), {}).get(tag & 0xFFFF00FF)
            if vr is not None and element.VR in (vr, "UN", None) and has_form(vr, value, False):
                creator = tag & 0xFFFF0000 | (tag >> 8 & 0xFF)
                written[creator] = encoded(creator, "LO", block, self.encoding)
                written[tag] = encoded(tag, vr, value, self.encoding)
                self.done.append(f"{tag:08X} C")
                return
        self.done.append(f"{tag:08X} X")

    def _has_vr(self, element: Any, step: Step) -> bool:
        vr = element.VR
        return vr is None or vr == step.vr or vr in step.vrs or vr == "UN"

    def _written(self, element: Any, step: Step, value: bytes) -> bytes:
        vr = element.VR
        if vr is None or vr == "UN" or vr not in step.vrs or vr in TEXTS:
            vr = step.vr
        return encoded(step.tag, vr, value, self.encoding)


def _raw(element: Any) -> bytes | None:
    """Return the bytes of a value; None if it is cut short, or items stand in place of a value."""
    value = element.value
    if value is None:
        return b""
    return value if isinstance(value, bytes) and len(value) == element.length else None


def _in_order(written: Elements) -> bool:
    return all(first < second for first, second in pairwise(written))
