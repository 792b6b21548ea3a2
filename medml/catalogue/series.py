"""From loose headers to series, and the proof that a series is one regular grid.

Nothing is split, repaired or dropped here: a series is proved as it is, or refused with what was found. The arithmetic
on slice positions is in `positions`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medml.catalogue.positions import prove_positions
from medml.errors import GeometryError, Refusal
from medml.io.dicom import Header, check_format, check_size, check_values, decoder_missing, has_geometry
from medml.io.dicom_pixels import printable
from medml.io.files import sha256_file
from medml.records.scan import Finding

MAX_FILES = 20_000

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SECONDARY_CAPTURE = _STORAGE + "7"
_ULTRASOUND = (_STORAGE + "6.1", _STORAGE + "3.1", _STORAGE + "6.2", _STORAGE + "6", _STORAGE + "3")
# Storage classes that hold no picture of a patient, or one that is an annotation: their UIDs begin so.
_OTHER_OBJECTS = {
    _STORAGE + "66": "segmentation, registration or raw data",
    _STORAGE + "67": "real world value mapping",
    _STORAGE + "68": "surface scan or content assessment",
    _STORAGE + "88": "structured report",
    _STORAGE + "11": "presentation state",
    _STORAGE + "9": "waveform",
    _STORAGE + "104": "encapsulated document",
    _STORAGE + "30": "parametric map",
    _STORAGE + "481.2": "radiotherapy dose",
    _STORAGE + "481.3": "radiotherapy structure set",
    _STORAGE + "481.4": "radiotherapy record",
    _STORAGE + "481.5": "radiotherapy plan",
    _STORAGE + "481.6": "radiotherapy record",
    _STORAGE + "481.7": "radiotherapy record",
    _STORAGE + "481.8": "radiotherapy plan",
    _STORAGE + "481.9": "radiotherapy record",
    _STORAGE + "78": "lens or refraction measurement",
    _STORAGE + "79": "measurement report",
    "1.2.840.10008.1.3.10": "directory of media (DICOMDIR)",
}
_VOLUME_MODALITIES = ("CT", "MR", "PT")


@dataclass(frozen=True, slots=True, eq=False)
class ProvedSeries:
    """Slices that form one regular grid, or one flat image.

    Attributes
    ----------
    headers : tuple of Header
        In the order of the slices along +normal; what `medml.io.dicom.read_series` takes.
    files : int
        How many files it accounts for, exact copies included.
    findings : tuple of Finding
    """

    headers: tuple[Header, ...]
    files: int
    findings: tuple[Finding, ...]


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
        elif _is_flat(header):
            key = ("flat", header.series_uid, header.sop_uid)
        else:
            key = ("series", header.series_uid)
        groups[key].append(header)
    return [tuple(group) for group in groups.values()]


def is_image(header: Header) -> bool:
    """Say whether a header is that of a picture of a patient, not of a report, plan, segmentation or the like."""
    return not _object_name(header) and header.rows > 0 and header.columns > 0


def patient_of(header: Header) -> tuple[str, str]:
    """Return issuer and id of the patient; a study without a PatientID is a patient of its own."""
    return (header.issuer, header.patient_id) if header.patient_id else ("study", header.study_uid)


def prove_series(headers: Sequence[Header]) -> ProvedSeries:
    """Prove that the headers of one group (see `group_series`) are one image on one regular grid.

    Raises
    ------
    Refusal
        With the code ``not_an_image`` if it is no image (to be counted as ignored); else if it cannot be used.
    GeometryError
        If its slices do not form one regular grid.
    """
    _refuse_objects(headers)
    _refuse_identity(headers)
    unique, findings = _without_copies(headers)
    _refuse_kinds(unique)
    check_values(unique)
    findings += _kind_findings(unique)
    if len(unique) == 1 and _is_flat(unique[0]):
        ordered = list(unique)
        findings += _flat_findings(unique[0])
    else:
        _refuse_mixtures(unique)
        ordered, more = prove_positions(unique)
        findings += more
    check_format(ordered)
    check_size(ordered)
    _refuse_syntaxes(ordered)
    return ProvedSeries(tuple(ordered), len(headers), tuple(findings))


def _object_name(header: Header) -> str:
    """Return what kind of object a header is of, empty for an image."""
    parts = header.sop_class.split(".")
    for length in range(len(parts), 6, -1):
        name = _OTHER_OBJECTS.get(".".join(parts[:length]))
        if name:
            return name
    return ""


def _is_flat(header: Header) -> bool:
    """Say whether an image is not a slice: nothing places it, and its modality does not make volumes."""
    return header.modality not in _VOLUME_MODALITIES and not has_geometry(header)


def _refuse_objects(headers: Sequence[Header]) -> None:
    others = [header for header in headers if not is_image(header)]
    if others:
        name = _object_name(others[0]) or "object without rows and columns"
        raise Refusal("not_an_image", f"{_files(others)}: {name}, no image of a patient")


def _refuse_identity(headers: Sequence[Header]) -> None:
    lost = sum(not (header.series_uid and header.study_uid and header.sop_uid) for header in headers)
    if lost:
        raise Refusal(
            "missing_uid",
            f"{lost} of {_files(headers)} lack the study, series or SOP instance UID; which images belong together "
            "is unknown, export them again",
        )
    owners = {(*patient_of(header), header.study_uid) for header in headers}
    if len(owners) > 1:
        patients = len({patient_of(header) for header in headers})
        raise Refusal(
            "uid_conflict",
            f"{_files(headers)} share one series UID but name {patients} patients and {len(owners)} studies, expected "
            "one of each; the UIDs were not made unique, anonymise the source again",
        )
    if len(headers) > MAX_FILES:
        raise Refusal("too_many_files", f"{len(headers)} files in one series, expected at most {MAX_FILES}")


def _without_copies(headers: Sequence[Header]) -> tuple[list[Header], list[Finding]]:
    """Keep one of files that are byte for byte the same; one UID with different content is refused."""
    by_uid: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        by_uid[header.sop_uid].append(header)
    for same in by_uid.values():
        if len(same) > 1 and len({(header.size, sha256_file(header.path)) for header in same}) > 1:
            raise Refusal(
                "conflicting_duplicates",
                f"{_files(same)} have one SOP instance UID but different content, expected exact copies; "
                "keep the right one",
            )
    copies = len(headers) - len(by_uid)
    unique = [min(same, key=lambda header: str(header.path)) for same in by_uid.values()]
    if not copies:
        return unique, []
    message = f"{copies} of {_files(headers)} are exact copies of others and were taken once"
    finding = Finding(code="duplicate_files", severity="warning", message=message, numbers={"copies": float(copies)})
    return unique, [finding]


def _refuse_kinds(headers: Sequence[Header]) -> None:
    """Refuse images that may show the patient's name, and kinds that are no volume whatever their geometry."""
    for header in headers:
        if header.burned_in == "YES":
            raise Refusal("burned_in_annotation", "the pixels are marked as showing text (BurnedInAnnotation YES)")
        if _is_class(header, _SECONDARY_CAPTURE) or header.conversion_type == "WSD":
            raise Refusal("secondary_capture", "a secondary capture (screen shot), which may show the patient's name")
        if header.sop_class in _ULTRASOUND and header.burned_in != "NO":
            raise Refusal(
                "burned_in_annotation",
                "ultrasound, which often shows the patient's name, and BurnedInAnnotation is not NO",
            )
    for word, code, advice in (
        ("LOCALIZER", "localizer", "a scout view, no volume"),
        ("MOSAIC", "mosaic", "slices tiled into one picture; convert it with dcm2niix first"),
    ):
        count = sum(word in header.image_type for header in headers)
        if count:
            raise Refusal(code, f"{count} of {_files(headers)} are of the image type {word}: {advice}")


