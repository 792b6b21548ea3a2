"""Pieces of a series proved to be images on regular grids, stacked where the policies say so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medml.catalogue.axes import SEVERAL
from medml.catalogue.candidates import warning
from medml.catalogue.policies import Policies
from medml.catalogue.positions import POSITION_MM, Proof, prove_positions, stride_of
from medml.catalogue.stacks import Mark, Piece
from medml.errors import GeometryError, Refusal
from medml.io.deskew import Kind
from medml.io.dicom import Header, check_format, check_rescale, check_size, decoder_missing, has_geometry
from medml.io.dicom_kinds import flat_spacing
from medml.io.nifti_header import MAX_COMPONENTS
from medml.records.scan import Finding

_VOLUME_MODALITIES = ("CT", "MR", "PT")
# Volumes of one series that differ in these are seen as images of one case.
_ONE_CASE = ("image_types", "echoes", "contrasts", "b_values")

Copies = Mapping[tuple[str, int, tuple[int, ...]], Sequence[Header]]


@dataclass(frozen=True, slots=True, eq=False)
class ProvedSeries:
    """Slices that form one regular grid, or one flat image.

    Attributes
    ----------
    headers : tuple of Header
        In the order of the slices along +normal, component by component; what `medml.io.dicom.read_series` takes.
    members : tuple of Header
        All that it accounts for, exact copies included.
    findings : tuple of Finding
    key : str
        What makes it this part of its series, stable across runs; empty if it is the whole.
    name : str
        The same for people: "echo2".
    group : str
        The part of ``key`` that parts of one case have in common: echoes, b-values and image types have one group.
    components : tuple of str
        Names of the stacked images; empty for one.
    repair : "gantry_tilt", "variable_spacing" or None
        What `read_series` must mend.
    """

    headers: tuple[Header, ...]
    members: tuple[Header, ...]
    findings: tuple[Finding, ...]
    key: str = ""
    name: str = ""
    group: str = ""
    components: tuple[str, ...] = ()
    repair: Kind | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RefusedSeries:
    """A series or a part of one that cannot be used, and why; ``not_an_image`` is to be counted as ignored."""

    members: tuple[Header, ...]
    refusal: Refusal
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A piece and its proof; without one it is refused."""

    piece: Piece
    proof: Proof | None = None


def prove_piece(piece: Piece, policies: Policies) -> Part:
    """Prove one volume, or one flat image, without the pixels."""
    if piece.refusal is not None:
        return Part(piece)
    headers = piece.headers
    try:
        if len(headers) == 1 and is_flat(headers[0]):
            proof = Proof(list(headers), _flat_findings(headers[0]))
        else:
            if headers[0].samples > 1 and len(headers) > 1:
                raise Refusal(
                    "colour_series", f"{count_files(headers)} in colour; expected grey slices, or one colour picture"
                )
            proof = prove_positions(headers, policies)
        check_format(proof.headers)
        check_rescale(proof.headers)
        check_size(proof.headers)
        _refuse_syntaxes(proof.headers)
    except Refusal as refusal:
        return Part(replace(piece, refusal=refusal))
    proof.findings.extend(_skipped_numbers(piece, proof))
    return Part(piece, proof)


def _skipped_numbers(piece: Piece, proof: Proof) -> list[Finding]:
    """Say that the numbers of the slices of a whole series go in steps: what lies between may be elsewhere."""
    step = stride_of(proof.headers)
    if step < 2 or piece.marks:
        return []
    message = f"the InstanceNumbers of neighbouring slices are {step} apart; images between them are not here"
    return [warning("numbers_skipped", message, "check that no slices are missing", step=float(step))]


def stacked(parts: Sequence[Part]) -> list[tuple[Part, ...]]:
    """Put parts together that the policies stack: those that differ in nothing else."""
    stacks: dict[tuple[str, ...], list[Part]] = defaultdict(list)
    for index, part in enumerate(parts):
        marks = part.piece.marks
        alone = all(mark.policy != "stack" for mark in marks)
        apart = tuple(mark.key for mark in marks if mark.policy != "stack")
        stacks[(str(index),) if alone else ("stack", *apart)].append(part)
    return [tuple(stack) for stack in stacks.values()]


