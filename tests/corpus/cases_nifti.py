"""NIfTI: every axis order, both forms, units, types, scaling, versions, pairs, and damage."""

from __future__ import annotations

import gzip
import itertools
import struct

import numpy as np
from corpus.nifti import CODES, SHAPE, affine_of, body, extension, header, header2, oblique, truth, voxels_of, write
from corpus.phantom import only_changed, to_byte, with_points
from corpus.source import Expected, Source, accepted, case, case_of, either, refused

FLIPS = tuple(itertools.product((False, True), repeat=3))


def _axes(axes: tuple[int, int, int]) -> object:
    def build(source: Source) -> Expected:
        truths = []
        for number, flips in enumerate(FLIPS):
            affine = affine_of(axes, flips)  # type: ignore[arg-type]
            values = voxels_of(affine, lambda v, n=number: v + n)
            write(source, f"{number}.nii.gz", header(SHAPE, sform=affine, qform=affine), body(values))
            truths.append(with_points(truth(affine), lambda v, n=number: v + n))
        return accepted(*truths)

    return build


for _order in itertools.permutations(range(3)):
    _name = "".join("xyz"[n] for n in _order)
    case_of("nifti", f"axes {_name}", f"array axes along {', '.join(_name)}, each direction", _axes(_order))  # type: ignore[arg-type]


def _one(name: str = "DateinameSecret12.nii.gz", **options: object) -> object:
    def build(source: Source) -> Expected:
        affine = oblique()
        forms = options.get("forms", "sq")
        head = header(
            SHAPE,
            sform=affine if "s" in str(forms) else None,
            qform=affine if "q" in str(forms) else None,
        )
        write(source, name, head, body(voxels_of(affine)))
        return accepted(truth(affine))

    return build


for _forms, _title in (("sq", "both forms"), ("s", "sform only"), ("q", "qform only")):
    case_of("nifti", f"oblique {_title}", f"oblique, {_title}", _one(forms=_forms))  # type: ignore[arg-type]
case_of("nifti", "not compressed", "not compressed", _one("image.nii"))  # type: ignore[arg-type]
case_of("nifti", "upper case suffix", "suffix in capitals", _one("IMAGE.NII"))  # type: ignore[arg-type]


@case("sform and qform put the image at different places, both scanner anatomical")
def forms_conflict(source: Source) -> Expected:
    one, other = affine_of(), oblique()
    write(source, "a.nii.gz", header(SHAPE, sform=one, qform=other, codes=(1, 1)), body(voxels_of(one)))
    return either(truth(one), findings=".*form.*|affines_disagree")


@case("sform says Talairach, qform scanner: two spaces, either is right if it is said")
def forms_of_two_spaces(source: Source) -> Expected:
    one, other = affine_of(), affine_of()
    other[:3, 3] += 11
    write(source, "a.nii.gz", header(SHAPE, sform=one, qform=other, codes=(3, 1)), body(voxels_of(one)))
    return either(truth(one), findings=".*form.*|affines_disagree")


@case("neither form: only voxel sizes, the place is unknown")
def no_forms(source: Source) -> Expected:
    affine = affine_of()
    write(source, "a.nii.gz", header(SHAPE), body(voxels_of(affine)))
    return Expected(scans=(only_changed(truth(affine), points={}, values=None),), either=True, check=_said, findings=())


def _said(home: object, report: object, kept: list) -> list[str]:
    found = {f.code for o in report.outcomes for f in o.findings}  # type: ignore[attr-defined]
    return [] if not kept or found else ["no finding says that the place in space is unknown"]


UNITS = {"metres": (1, 1e-3), "micrometres": (3, 1e3), "unknown": (0, 1.0), "millimetres and seconds": (10, 1.0)}


def _units(code: int, scale: float) -> object:
    def build(source: Source) -> Expected:
        affine = affine_of()
        stored = affine.copy()
        stored[:3] *= scale
        write(source, "a.nii.gz", header(SHAPE, sform=stored, qform=stored, units=code), body(voxels_of(affine)))
        return accepted(truth(affine))

    return build