def _is_class(header: Header, uid: str) -> bool:
    return header.sop_class == uid or header.sop_class.startswith(uid + ".")


def _kind_findings(headers: Sequence[Header]) -> list[Finding]:
    findings = []
    derived = sum("DERIVED" in header.image_type or "SECONDARY" in header.image_type for header in headers)
    if derived:
        findings.append(
            Finding(
                code="derived_image",
                severity="warning",
                message=f"{derived} of {_files(headers)} are marked as derived or secondary",
                numbers={"files": float(derived)},
                advice="check that it is an image of the patient and not a computed map",
            )
        )
    if not headers[0].patient_id:
        message = "there is no PatientID: the study counts as a patient of its own"
        findings.append(Finding(code="no_patient_id", severity="warning", message=message))
    return findings


def _flat_findings(header: Header) -> list[Finding]:
    if header.pixel_spacing is not None:
        return []
    return [Finding(code="no_spacing", severity="info", message="no PixelSpacing: nothing is given in mm")]


def _refuse_mixtures(headers: Sequence[Header]) -> None:
    """Refuse series whose slices differ in what one image has only one of."""
    _one_only(headers, "mixed_modality", "modality", [printable(header.modality) for header in headers])
    _one_only(headers, "mixed_matrix", "matrix", [f"{header.columns} x {header.rows}" for header in headers])
    _one_only(headers, "mixed_frame_of_reference", "frame of reference", [header.frame_uid for header in headers], 0)
    if headers[0].samples > 1 and len(headers) > 1:
        raise Refusal("colour_series", f"{_files(headers)} in colour; expected grey slices, or one colour picture")


def _one_only(headers: Sequence[Header], code: str, name: str, values: list[str], shown: int = 3) -> None:
    counts = Counter(values)
    if len(counts) == 1:
        return
    listed = ", ".join(f"{value or 'none'} in {count}" for value, count in counts.most_common(shown))
    raise GeometryError(
        code,
        f"{len(counts)} values of the {name} in {_files(headers)}{f' ({listed})' if listed else ''}, expected one; "
        "several images are mixed in one series",
    )


def _refuse_syntaxes(headers: Sequence[Header]) -> None:
    for syntax in sorted({header.transfer_syntax for header in headers}):
        missing = decoder_missing(syntax)
        if missing:
            raise Refusal("no_decoder", missing)


def _files(headers: Sequence[Header]) -> str:
    return f"{len(headers)} file{'s' if len(headers) != 1 else ''}"
