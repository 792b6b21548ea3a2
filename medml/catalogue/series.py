"""From loose headers to series, and the proof that each part of a series is one image on one regular grid.

A series becomes one scan, several (its echoes, time points, stacks), one with several components, or refusals: as the
policies of the ingest configuration say. `stacks` divides it; the arithmetic on slice positions is in `positions`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, partial

from medml.catalogue.candidates import warning
from medml.catalogue.mending import split_at_gaps, without_repeats
from medml.catalogue.parts import (
    Copies,
    ProvedSeries,
    RefusedSeries,
    count_files,
    is_flat,
    outcome_of_stack,
    prove_piece,
    stacked,
)
from medml.catalogue.policies import DEFAULT, Policies
from medml.catalogue.quarantine import Released, refuse_risky
from medml.catalogue.stacks import Piece, divide, each
from medml.errors import Refusal
from medml.io.dicom import Header, check_values
from medml.io.dicom_kinds import is_image, kind_findings, object_name
from medml.io.files import sha256_file
from medml.records.scan import Finding

MAX_FILES = 20_000


def group_series(headers: Iterable[Header]) -> list[tuple[Header, ...]]:
    """Sort headers into series, by SeriesInstanceUID; flat images (radiographs, photographs) stand alone.

    One UID used for several patients or studies stays one group, which `prove_series` refuses: taken apart, nobody
    could say whose the images are. Objects that are no images, and headers without a UID, form groups of their own.
    """
    groups: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for header in headers:
        if not is_image(header):
            key: tuple[str, ...] = ("object", header.sop_class, header.series_uid or str(header.path))
        elif not header.series_uid:
            key = ("lost", str(header.path.parent))
        elif is_flat(header):
            key = ("flat", header.series_uid, header.sop_uid, str(header.frame))
        else:
            key = ("series", header.series_uid)
        groups[key].append(header)
    return [tuple(group) for group in groups.values()]


def patient_of(header: Header) -> tuple[str, str]:
    """Return issuer and id of the patient; a study without a PatientID is a patient of its own."""
    return (header.issuer, header.patient_id) if header.patient_id else ("study", header.study_uid)


def prove_series(
    headers: Sequence[Header], policies: Policies = DEFAULT, released: Released | None = None
) -> tuple[ProvedSeries | RefusedSeries, ...]:
    """Prove that the headers of one group (see `group_series`) are images on regular grids, part by part.

    Parameters
    ----------
    headers : sequence of Header
        One per frame.
    policies : Policies
        What to do with series that are not one image on one regular grid.
    released : callable
        Says whether a person has released a file whose pixels may show a name.

    Returns
    -------
    tuple of ProvedSeries and RefusedSeries
        Every header is a member of exactly one.
    """
    try:
        _refuse_objects(headers)
        _refuse_identity(headers)
        unique, copies = _without_copies(headers)
    except Refusal as refusal:
        return (RefusedSeries(tuple(headers), refusal),)
    pieces = each(_by_kind(unique, policies, released), partial(_volumes, policies=policies))
    parts = [outcome_of_stack(stack, copies) for stack in stacked([prove_piece(piece, policies) for piece in pieces])]
    shared = _copy_findings(headers, unique) + _kind_findings(unique)
    return tuple(_with_rest(part, parts, shared) for part in parts)


def _refuse_objects(headers: Sequence[Header]) -> None:
    others = [header for header in headers if not is_image(header)]
    if others:
        name = object_name(others[0]) or "object without rows and columns"
        raise Refusal("not_an_image", f"{count_files(others)}: {name}, no image of a patient")


def _refuse_identity(headers: Sequence[Header]) -> None:
    lost = sum(not (header.series_uid and header.study_uid and header.sop_uid) for header in headers)
    if lost:
        raise Refusal(
            "missing_uid",
            f"{lost} of {count_files(headers)} lack the study, series or SOP instance UID; which images belong "
            "together is unknown, export them again",
        )
    owners = {(*patient_of(header), header.study_uid) for header in headers}
    if len(owners) > 1:
        patients = len({patient_of(header) for header in headers})
        raise Refusal(
            "uid_conflict",
            f"{count_files(headers)} share one series UID but name {patients} patients and {len(owners)} studies, "
            "expected one of each; the UIDs were not made unique, anonymise the source again",
        )
    if len(headers) > MAX_FILES:
        raise Refusal("too_many_files", f"{len(headers)} files in one series, expected at most {MAX_FILES}")


def _without_copies(headers: Sequence[Header]) -> tuple[list[Header], Copies]:
    """Keep one of files that are byte for byte the same; one UID with different content is refused.

    The images come in an order that does not depend on the files'.
    """
    by_uid: dict[tuple[str, int, tuple[int, ...]], list[Header]] = defaultdict(list)
    for header in headers:
        by_uid[header.key].append(header)
    digest = cache(sha256_file)  # once a file, however many frames it has
    for same in by_uid.values():
        if len(same) > 1 and len({(header.size, digest(header.path)) for header in same}) > 1:
            raise Refusal(
                "conflicting_duplicates",
                f"{count_files(same)} have one SOP instance UID but different content, expected exact copies; "
                "keep the right one",
            )
    unique = [min(same, key=lambda header: str(header.path)) for _, same in sorted(by_uid.items())]
    return unique, by_uid


def _copy_findings(headers: Sequence[Header], unique: Sequence[Header]) -> list[Finding]:
    copies = len(headers) - len(unique)
    if not copies:
        return []
    message = f"{copies} of {count_files(headers)} are exact copies of others and were taken once"
    return [Finding(code="duplicate_files", severity="warning", message=message, numbers={"copies": float(copies)})]


def _by_kind(headers: Sequence[Header], policies: Policies, released: Released | None) -> list[Piece]:
    """Set aside the images that are no slices of a volume, or may show a name; the others are one piece."""
    kinds: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        try:
            _refuse_kinds([header], policies, released)
            kinds[""].append(header)
        except Refusal as refusal:
            kinds[refusal.code].append(header)
    checked = partial(_kind_checked, policies=policies, released=released)
    return each((Piece(tuple(group)) for _, group in sorted(kinds.items())), checked)


def _kind_checked(piece: Piece, policies: Policies, released: Released | None) -> list[Piece]:
    _refuse_kinds(piece.headers, policies, released)
    check_values(piece.headers)
    return [piece]


def _volumes(piece: Piece, policies: Policies) -> list[Piece]:
    """Divide a piece into volumes, and these at their gaps."""
    if len(piece.headers) == 1 and is_flat(piece.headers[0]):
        return [piece]
    divided = each(divide(piece.headers, policies), partial(without_repeats, policies=policies))
    return each(divided, partial(split_at_gaps, policies=policies))


def _refuse_kinds(headers: Sequence[Header], policies: Policies, released: Released | None) -> None:
    """Refuse images that may show the patient's name, and kinds that are no volume whatever their geometry."""
    refuse_risky(headers, released)
    scouts = sum("LOCALIZER" in header.image_type for header in headers)
    if scouts and policies.localizer == "refuse":
        raise Refusal(
            "localizer", f"{scouts} of {count_files(headers)} are of the image type LOCALIZER: a scout view, no volume"
        )
    mosaics = sum("MOSAIC" in header.image_type and header.tile is None for header in headers)
    if mosaics:
        raise Refusal("mosaic", f"{mosaics} of {count_files(headers)} are mosaics (slices tiled into one picture)")


