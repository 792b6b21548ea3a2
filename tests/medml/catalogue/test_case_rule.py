from __future__ import annotations

from pathlib import Path

import pytest
from dicom_phantoms import ROOT, tagged, write_series
from pydantic import ValidationError

from medml.catalogue.case_rule import ChannelRule
from medml.catalogue.config import IngestConfig
from medml.datasets.cases import gather_cases

MR = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}
RULE = IngestConfig(
    case_rule=(
        ChannelRule(name="t1", modality="MR", description="*t1*"),
        ChannelRule(name="flair", modality="MR", description="*flair*"),
    )
)


def series(folder: Path, study: int, number: int, description: str, **tags: str) -> None:
    uid = f"{ROOT}.{study}.{number}"
    edit = tagged(
        StudyInstanceUID=f"{ROOT}.{study}",
        SeriesInstanceUID=uid,
        PatientID=f"P{study}",
        SeriesDescription=description,
        RescaleIntercept=0,
        **MR,
        **tags,
    )

    def numbered(data, index) -> None:
        edit(data, index)
        data.SOPInstanceUID = f"{uid}.{index}"

    write_series(folder / f"{study}_{number}", edit=numbered)


def test_series_of_a_study_become_the_channels_of_a_case_and_a_missing_one_is_named(source, desk, make_masks) -> None:
    series(source.root, 1, 1, "Ax T1 SE of Jane")
    series(source.root, 1, 2, "Ax FLAIR")
    series(source.root, 1, 3, "Ax DWI")
    series(source.root, 2, 1, "sag t1 mprage")
    assert desk.ingest(source.root, config=RULE).counts.scans == 4
    scans = desk.catalogue.scans()
    channels = sorted((scan.channel, scan.channel_names) for scan in scans)
    assert channels == [(0, ("MR",)), (0, ("t1",)), (0, ("t1",)), (1, ("flair",))]
    assert "jane" not in "".join(scan.model_dump_json() for scan in scans).lower()
    gathered = gather_cases(scans, make_masks(scans), "segment")
    assert [len(case.scans) for case in gathered.cases] == [2]
    assert gathered.channels == ("t1", "flair")
    assert {item.code for item in gathered.omitted} == {"missing_channel"}
    assert "no channel 1" in gathered.omitted[0].reason


def test_two_series_for_one_channel_are_ambiguous(source, desk, make_masks) -> None:
    for number, description in enumerate(("t1 a", "t1 b", "flair"), start=1):
        series(source.root, 1, number, description)
    series(source.root, 2, 1, "t1")
    series(source.root, 2, 2, "flair")
    desk.ingest(source.root, config=RULE)
    scans = desk.catalogue.scans()
    gathered = gather_cases(scans, make_masks(scans), "segment")
    assert len(gathered.cases) == 1
    assert {item.code for item in gathered.omitted} == {"duplicate_channel"}


def test_files_of_a_session_become_channels_by_their_names(source, desk) -> None:
    for subject in ("sub-1", "sub-2"):
        for name in ("FLAIR", "T1w"):
            source.image(f"{subject}/anat/{subject}_{name}.nii.gz", hash((subject, name)) % 1000)
    rule = (ChannelRule(name="t1", file="*_T1w.*"), ChannelRule(name="flair", file="*_flair.*"))
    desk.ingest(source.root, config=IngestConfig(case_rule=rule))
    scans = desk.catalogue.scans()
    assert len({scan.group for scan in scans}) == 2
    assert sorted((scan.channel, scan.channel_names) for scan in scans) == [(0, ("t1",))] * 2 + [(1, ("flair",))] * 2


def test_a_rule_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="a channel needs one of modality, description, echo and file"):
        ChannelRule(name="t1")
    assert ChannelRule(name="second", echo="2").fits_series("MR", ("", ""), "2")
    assert not ChannelRule(name="second", echo="2", modality="CT").fits_series("MR", ("", ""), "2")


@pytest.fixture
def make_masks():
    from medml.records.scan import Annotation

    def make(scans):
        labels = {0: "background", 1: "organ"}
        return [
            Annotation(scan_id=s.scan_id, kind="mask", labels=labels, origin="x", file="mask.nii.gz", content=s.content)
            for s in scans
        ]

    return make