for _name, _facts in UNITS.items():
    case_of("nifti", f"units {_name}", f"units: {_name}", _units(*_facts))  # type: ignore[arg-type]


def _typed(kind: str) -> object:
    def build(source: Source) -> Expected:
        affine = affine_of((1, 2, 0), (True, False, True))
        change = (
            to_byte
            if kind == "u1"
            else (lambda v: v // 20)
            if kind == "i1"
            else (lambda v: v + 1000 * (kind[0] == "u"))
        )
        head = header(SHAPE, kind, sform=affine, qform=affine)
        write(source, "a.nii.gz", head, body(voxels_of(affine, change), kind))
        return accepted(with_points(truth(affine), change))

    return build


for _kind in ("u1", "i2", "i4", "f4", "f8", "u2", "u4", "i8"):
    case_of("nifti", f"type {_kind}", f"voxels of type {_kind}", _typed(_kind))  # type: ignore[arg-type]


@case("int16 with slope and intercept")
def scaled(source: Source) -> Expected:
    affine = affine_of()
    head = header(SHAPE, sform=affine, qform=affine, scale=(0.5, -1024.0))
    write(source, "a.nii.gz", head, body((voxels_of(affine) + 1024) * 2))
    return accepted(truth(affine))


@case("slope 0: no scaling (nifti1.h)")
def slope_zero(source: Source) -> Expected:
    affine = affine_of()
    head = header(SHAPE, sform=affine, qform=affine, scale=(0.0, 77.0))
    write(source, "a.nii.gz", head, body(voxels_of(affine)))
    return accepted(truth(affine))


@case("slope not a number")
def slope_nan(source: Source) -> Expected:
    affine = affine_of()
    head = header(SHAPE, sform=affine, qform=affine, scale=(float("nan"), float("nan")))
    write(source, "a.nii.gz", head, body(voxels_of(affine)))
    return either(truth(affine))


@case("complex voxels")
def complex_voxels(source: Source) -> Expected:
    affine = affine_of()
    write(source, "a.nii.gz", header(SHAPE, "c8", sform=affine), body(voxels_of(affine), "c8"))
    return refused("unsupported.*|.*type.*|.*complex.*", truth=())


@case("RGB voxels")
def rgb_voxels(source: Source) -> Expected:
    affine = affine_of()
    data = np.repeat(to_byte(voxels_of(affine)).ravel(order="F"), 3).tobytes()
    write(source, "a.nii.gz", header(SHAPE, "rgb", sform=affine), data)
    assert CODES
    return either(with_points(truth(affine), to_byte))


@case("NIfTI-2")
def version_2(source: Source) -> Expected:
    affine = oblique()
    write(source, "a.nii.gz", header2(SHAPE, sform=affine), body(voxels_of(affine)))
    return accepted(truth(affine))


@case("big endian")
def big_endian(source: Source) -> Expected:
    affine = oblique()
    head = header(SHAPE, sform=affine, qform=affine, order=">")
    write(source, "a.nii", head, body(voxels_of(affine), order=">"))
    return accepted(truth(affine))


@case("a pair of .hdr and .img")
def pair(source: Source) -> Expected:
    affine = oblique()
    head = header(SHAPE, sform=affine, qform=affine, magic=b"ni1\0", offset=0)
    source.bytes("a.hdr", head + bytes(4))
    source.bytes("a.img", body(voxels_of(affine)))
    return accepted(truth(affine))


@case("a pair of .hdr.gz and .img.gz")
def pair_gz(source: Source) -> Expected:
    affine = oblique()
    head = header(SHAPE, sform=affine, qform=affine, magic=b"ni1\0", offset=0)
    source.bytes("a.hdr.gz", gzip.compress(head + bytes(4)))
    source.bytes("a.img.gz", gzip.compress(body(voxels_of(affine))))
    return either(truth(affine))


@case("an .hdr without its .img")
def half_pair(source: Source) -> Expected:
    head = header(SHAPE, sform=oblique(), magic=b"ni1\0", offset=0)
    source.bytes("a.hdr", head + bytes(4))
    return Expected(refused=("?.*",), ignored=("?.*",))


@case("Analyze 7.5: no magic, the orientation is unknown")
def analyze(source: Source) -> Expected:
    affine = affine_of()
    head = header(SHAPE, magic=b"\0\0\0\0", offset=0)
    source.bytes("a.hdr", head)
    source.bytes("a.img", body(voxels_of(affine)))
    return Expected(refused=("?.*",), ignored=("?.*",))


@case("4D: time points last")
def four_dimensions(source: Source) -> Expected:
    affine = oblique()
    values = np.stack([voxels_of(affine, lambda v, t=t: v + t) for t in range(3)], axis=-1)
    head = header((*SHAPE, 3), sform=affine, qform=affine)
    write(source, "a.nii.gz", head, body(values))
    return accepted(with_points(truth(affine), lambda v: v + 1, component=1), check=_three_components)


def _three_components(home: object, report: object, kept: list) -> list[str]:
    found = [scan.voxels.shape[3] for scan in kept]
    return [] if found == [3] else [f"components {found}, expected one scan of three"]


@case("dimensions of 1 at the end")
def trailing_ones(source: Source) -> Expected:
    affine = oblique()
    head = header((*SHAPE, 1, 1), sform=affine, qform=affine)
    write(source, "a.nii.gz", head, body(voxels_of(affine)))
    return accepted(truth(affine))


@case("an extension with a name in it")
def extended(source: Source) -> Expected:
    affine = oblique()
    between = extension()
    head = header(SHAPE, sform=affine, qform=affine, offset=348 + len(between))
    write(source, "a.nii.gz", head, body(voxels_of(affine)), between=between)
    return accepted(truth(affine))


@case("not a number and infinity in some voxels")
def not_finite(source: Source) -> Expected:
    affine = affine_of()
    values = voxels_of(affine).astype("f4")
    values[0, 0, 0], values[1, 0, 0], values[2, 0, 0] = np.nan, np.inf, -np.inf
    write(source, "a.nii.gz", header(SHAPE, "f4", sform=affine, qform=affine), body(values, "f4"))
    return either(only_changed(truth(affine), values=None), check=_finite, findings=".*finite.*|.*nan.*")


def _finite(home: object, report: object, kept: list) -> list[str]:
    return [] if all(np.isfinite(scan.voxels).all() for scan in kept) else ["voxels that are not finite were kept"]


BROKEN = {
    "sform singular": {"sform": np.diag([2.0, 2.0, 0.0, 1.0])},
    "sform not a number": {"sform": np.full((4, 4), np.nan)},
    "sform all zero": {"sform": np.zeros((4, 4))},
    "quaternion longer than one": {"quaternion": (0.9, 0.9, 0.9), "codes": (0, 1)},
    "voxel size zero": {"pixdim": (1.0, 0.0, 0.0, 0.0, 1, 1, 1, 1), "codes": (0, 1)},
    "dim[0] is 9": {"dim0": 9},
    "dim[0] negative": {"dim0": -3},
    "magic damaged": {"magic": b"x+1\0"},
    "voxels begin behind the end": {"offset": 1e9},
    "voxels begin inside the header": {"offset": 100.0},
}


def _broken(options: dict[str, object]) -> object:
    def build(source: Source) -> Expected:
        affine = affine_of()
        arguments = {"sform": None if "codes" in options else affine, "qform": affine} | options
        write(source, "bad.nii.gz", header(SHAPE, **arguments), body(voxels_of(affine)))  # type: ignore[arg-type]
        write(source, "good.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine) + 1))
        good = with_points(truth(affine), lambda v: v + 1)
        # With a second form that is sound, taking that one is right too.
        return accepted(good, maybe=truth(affine), check=_warned)

    return build


def _warned(home: object, report: object, kept: list) -> list[str]:
    told = [o for o in report.outcomes if o.outcome == "refused" or o.findings]  # type: ignore[attr-defined]
    return [] if told else ["nothing was refused and nothing warned of"]


for _name, _options in BROKEN.items():
    case_of("nifti", f"broken {_name}", _name, _broken(_options))


def _damaged(change: object) -> object:
    def build(source: Source) -> Expected:
        affine = affine_of()
        raw = gzip.compress(header(SHAPE, sform=affine, qform=affine) + bytes(4) + body(voxels_of(affine)))
        source.bytes("bad.nii.gz", change(raw))  # type: ignore[operator]
        write(source, "good.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine) + 1))
        return accepted(with_points(truth(affine), lambda v: v + 1), refused=".*")

    return build


DAMAGES = {
    "cut short": lambda raw: raw[: len(raw) // 2],
    "checksum wrong": lambda raw: raw[:-8] + b"\1\2\3\4" + raw[-4:],
    "bytes overwritten": lambda raw: raw[: len(raw) // 2] + bytes(40) + raw[len(raw) // 2 + 40 :],
    "no gzip at all": lambda raw: b"Quetzalberg" * 100,
    "empty": lambda raw: b"",
    "eight bytes": lambda raw: raw[:8],
}
for _name, _change in DAMAGES.items():
    case_of("nifti", f"gzip {_name}", f"gzip: {_name}", _damaged(_change))


@case("gzip of two members: read to the end")
def gzip_members(source: Source) -> Expected:
    affine = affine_of()
    raw = header(SHAPE, sform=affine, qform=affine) + bytes(4) + body(voxels_of(affine))
    source.bytes("a.nii.gz", gzip.compress(raw[:3000]) + gzip.compress(raw[3000:]))
    return either(truth(affine))


@case("a plain file named .nii.gz and a gzipped one named .nii")
def gzip_names_lie(source: Source) -> Expected:
    affine = affine_of()
    raw = header(SHAPE, sform=affine, qform=affine) + bytes(4) + body(voxels_of(affine))
    source.bytes("plain.nii.gz", raw)
    source.bytes("zipped.nii", gzip.compress(raw[:352] + body(voxels_of(affine) + 1)))
    return either(truth(affine), with_points(truth(affine), lambda v: v + 1))


@case("a bomb: 30,000 x 30,000 x 2,000 voxels declared, and zeros that inflate to 300 MB")
def bomb(source: Source) -> Expected:
    affine = affine_of()
    squeezed = gzip.compress(bytes(1 << 20), 9)
    source.bytes("a.nii.gz", gzip.compress(header((30000, 30000, 2000), sform=affine)) + squeezed)
    # Each member inflates 1,000 to 1; together they are 300 MB of one value.
    zeros = gzip.compress(header((640, 640, 380), sform=affine) + bytes(4), 9) + squeezed * 297
    source.bytes("b.nii.gz", zeros)
    return refused("too_large|compression_bomb|truncated|damaged.*")


@case("an affine with shear: no orthogonal grid")
def shear(source: Source) -> Expected:
    affine = affine_of()
    affine[0, 2] = 1.2
    write(source, "a.nii.gz", header(SHAPE, sform=affine, codes=(1, 0)), body(voxels_of(affine)))
    return either(truth(affine))


@case("one slice: a picture in NIfTI")
def one_slice(source: Source) -> Expected:
    affine = affine_of()
    raw = header((16, 18), sform=affine, qform=affine)
    values = voxels_of(affine)[:, :, 6:7]
    write(source, "a.nii.gz", raw, body(values))
    return either(only_changed(truth(affine), values=None, points={}))


@case("truncated without compression")
def truncated(source: Source) -> Expected:
    affine = affine_of()
    source.bytes("a.nii", header(SHAPE, sform=affine) + bytes(4) + body(voxels_of(affine))[:-500])
    return refused("truncated|damaged.*")


@case("qfac negative: a left-handed grid")
def left_handed(source: Source) -> Expected:
    affine = affine_of((0, 1, 2), (True, False, False))
    write(source, "a.nii.gz", header(SHAPE, qform=affine), body(voxels_of(affine)))
    return accepted(truth(affine))


@case("qfac 0 counts as 1 (nifti1.h)")
def qfac_zero(source: Source) -> Expected:
    affine = affine_of()
    raw = header(SHAPE, qform=affine)
    write(source, "a.nii.gz", raw[:76] + struct.pack("<f", 0.0) + raw[80:], body(voxels_of(affine)))
    return accepted(truth(affine))
