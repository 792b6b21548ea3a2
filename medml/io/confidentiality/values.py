"""What a value becomes: dummies, empty forms, new UIDs, moved dates, cleaned texts. Bytes in, bytes out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta
from functools import lru_cache
from itertools import pairwise

from pydicom._uid_dict import UID_dictionary
from pydicom.charset import python_encoding

from medml.io.confidentiality.tables import vocabulary
from medml.io.files import Pseudonyms

REMOVED = b"REMOVED"
MAX_AGE_YEARS = 90

TEXTS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
SIZES = {"AT": 4, "FD": 8, "FL": 4, "OB": 1, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2, "SL": 4, "SS": 2, "SV": 8,
         "UL": 4, "US": 2, "UV": 8}  # fmt: skip

_DUMMIES = {"AS": b"000Y", "DA": b"19000101", "DS": b"0", "DT": b"19000101000000", "IS": b"0", "TM": b"000000"}
_FORMS = {
    "AS": re.compile(rb"\d{3}[DWMY] ?"),
    "DA": re.compile(rb"\d{8}(\\\d{8})* ?|\d{4}\.\d{2}\.\d{2}"),
    "DS": re.compile(rb"[0-9+\-.eE \\]*\0?"),
    "DT": re.compile(rb"\d{4,14}(\.\d{1,6})?([+-]\d{4})? *"),
    "IS": re.compile(rb"[0-9+\- \\]*\0?"),
    "TM": re.compile(rb"[\d.:]{2,16}(\\[\d.:]{2,16})* *"),
    "UI": re.compile(rb"[0-9.\\]*[\0 ]?"),
}
_TOKEN = re.compile(rb"[A-Za-z0-9]+(?:\.[0-9]+)*")
_SHORT = re.compile(rb"[A-Za-z]|[A-Za-z]{1,3}[0-9]{1,2}[A-Za-z]{0,2}|[0-9]{1,2}(?:\.[0-9]{1,2})?(?:[A-Za-z]{1,2})?")
_B_VALUE = re.compile(rb"[bB][0-9]{1,4}")
_PULSE_SEQUENCE = re.compile(
    rb"(?:ep(?:fid|se)?|tse|tir|tfl|tfi|fl|fi|spc|spcir|se|swi|qfl|h)(?:r?[23]d[0-9]{0,3}[a-z]{0,4})"
)
_NUMBER = re.compile(rb"[0-9.]+")
_CODES = {
    b"DCM": re.compile(rb"[0-9]{5,6}"),
    b"SCT": re.compile(rb"[0-9]{6,18}"),
    b"SRT": re.compile(rb"[A-Z][0-9A-Z]?-[0-9A-F]{4,6}"),
    b"SNM3": re.compile(rb"[A-Z][0-9A-Z]?-[0-9A-F]{4,6}"),
    b"99SDM": re.compile(rb"[A-Z][0-9A-Z]?-[0-9A-F]{4,6}"),
    b"LN": re.compile(rb"[0-9]{1,6}-[0-9]"),
    b"FMA": re.compile(rb"[0-9]{1,8}"),
    b"RADLEX": re.compile(rb"RID[0-9]{1,6}"),
    b"NCIt": re.compile(rb"C[0-9]{4,7}"),
    b"UMLS": re.compile(rb"C[0-9]{7}"),
    b"MDC": re.compile(rb"[0-9]{1,8}"),
    b"UCUM": re.compile(rb"[A-Za-z0-9/.^*%{}\[\]()'+\-]{1,16}"),
}
_STANDARD = re.compile(rb"ISO_[0-9]{4,5}_[0-9]{1,2}")
_CHARACTER_SETS = frozenset(name.encode() for name in python_encoding)
_REGISTERED = frozenset(uid.encode() for uid in UID_dictionary)
_CONTEXT_GROUP = re.compile(rb"1\.2\.840\.10008\.6\.1\.\d{1,4}")
_CODING_SCHEME = re.compile(rb"2\.16\.840\.1\.113883\.(6|3)\.\d{1,6}(\.\d{1,6}){0,3}")


def dummy(vr: str) -> bytes:
    """Return a value of that VR that says nothing; UIDs and sequences need more than a constant."""
    if vr in _DUMMIES:
        return _DUMMIES[vr]
    if vr in SIZES:
        return bytes(max(2, SIZES[vr]))
    return b"urn:removed" if vr == "UR" else REMOVED


def has_form(vr: str, value: bytes, single: bool) -> bool:
    """Say whether a value is what its VR allows, so that no text hides in a number.

    Parameters
    ----------
    single : bool
        Whether the attribute has one value.
    """
    form = _FORMS.get(vr)
    if form is not None:
        return not value or form.fullmatch(value) is not None
    size = SIZES.get(vr)
    return size is not None and (len(value) == size if single and vr[0] != "O" and value else len(value) % size == 0)


def padded(value: bytes, vr: str) -> bytes:
    """Return a value of even length (PS3.5 6.2)."""
    if len(value) % 2 == 0:
        return value
    return value + (b"\0" if vr == "UI" or vr in SIZES else b" ")


def capped_age(value: bytes) -> bytes:
    """Return an age (``045Y``) of at most 90 years, which nobody stands out by."""
    years = int(value[:3]) if value[3:4] == b"Y" else 0
    return b"%03dY" % MAX_AGE_YEARS if years >= MAX_AGE_YEARS else value


def moved_dates(vr: str, value: bytes, days: int) -> bytes | None:
    """Return dates moved back by whole days, times as they are; None where a value is no whole date."""
    if vr == "TM":
        return value
    moved = [_moved(part, days) for part in value.rstrip(b" \0").split(b"\\")]
    whole = [part for part in moved if part is not None]
    return b"\\".join(whole) if len(whole) == len(moved) else None


def is_code(scheme: bytes, code: bytes) -> bool:
    """Say whether a code has the form that its public coding scheme gives to codes."""
    form = _CODES.get(scheme.strip(b" \0"))
    return form is not None and form.fullmatch(code.strip(b" \0")) is not None


def identity_words(values: Iterable[bytes]) -> frozenset[bytes]:
    """Return the words of names and ids, lower-case, of at least three letters or digits."""
    words = (word.lower() for value in values for word in re.findall(rb"[A-Za-z0-9\x80-\xff]+", value))
    return frozenset(word for word in words if len(word) >= 3)


class Words:
    """What a text may keep.

    Parameters
    ----------
    allowed : iterable of str
        Words beside the vocabulary.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        more = {part.lower() for text in allowed for part in text.split()}
        self._words = frozenset(word.encode() for word in vocabulary() | more)

    def text(self, value: bytes, identity: frozenset[bytes]) -> bytes:
        """Return what a text may keep: known words, short codes and numbers; all of it if all is so.

        A text that is not ASCII is dropped whole, as its bytes cannot be told into words without decoding. So is one
        of which no word is left.
        """
        body = value.strip(b" \0\r\n\t")
        if not body.isascii() or b"\x1b" in body:
            return b""
        tokens = _TOKEN.findall(body)
        kept = [token for token in tokens if self._harmless(token, identity)]
        numbers = [_NUMBER.fullmatch(token) is not None for token in kept]
        if any(first and second for first, second in pairwise(numbers)):
            kept = [token for token, number in zip(kept, numbers, strict=True) if not number]
        if len(kept) == len(tokens):
            return body
        return b" ".join(kept) if any(token.isalpha() and len(token) > 1 for token in kept) else b""

    def texts(self, value: bytes, identity: frozenset[bytes]) -> bytes:
        """Return `text` of each of several values."""
        cleaned = [self.text(part, identity) for part in value.split(b"\\")]
        return b"\\".join(cleaned) if any(cleaned) else b""

    def codes(self, value: bytes, identity: frozenset[bytes]) -> bytes:
        """Return a code string (CS) without the values that `text` would not keep whole."""
        parts = value.strip(b" \0").split(b"\\")
        return b"\\".join(part if self._is_code(part.strip(b" "), identity) else b"" for part in parts)

    def _is_code(self, code: bytes, identity: frozenset[bytes]) -> bool:
        if self.text(code, identity) == code or _STANDARD.fullmatch(code) or code in _CHARACTER_SETS:
            return True
        words = code.lower().replace(b"_", b" ").split()
        return all(len(word) <= 4 and word.isalnum() and word not in identity for word in words)

    def _harmless(self, token: bytes, identity: frozenset[bytes]) -> bool:
        word = token.lower()
        if word in identity:
            return False
        return word in self._words or any(
            form.fullmatch(token) is not None for form in (_SHORT, _B_VALUE, _PULSE_SEQUENCE)
        )


