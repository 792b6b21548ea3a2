"""DICOM waveforms as candidates: catalogued as scans that are no images, which datasets of images leave out."""

from __future__ import annotations

from functools import partial

from medml.catalogue.columns import keep_columns
from medml.catalogue.series import patient_of
from medml.catalogue.tree import Tree, outcome_of, printable
from medml.io.dicom import Header, columns_of
from medml.io.waveform import modality_of, read_waveform
from medml.records.candidate import Candidate, Reading
from medml.records.scan import Column, Outcome


def waveform_candidate(tree: Tree, relative: str, header: Header) -> Candidate | Outcome:
    """Return the candidate of one waveform object, or its refusal."""
    files = tree.take([relative])
    source = printable(relative)
    if not (header.series_uid and header.study_uid and header.sop_uid):
        reason = "a waveform without study, series or SOP instance UID; export it again"
        return outcome_of(source, "refused", "missing_uid", reason, files=files)
    owner = patient_of(header)
    modality = modality_of(header)
    return Candidate(
        source=source,
        files=files,
        identity="\n".join((*owner, header.study_uid, header.series_uid, header.sop_uid)),
        stamp=tree.stamp([header.path], tree.collection),
        read=partial(_read, header),
        patient=owner,
        study=header.study_uid,
        group=f"{header.series_uid} {header.sop_uid}",
        channel_names=(modality,),
        modality=modality,
        columns=keep_columns(columns_of(header)),
        origin="dicom",
        locator={
            "kind": "waveform",
            "study_uid": header.study_uid,
            "series_uid": header.series_uid,
            "files": [str(header.path)],
            "sop_uids": [header.sop_uid],
        },
        seen=((str(header.path), header.size, header.changed),),
    )


def _read(header: Header) -> Reading:
    waveform = read_waveform(header)
    columns: dict[str, Column] = {"sampling_hz": waveform.sampling_hz}
    if waveform.leads:
        columns["leads"] = " ".join(waveform.leads)
    return Reading(waveform.volume, waveform.grid, waveform.findings, columns=columns)
