"""Secrets that the corpus plants, and the search for them in twelve encodings."""

from __future__ import annotations

import base64
import codecs
import gzip
import hashlib
import html
import json
import re
import urllib.parse
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

UID_ROOT = "1.2.826.0.1.3680043.10.99417"
# Each patient: name, id, birth date, accession number.
PATIENTS = (
    ("Quetzalberg^Wilhelmina", "PX-7741-ZULU", "19310724", "ACC88217745"),
    ("Brontelius^Ottokar", "PX-9953-KILO", "19680315", "ACC31188906"),
)
SECRETS = {
    "family name": "Quetzalberg",
    "given name": "Wilhelmina",
    "full name": "Quetzalberg^Wilhelmina",
    "name in free text": "Wilhelmina Quetzalberg",
    "umlaut name": "Ærøskjøbing",
    "id": "PX-7741-ZULU",
    "birth date": "19310724",
    "birth date, ISO": "1931-07-24",
    "birth date, German": "24.07.1931",
    "accession": "ACC88217745",
    "other family name": "Brontelius",
    "other id": "PX-9953-KILO",
    "other birth date": "19680315",
    "other accession": "ACC31188906",
    "address": "Blumenpfad 77",
    "phone": "+49 351 5550142",
    "other patient ids": "OTHERID-66190",
    "institution": "Klinikum Zwiebelfeld",
    "physician": "Papperlapapp",
    "station": "ZQSTATION19",
    "device serial": "SN-993-QX-11",
    "study date": "20240517",
    "study date, ISO": "2024-05-17",
    "study time": "134522.771",
    "comment": "kommentar-geheim-4417",
    "private element": "geheimprivat8812",
    "nested element": "nestedsecret5521",
    "preamble": "PREAMBLESECRET33",
    "overlay": "OVERLAYSECRET77",
    "icon": "ICONSECRET6161",
    "trailing": "TRAILINGSECRET90",
    "header text": "NIFTISECRET2025",
    "picture text": "PNGSECRET4096",
    "uid root": UID_ROOT,
    "script": "<script>zq",
    "escape": "\x1b[31mzq",
}
# Names of files and folders are the operator's: only reports that are 0600 may hold them.
PATH_SECRETS = {"file name": "DateinameSecret12", "folder name": "OrdnerSecret34"}


def plain_forms(text: str) -> dict[str, bytes]:
    """Return what one secret looks like in each encoding, lower case where case does not matter."""
    raw = text.encode()
    forms = {
        "utf-8": raw,
        "latin-1": text.encode("latin-1", "replace"),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "hex": raw.hex().encode(),
        "percent": urllib.parse.quote(text, safe="").encode(),
        "html": html.escape(text).encode(),
        "json": json.dumps(text)[1:-1].encode(),
        "reversed": raw[::-1],
        "rot13": codecs.encode(text, "rot13").encode(),
        "md5": hashlib.md5(raw).hexdigest().encode(),
        "sha1": hashlib.sha1(raw).hexdigest().encode(),
        "sha256": hashlib.sha256(raw).hexdigest().encode(),
    }
    if "^" in text:
        forms["caret as blank"] = text.replace("^", " ").encode()
        forms["caret as underscore"] = text.replace("^", "_").encode()
    return {name: form.lower() for name, form in forms.items()}


def exact_forms(text: str) -> dict[str, bytes]:
    """Return the base64 forms of a secret at its three alignments; case matters in them."""
    raw, forms = text.encode(), {}
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + raw)
        start, end = (shift * 8 + 5) // 6, ((shift + len(raw)) * 8) // 6
        forms[f"base64, shift {shift}"] = coded[start:end]
    return forms


@cache
def _needles(paths: bool) -> tuple[tuple[str, str, bytes, bool], ...]:
    found = []
    for name, text in ({**SECRETS, **PATH_SECRETS} if paths else SECRETS).items():
        seen: set[bytes] = set()
        for kind, form in plain_forms(text).items():
            if form not in seen:
                found.append((name, kind, form, False))
                seen.add(form)
        found += [(name, kind, form, True) for kind, form in exact_forms(text).items()]
    return tuple(found)


def leaks(data: bytes, *, paths: bool = True) -> list[str]:
    """Return "secret (encoding)" for each planted secret that some bytes hold."""
    lower = data.lower()
    return [f"{name} ({kind})" for name, kind, form, exact in _needles(paths) if form in (data if exact else lower)]


def expanded(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, what its gzip members inflate to, and the pictures embedded in a page."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    for coded in re.findall(rb"base64,([A-Za-z0-9+/=]{64,})", data):
        yield base64.b64decode(coded)
    if data[:4] == b"\x89PNG":
        for start in [match.start() for match in re.finditer(rb"zTXt|iTXt", data)]:
            try:
                yield zlib.decompressobj().decompress(data[start + 6 :])
            except zlib.error:
                continue


def leaks_below(root: Path, *, skip: tuple[str, ...] = ("secrets",)) -> list[str]:
    """Return where planted secrets are in the files and file names below a folder."""
    found = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] in skip:
            continue
        found += [f"name of {relative.parts[0]}: {leak}" for leak in leaks(str(relative).encode("utf-8", "replace"))]
        if path.is_file():
            operator = relative.parts[0] == "reports"
            for data in expanded(path):
                found += [f"{relative.parts[0]}/…/{path.name}: {leak}" for leak in leaks(data, paths=not operator)]
    return found