def _kind_findings(headers: Sequence[Header]) -> list[Finding]:
    findings = []
    derived = sum("DERIVED" in header.image_type or "SECONDARY" in header.image_type for header in headers)
    if derived:
        findings.append(
            Finding(
                code="derived_image",
                severity="warning",
                message=f"{derived} of {count_files(headers)} marked as derived or secondary",
                numbers={"files": float(derived)},
                advice="check that it is an image of the patient and not a computed map",
            )
        )
    if not headers[0].patient_id:
        message = "there is no PatientID: the study counts as a patient of its own"
        findings.append(Finding(code="no_patient_id", severity="warning", message=message))
    return [*findings, *kind_findings(headers)]


def _with_rest(
    part: ProvedSeries | RefusedSeries, parts: Sequence[ProvedSeries | RefusedSeries], shared: Sequence[Finding]
) -> ProvedSeries | RefusedSeries:
    """Give an accepted part what is found about its series, and what of it was refused."""
    if isinstance(part, RefusedSeries):
        return part
    findings = [*shared, *part.findings]
    refused = [other for other in parts if isinstance(other, RefusedSeries)]
    if refused:
        count, total = (sum(len(other.members) for other in group) for group in (refused, parts))
        codes = ", ".join(sorted({other.refusal.code for other in refused}))
        findings.append(
            warning(
                "partial_series",
                f"{count} of {total} images of the series were refused ({codes})",
                "check that nothing needed is among them",
                refused=float(count),
                images=float(total),
            )
        )
    return replace(part, findings=tuple(findings))
