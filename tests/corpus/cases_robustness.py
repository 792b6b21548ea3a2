"""Damaged, hostile and confused sources: the good series beside them must come through, the rest is refused by name."""

from __future__ import annotations

import os
import socket
import struct
import zlib

import numpy as np
from corpus import codecs
from corpus.dicom import Stack, encoded, put, save
from corpus.phantom import only_changed
from corpus.source import Expected, Source, accepted, case, case_of, either, refused
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian


def _beside(source: Source) -> Stack:
    """Write a sound series, which must be accepted whatever lies beside it."""
    stack = Stack(source, study=5, series=5)
    stack.write("good")
    return stack


@case("pixels of one slice truncated")
def truncated_pixels(source: Source) -> Expected:
    good = _beside(source)
    paths = Stack(source).write("bad")
    paths[4].write_bytes(paths[4].read_bytes()[:-300])
    return accepted(good.truth, refused="truncated|damaged.*")


@case("a file cut in its header")
def truncated_header(source: Source) -> Expected:
    good = _beside(source)
    paths = Stack(source).write("bad")
    paths[4].write_bytes(paths[4].read_bytes()[:400])
    return accepted(good.truth, refused=".*", check=_all_bad_refused)


def _all_bad_refused(home: object, report: object, kept: object) -> list[str]:
    """A cut or damaged DICOM file is no stranger to be set aside: it may be the end of a series."""
    lost = [o.code for o in report.outcomes if o.outcome == "ignored"]  # type: ignore[attr-defined]
    return [f"a damaged DICOM file was ignored as {code}" for code in lost]


@case("the last slice of a series cut in its header: a shorter volume would pass unseen")
def truncated_last_header(source: Source) -> Expected:
    stack = Stack(source)
    paths = stack.write("bad")
    paths[11].write_bytes(paths[11].read_bytes()[:420])
    return Expected(scans=(stack.part(0, 11),), refused=(".*",), either=True, check=_all_bad_refused)


@case("a compressed frame cut short")
def truncated_jpeg(source: Source) -> Expected:
    good = _beside(source)
    stack = codecs.compress(Stack(source), codecs.JPEG_LS)
    paths = stack.write("bad")
    raw = paths[3].read_bytes()
    at = raw.rindex(b"\xfe\xff\xdd\xe0")
    paths[3].write_bytes(raw[: at - 60])
    return accepted(good.truth, refused="truncated|damaged.*|undecodable")


@case("bytes of a compressed frame overwritten")
def damaged_jpeg(source: Source) -> Expected:
    good = _beside(source)
    paths = codecs.compress(Stack(source), codecs.JPEG_LOSSLESS_SV1).write("bad")
    raw = bytearray(paths[3].read_bytes())
    raw[-200:-100] = bytes(100)
    paths[3].write_bytes(raw)
    # Damage may decode to other values without any sign of it, in its slice: no codec carries a checksum.
    bad = Stack(source)
    points = {
        float(bad.values[at]): bad.truth.points[float(bad.values[at])] for at in bad.landmarks.values() if at[2] != 3
    }
    return accepted(good.truth, maybe=only_changed(bad.truth, values=None, points=points))


EMPTY = {
    "no bytes": b"",
    "preamble only": bytes(128) + b"DICM",
    "random after DICM": bytes(128) + b"DICM" + bytes(range(256)) * 4,
    "only zeros": bytes(5000),
    "text": b"Quetzalberg\n" * 40,
    "html": b"<html><script>zq</script></html>",
    "zip named dcm": b"PK\3\4" + bytes(200),
}


def _junk(data: bytes) -> object:
    def build(source: Source) -> Expected:
        good = _beside(source)
        source.bytes("junk.dcm", data)
        return Expected(scans=(good.truth,), refused=("?.*",), ignored=("?.*",), check=_junk_accounted)

    return build


def _junk_accounted(home: object, report: object, kept: object) -> list[str]:
    other = [o for o in report.outcomes if o.outcome != "accepted"]  # type: ignore[attr-defined]
    return (
        []
        if len(other) == 1 and other[0].files == 1 and other[0].reason
        else [f"{len(other)} outcomes for one junk file"]
    )


for _name, _data in EMPTY.items():
    case_of("robustness", f"junk {_name}", f"a file of {_name}", _junk(_data))  # type: ignore[arg-type]


@case("60,000 x 60,000 pixels declared, none there")
def huge_matrix(source: Source) -> Expected:
    good = _beside(source)
    Stack(source).set(Rows=60000, Columns=60000).write("bad")
    return accepted(good.truth, refused="too_large|truncated|compression_bomb")


@case("two billion frames declared")
def huge_frames(source: Source) -> Expected:
    good = _beside(source)
    Stack(source).drop(*range(1, 12)).set(NumberOfFrames="2000000000").write("bad")
    return accepted(good.truth, refused="too_large|truncated|.*frame.*|missing_.*|compression_bomb|duplicate_.*")