class Cleaner(Words):
    """Texts and UIDs under one key and one list of words; UIDs that were seen are remembered.

    Parameters
    ----------
    pseudonyms : Pseudonyms
    allowed : iterable of str
        Words beside the vocabulary.
    """

    def __init__(self, pseudonyms: Pseudonyms, allowed: Iterable[str] = ()) -> None:
        super().__init__(allowed)
        self._pseudonyms = pseudonyms
        self._uids: dict[bytes, bytes] = {}

    def uids(self, value: bytes) -> bytes:
        """Return new UIDs for one or several; registered ones (PS3.6 annex A) stay."""
        known = self._uids.get(value)
        if known is None:
            parts = value.strip(b" \0").split(b"\\")
            known = padded(b"\\".join(self._uid(part.strip(b" \0")) for part in parts), "UI")
            if len(self._uids) < 1_000_000:
                self._uids[value] = known
        return known

    def _uid(self, uid: bytes) -> bytes:
        if not uid or uid in _REGISTERED or _CONTEXT_GROUP.fullmatch(uid) or _CODING_SCHEME.fullmatch(uid):
            return uid
        return self._pseudonyms.uid(uid.decode("latin-1")).encode()


@lru_cache(maxsize=4096)
def known_words(text: str) -> str:
    """Return the words of a text that no name is made of: the makers, models and techniques of the vocabulary."""
    return _vocabulary_only().text(text.encode("utf-8"), frozenset()).decode("ascii")


@lru_cache(maxsize=1)
def _vocabulary_only() -> Words:
    return Words()


def _moved(value: bytes, days: int) -> bytes | None:
    text = value.strip(b" ").replace(b".", b"", 2) if value[4:5] == b"." else value.strip(b" ")
    if not text:
        return b""
    try:
        day = date(int(text[:4]), int(text[4:6]), int(text[6:8])) - timedelta(days)
    except (ValueError, OverflowError):
        return None
    return day.strftime("%Y%m%d").encode().rjust(8, b"0") + text[8:]