def _require_stack(stack: Sequence[Part]) -> None:
    """Refuse a stack of volumes of which one is refused, or that do not stand on one grid."""
    for part in stack:
        if part.piece.refusal is not None:
            raise part.piece.refusal
    proofs = [part.proof for part in stack if part.proof is not None]
    points = [np.array([header.position for header in proof.headers]) for proof in proofs]
    same = all(p.shape == points[0].shape and np.abs(p - points[0]).max() <= POSITION_MM for p in points)
    if not same or len({proof.repair for proof in proofs}) > 1:
        raise GeometryError(
            SEVERAL,
            f"{len(stack)} volumes of one series stand at different positions and cannot be stacked; "
            "set the policy to split",
        )
    if len(stack) > MAX_COMPONENTS:
        raise Refusal(
            "too_many_components",
            f"{len(stack)} volumes to stack, expected at most {MAX_COMPONENTS}; set the policy to split",
        )
    check_format([header for proof in proofs for header in proof.headers])


def outcome_of_stack(stack: Sequence[Part], copies: Copies) -> ProvedSeries | RefusedSeries:
    """Return the scan, or the refusal, that a part or a stack of parts becomes."""
    images = [header for part in stack for header in (*part.piece.headers, *part.piece.repeats)]
    members = tuple(same for header in images for same in copies[header.key])
    first = stack[0]
    marks = [mark for mark in first.piece.marks if len(stack) == 1 or mark.policy != "stack"]
    name = "_".join(mark.name for mark in marks)
    try:
        if len(stack) > 1:
            _require_stack(stack)
        if first.piece.refusal is not None:
            raise first.piece.refusal
    except Refusal as refusal:
        return RefusedSeries(members, refusal, name)
    proofs = [part.proof for part in stack if part.proof is not None]
    repeats = sum(len(part.piece.repeats) for part in stack)
    findings = [finding for proof in proofs[:1] for finding in proof.findings]
    if repeats:
        message = f"{repeats} images have the pixels of another at the same place and were left out"
        numbers = {"repeats": float(repeats)}
        findings.append(warning("duplicate_positions", message, "remove the repeats at the source", **numbers))
    findings += [_mark_finding(mark, len(stack)) for mark in first.piece.marks]
    components = tuple("_".join(m.name for m in part.piece.marks if m.policy == "stack") for part in stack)
    return ProvedSeries(
        headers=tuple(header for proof in proofs for header in proof.headers),
        members=members,
        findings=tuple(findings),
        key="; ".join(mark.key for mark in marks),
        name=name,
        group="; ".join(mark.key for mark in marks if mark.axis.policy not in _ONE_CASE),
        components=components if len(stack) > 1 else (),
        repair=proofs[0].repair,
    )


def _mark_finding(mark: Mark, stacked: int) -> Finding:
    """Say that a scan is a part of its series, or a stack of parts."""
    done = f"{stacked} are stacked" if mark.policy == "stack" else f"this is {mark.name}"
    shown = f" ({mark.axis.noun} {mark.value.text})" if mark.axis.shown and mark.policy != "stack" else ""
    return warning(
        mark.axis.code,
        f"the series holds {mark.of} volumes that differ in the {mark.axis.noun}; {done}{shown}",
        "check that each is the image it is taken for",
        volumes=float(mark.of),
        index=float(mark.index + 1),
    )


def is_flat(header: Header) -> bool:
    """Say whether an image is not a slice: nothing places it, and its modality does not make volumes."""
    return header.modality not in _VOLUME_MODALITIES and not has_geometry(header)


def _flat_findings(header: Header) -> list[Finding]:
    return list(flat_spacing(header)[1])


def _refuse_syntaxes(headers: Sequence[Header]) -> None:
    for syntax in sorted({header.transfer_syntax for header in headers}):
        missing = decoder_missing(syntax)
        if missing:
            raise Refusal("no_decoder", missing)


def count_files(headers: Sequence[Header]) -> str:
    """Return how many there are, for a sentence."""
    return f"{len(headers)} file{'s' if len(headers) != 1 else ''}"
