"""One DICOM file in, one de-identified DICOM file out; its pixels are copied as they are encoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medml.errors import Refusal
from medml.io.confidentiality.elements import Encoding, bytes_of, encode_tree, text_of
from medml.io.confidentiality.engine import Engine
from medml.io.confidentiality.pixels import PIXEL_TAGS, Pixels, find_pixels
from medml.io.confidentiality.plan import Plan
from medml.io.dicom_parse import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, open_body, parse_elements
from medml.io.files import open_regular

IMPLEMENTATION_UID = b"2.25.304350982352456029452070118814457684598"
IMPLEMENTATION_NAME = b"MEDML"

_SOP_CLASS, _SOP_UID, _STUDY_UID, _SERIES_UID = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An open DICOM file: its raw elements by tag, and where its pixels are.

    Attributes
    ----------
    body : binary file
        What ``pixel_offset`` counts in: the file, or its inflated data set.
    """

    file: BinaryIO
    body: BinaryIO
    elements: dict[int, Any]
    transfer_syntax: str
    little: bool
    pixel_offset: int
    pixel_bytes: int | None
    pixel_keyword: str

    def text(self, tag: int) -> str:
        """Return the value of an element as text, empty if it is absent."""
        return text_of(self.elements.get(tag))


@dataclass(frozen=True, slots=True, eq=False)
class Cleared:
    """A de-identified file, ready to be written.

    Attributes
    ----------
    patient, study_uid, series_uid, sop_uid : str
        The new ones.
    header : bytes
        All before the value of PixelData.
    pixels : Pixels or None
    done : tuple of str
        Each attribute that was seen, with the action that was taken; no values.
    """

    patient: str
    study_uid: str
    series_uid: str
    sop_uid: str
    header: bytes
    pixels: Pixels | None
    done: tuple[str, ...]


@contextmanager
def open_source(path: Path) -> Iterator[Source | None]:
    """Open a file and read its elements; None if it is no DICOM file.

    Raises
    ------
    Refusal
        If it is no regular file, or damaged.
    """
    with open_regular(path) as file:
        try:
            found = parse_elements(file, ())
            source = None
            if found is not None:
                source = Source(
                    file=file,
                    body=open_body(file) if found.transfer_syntax == DEFLATED else file,
                    elements=found.by_tag,
                    transfer_syntax=found.transfer_syntax,
                    little=found.little,
                    pixel_offset=found.pixel_offset,
                    pixel_bytes=found.pixel_bytes,
                    pixel_keyword=found.pixel_keyword,
                )
        except Refusal:
            raise
        except Exception as error:
            # A parser fed with damaged bytes may raise anything; its words may quote the patient, so they stay here.
            raise Refusal(
                "damaged", f"the DICOM file cannot be parsed ({type(error).__name__}); copy it again"
            ) from None
        yield source


def clear(source: Source, engine: Engine) -> Cleared:
    """De-identify an open file.

    Raises
    ------
    Refusal
        If its class is unknown, its UIDs are missing, or it is damaged.
    """
    plan = engine.plan(source.text(_SOP_CLASS))
    missing = sum(not source.text(tag) for tag in (_SOP_UID, _STUDY_UID, _SERIES_UID))
    if missing:
        raise Refusal("missing_uid", f"{missing} of the study, series and SOP instance UIDs are missing")
    syntax = EXPLICIT if source.transfer_syntax == DEFLATED else source.transfer_syntax
    encoding = Encoding(implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN)
    pixels = _pixels(source, plan)
    try:
        written, done = engine.rewrite(source.elements, plan, encoding)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(
            "damaged", f"a sequence of the file cannot be parsed ({type(error).__name__}); copy it again"
        ) from None
    sop_class = source.text(_SOP_CLASS).encode()
    uids = {tag: _uid(engine, source, tag) for tag in (_STUDY_UID, _SERIES_UID, _SOP_UID)}
    head = _file_meta(sop_class, uids[_SOP_UID].encode(), syntax.encode())
    before = {tag: value for tag, value in written.items() if tag < 0x7FE00008}
    parts = [head, *(before[tag] for tag in sorted(before))]
    if pixels is not None:
        parts.append(pixels.head(encoding))
    return Cleared(
        patient=engine.patient(source.elements).pseudonym,
        study_uid=uids[_STUDY_UID],
        series_uid=uids[_SERIES_UID],
        sop_uid=uids[_SOP_UID],
        header=b"".join(parts),
        pixels=pixels,
        done=tuple(done),
    )


def write_cleared(cleared: Cleared, source: Source, path: Path) -> int:
    """Write a cleared file under a name that must not exist yet; return its size. Durability is the caller's."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as target:
            _write_all(target.fileno(), cleared.header)
            if cleared.pixels is not None:
                cleared.pixels.copy(source.body, target.fileno())
            return os.fstat(target.fileno()).st_size
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _pixels(source: Source, plan: Plan) -> Pixels | None:
    """Return the pixels, if there are such and the class has them."""
    tag = PIXEL_TAGS.get(source.pixel_keyword)
    if tag is None or tag not in plan.top.types[0]:
        return None
    return find_pixels(source.body, source.elements, tag, source.pixel_offset, source.pixel_bytes, source.little)


def _uid(engine: Engine, source: Source, tag: int) -> str:
    value = bytes_of(source.elements.get(tag))
    kept = value if engine.config.retain_uids else engine.cleaner.uids(value)
    return kept.strip(b" \0").decode("latin-1")


def _file_meta(sop_class: bytes, sop_uid: bytes, syntax: bytes) -> bytes:
    """Return an empty preamble and file meta information built new (PS3.10 7.1)."""
    values = {
        0x00020001: ("OB", b"\x00\x01"),
        0x00020002: ("UI", sop_class),
        0x00020003: ("UI", sop_uid),
        0x00020010: ("UI", syntax),
        0x00020012: ("UI", IMPLEMENTATION_UID),
        0x00020013: ("SH", IMPLEMENTATION_NAME),
    }
    encoding = Encoding(implicit=False, little=True)
    body = encode_tree(values, encoding)
    length = encode_tree({0x00020000: ("UL", len(body).to_bytes(4, "little"))}, encoding)
    return bytes(128) + b"DICM" + length + body


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
