"""What a person decided about a structured report: a new instance that verifies it, or says why it must not be used."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

MOST = 64  # characters of a DICOM LO, and of a component group of a PN
ORGANISATION = "medml"


def amended_report(
    report: Dataset,
    *,
    sop_uid: str,
    decided: datetime,
    accepted_by: str = "",
    rejected_because: str = "",
    predecessor: Dataset | None = None,
) -> Dataset:
    """Return a report with a person's decision in its status, as a new instance of its study and series.

    Accepted: complete, final and verified (PS3.3 C.17.2). Rejected: partial, preliminary and unverified; the reason
    stands in CompletionFlagDescription, and as a whole in a comment (DCM 121106) at the end of the content.

    Parameters
    ----------
    report : Dataset
        As the model wrote it, or as it was measured anew.
    decided : datetime
        When; stored in UTC.
    accepted_by : str
        The person who accepted it; empty if it was rejected.
    rejected_because : str
        The person's reason.
    predecessor : Dataset or None
        The instance that this one takes the place of; by default ``report`` itself.

    Raises
    ------
    ValueError
        Unless exactly one of person and reason is given.
    """
    if bool(accepted_by) == bool(rejected_because):
        raise ValueError("expected a person who accepted the report, or the reason it was rejected, and not both")
    before = report if predecessor is None else predecessor
    data = deepcopy(report)
    data.decode()  # texts in their source's character set, before it becomes another
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    data.InstanceNumber = int(before.get("InstanceNumber") or 1) + 1
    moment = decided.astimezone(UTC)
    data.ContentDate = data.InstanceCreationDate = moment.strftime("%Y%m%d")
    data.ContentTime = data.InstanceCreationTime = moment.strftime("%H%M%S")
    data.TimezoneOffsetFromUTC = "+0000"
    data.PredecessorDocumentsSequence = _reference(before)
    data.CompletionFlag = "COMPLETE" if accepted_by else "PARTIAL"
    data.VerificationFlag = "VERIFIED" if accepted_by else "UNVERIFIED"
    data.PreliminaryFlag = "FINAL" if accepted_by else "PRELIMINARY"
    for name in ("CompletionFlagDescription", "VerifyingObserverSequence"):
        if name in data:
            delattr(data, name)
    if accepted_by:
        data.VerifyingObserverSequence = Sequence([_observer(accepted_by, moment)])
    else:
        data.CompletionFlagDescription = _plain(f"Rejected: {rejected_because}")[:MOST]
        data.ContentSequence.append(_comment(f"Rejected in review: {rejected_because}"))
    return data


def read_report(path: Path) -> Dataset:
    """Read a report that was written before."""
    return pydicom.dcmread(path)


def person_name(text: str) -> str:
    """Return a name as a DICOM PN holds one: without its separators of values and of alphabets."""
    return _plain(text).replace("=", " ")[:MOST]


def _reference(before: Dataset) -> Sequence:
    instance = Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = before.SOPClassUID, before.SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID = before.SeriesInstanceUID
    series.ReferencedSOPSequence = Sequence([instance])
    study = Dataset()
    study.StudyInstanceUID = before.StudyInstanceUID
    study.ReferencedSeriesSequence = Sequence([series])
    return Sequence([study])


def _observer(person: str, moment: datetime) -> Dataset:
    item = Dataset()
    item.VerifyingObserverName = person_name(person)
    item.VerifyingOrganization = ORGANISATION
    item.VerificationDateTime = moment.strftime("%Y%m%d%H%M%S+0000")
    item.VerifyingObserverIdentificationCodeSequence = Sequence([])
    return item


def _comment(text: str) -> Dataset:
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121106", "DCM", "Comment"
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence = Sequence([name])
    item.TextValue = text
    return item


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text).strip()