@case("an element that claims four gigabytes")
def huge_element(source: Source) -> Expected:
    good = _beside(source)
    paths = Stack(source).write("bad")
    for path in paths:
        raw = path.read_bytes()
        at = raw.index(b"\x10\x00\x00\x40LT")
        path.write_bytes(raw[: at + 4] + b"UT\0\0\xf0\xff\xff\xff" + raw[at + 8 :])
    return accepted(good.truth, refused=".*", check=_all_bad_refused)


@case("a compressed bomb: 8,000 x 8,000 zeros in a few bytes of RLE")
def rle_bomb(source: Source) -> Expected:
    good = _beside(source)
    stack = Stack(source)
    segment = bytes([0x81, 0]) * 2000
    frame = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2
    for data in stack:
        data.Rows = data.Columns = 8000
        codecs.encapsulated(data, [frame], codecs.RLE)
    stack.write("bad")
    return accepted(good.truth, refused="too_large|compression_bomb|damaged.*|truncated|undecodable|unreadable")


@case("a deflated bomb: a private element of 256 MB of zeros before the pixels")
def deflate_bomb(source: Source) -> Expected:
    good = _beside(source)
    data = Stack(source)[0]
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    raw = encoded(data)
    start = raw.index(b"\x02\x00\x00\x00UL\x04\x00") + 12 + int.from_bytes(raw[140:144], "little")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = b"\x08\x00\x05\x00CS\x00\x00" + b"\x09\x00\x01\x10OB\0\0" + struct.pack("<I", 1 << 28)
    body = squeeze.compress(head)
    for _ in range(64):
        body += squeeze.compress(bytes(1 << 22))
    source.bytes("bad.dcm", raw[:start] + body + squeeze.flush())
    return accepted(good.truth, refused=".*")


@case("sequences nested forty deep")
def deep_sequences(source: Source) -> Expected:
    good = _beside(source)
    stack = Stack(source)
    for data in stack:
        inner = Dataset()
        inner.PatientComments = "nestedsecret5521"
        for _ in range(40):
            outer = Dataset()
            outer.ReferencedStudySequence = Items([inner])
            inner = outer
        data.RequestAttributesSequence = Items([inner])
    stack.write("deep")
    return accepted(good.truth, maybe=stack.truth)


@case("sequences nested 3,000 deep: no recursion to death")
def abyss(source: Source) -> Expected:
    good = _beside(source)
    raw = encoded(Stack(source)[0])
    at = raw.index(b"\x20\x00\x0d\x00UI")
    nest = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 3000
    source.bytes("deep.dcm", raw[:at] + nest + raw[at:])
    return accepted(good.truth, refused=".*")


@case("links: to a file outside, to a folder outside, to itself, to nothing, and a loop of folders")
def links(source: Source) -> Expected:
    good = _beside(source)
    other = Source(source.outside / "links", source.name)
    Stack(other, study=8).write()
    os.symlink(next(other.folder.iterdir()), source.path("out_file"))
    os.symlink(other.folder, source.path("out_folder"))
    os.symlink("self", source.path("self"))
    os.symlink("nothing", source.path("gone"))
    os.symlink("..", source.path("good/loop"))
    os.symlink("/etc/passwd", source.path("passwd.dcm"))
    return accepted(good.truth, ignored="link|.*")


@case("a pipe and a socket named like images")
def special_files(source: Source) -> Expected:
    good = _beside(source)
    os.mkfifo(source.path("pipe.dcm"))
    os.mkfifo(source.path("pipe.nii.gz"))
    here = os.getcwd()
    try:
        os.chdir(source.folder)
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("socket.dcm")
    finally:
        os.chdir(here)
    return accepted(good.truth, ignored="not_a_regular_file")


@case("hostile file names: line breaks, escapes, quotes, right-to-left, not UTF-8, 255 bytes, formulas")
def hostile_names(source: Source) -> Expected:
    stack = Stack(source)
    names = [
        "a\nb.dcm", "\x1b[31mname.dcm", "'; DROP TABLE scans; --", '"<script>name', "\u202egnp.dcm", "=cmd|' !A0",
        "-rf", "x" * 255, "con.dcm", "%2e%2e%2f", "$(touch pwned)", "ends with blank ",
    ]  # fmt: skip
    for index, name in enumerate(names):
        stack[index].InstanceNumber = index
        source.bytes(name, encoded(stack[index]))
    os.rename(source.folder / "-rf", os.path.join(os.fsencode(source.folder), b"\xff\xfe-rf"))
    return accepted(stack.truth, check=_nothing_written_outside, ignored="?.*", refused="?.*")


def _nothing_written_outside(home: object, report: object, kept: object) -> list[str]:
    return ["a shell ran a file's name"] if os.path.exists("pwned") else []


@case("a DICOMDIR that points out of its folder")
def dicomdir_traversal(source: Source) -> Expected:
    good = _beside(source)
    listing = Dataset()
    listing.file_meta = FileMetaDataset()
    listing.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    listing.SOPClassUID, listing.SOPInstanceUID = "1.2.840.10008.1.3.10", source.uid(4)
    record = Dataset()
    record.DirectoryRecordType = "IMAGE"
    record.ReferencedFileID = ["..", "..", "ETC", "PASSWD"]
    listing.DirectoryRecordSequence = Items([record])
    save(source.path("DICOMDIR"), listing)
    return accepted(good.truth, ignored="not_an_image|.*")


@case("UIDs that are paths, too long, or no UIDs")
def hostile_uids(source: Source) -> Expected:
    good = _beside(source)
    for number, uid in enumerate(("../../../../tmp/pwned", "1." * 200 + "1", "'; DROP TABLE scans; --", "1.2\\3.4")):
        stack = Stack(source, series=10 + number)
        paths = stack.write(f"bad{number}")
        for path in paths:
            raw = path.read_bytes()
            at = raw.index(b"\x20\x00\x0e\x00UI")
            (length,) = struct.unpack("<H", raw[at + 6 : at + 8])
            text = uid.encode() + b"\0" * (len(uid) % 2)
            path.write_bytes(raw[: at + 6] + struct.pack("<H", len(text)) + text + raw[at + 8 + length :])
    truth = Stack(source, series=10).truth
    return accepted(good.truth, maybe=(truth,) * 4)


@case("hostile text in the elements that are kept: scripts, escapes, formulas")
def hostile_text(source: Source) -> Expected:
    stack = Stack(source)
    stack.set(
        Manufacturer="<script>zq</script>",
        ManufacturerModelName="=cmd()\x1b[31mzq",
        BodyPartExamined="<script>zq",
        ViewPosition="<script>zq",
        PatientID="'; DROP TABLE scans; --<script>zq",
    )
    stack.write()
    return accepted(stack.truth)


@case("no UIDs at all")
def no_uids(source: Source) -> Expected:
    stack = Stack(source).set(SeriesInstanceUID=None)
    stack.write()
    return refused("missing_uid", truth=stack.truth)


@case("pixels longer than declared")
def pixels_too_long(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.PixelData = data.PixelData + bytes(2)
    stack.write()
    return either(stack.truth)


@case("pixels of two frames where one is declared")
def pixels_doubled(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.PixelData = data.PixelData * 2
    stack.write()
    return either(stack.truth)


@case("no pixels in one slice")
def pixels_missing(source: Source) -> Expected:
    good = _beside(source)
    stack = Stack(source)
    del stack[4].PixelData
    stack.write("bad")
    return accepted(good.truth, refused="no_pixels|missing_slice|truncated")


@case("rows of zero")
def zero_rows(source: Source) -> Expected:
    good = _beside(source)
    Stack(source).set(Rows=0).write("bad")
    return Expected(scans=(good.truth,), refused=("?.*",), ignored=("?.*",))


@case("hard links to the same slices")
def hard_links(source: Source) -> Expected:
    stack = Stack(source)
    for path in stack.write("a"):
        os.link(path, source.path(f"b/{path.name}"))
    return accepted(stack.truth, findings="duplicate_files")


@case("a DICOM file named .nii.gz and a PNG named .dcm")
def wrong_suffixes(source: Source) -> Expected:
    good = _beside(source)
    source.bytes("a.nii.gz", encoded(Stack(source)[0]))
    source.bytes("b.dcm", b"\x89PNG\r\n\x1a\n" + bytes(100))
    return Expected(scans=(good.truth,), refused=("?.*",), ignored=("?.*",))


@case("very long texts: a PatientID of 60,000 characters")
def long_text(source: Source) -> Expected:
    stack = Stack(source).set(PatientID="Quetzalberg" * 5000)
    stack.write()
    return either(stack.truth)


@case("a bad series among twenty sound ones")
def one_bad_among_many(source: Source) -> Expected:
    truths = []
    for number in range(1, 6):
        stack = Stack(source, series=number, change=lambda v, n=number: v + n)
        stack.write(f"{number}")
        truths.append(stack.truth)
    paths = Stack(source, series=30).write("bad")
    for path in paths:
        path.write_bytes(path.read_bytes()[:-200])
    return accepted(*truths, refused="truncated")


@case("a constant image")
def constant(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        put(data, np.full((20, 24), 1064, np.uint16))
    stack.write()
    return either(
        only_changed(stack.truth, points={}, values=np.full((24, 20, 12), 40.0)),
        findings=".*constant.*|empty.*|.*flat.*",
    )
