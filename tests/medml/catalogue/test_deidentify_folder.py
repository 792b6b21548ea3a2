"""A folder of DICOM files to a folder of de-identified ones: nothing of a name in it, nothing lost, nothing twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantoms import ROOT, save_slice, set_pixels, slice_dataset, write_series
from planted_phantoms import SECRET, forms_found, write_planted
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medml.catalogue.audit import Audit
from medml.catalogue.deidentify import DeidentifyConfig, deidentify
from medml.catalogue.quarantine import Quarantine
from medml.errors import ConfigError, MedmlError, NotFound
from medml.io.files import Pseudonyms
from medml.records.deidentify import DeidentifyReport
from medml.records.home import Home

ALL = {
    name: True
    for name in DeidentifyConfig.model_fields
    if name.startswith(("retain_", "clean_"))
    and name not in ("retain_uids", "retain_longitudinal_full_dates", "retain_institution", "retain_device")
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def run(source: Path, home: Home, *, out: Path | None = None, **options: Any) -> DeidentifyReport:
    return deidentify(
        source, out or home.root.parent / "out", home, Pseudonyms(home.key_file), DeidentifyConfig(**options)
    )


def outputs(home: Home) -> list[Path]:
    return sorted((home.root.parent / "out").rglob("*.dcm"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_series_becomes_files_under_pseudonyms_with_the_same_pixels(tmp_path: Path, home: Home) -> None:
    sources = write_series(tmp_path / "Doe_Jane")
    before = contents(tmp_path / "Doe_Jane")
    report = run(tmp_path / "Doe_Jane", home)
    assert (report.counts.files, report.counts.written, report.counts.patients) == (4, 4, 1)
    assert report.codes == {"accepted written": 4}
    found = {pydicom.dcmread(path).InstanceNumber: pydicom.dcmread(path) for path in outputs(home)}
    for path in sources:
        source = pydicom.dcmread(path)
        result = found[source.InstanceNumber]
        assert result.PixelData == source.PixelData
        assert result.ImagePositionPatient == source.ImagePositionPatient
        assert result.RescaleIntercept == -1024
        assert result.PatientID.startswith("p-")
        assert not result.PatientName
    assert len({result.SeriesInstanceUID for result in found.values()}) == 1
    assert contents(tmp_path / "Doe_Jane") == before
    parts = outputs(home)[0].relative_to(tmp_path / "out").parts
    assert [part[:2] for part in parts[:3]] == ["p-", "s-", "r-"]


def test_the_same_input_gives_the_same_bytes_and_is_not_done_twice(tmp_path: Path, home: Home) -> None:
    write_series(tmp_path / "in")
    run(tmp_path / "in", home)
    first, times = contents(tmp_path / "out"), [path.stat().st_mtime_ns for path in outputs(home)]
    again = run(tmp_path / "in", home)
    assert (again.counts.written, again.counts.known) == (0, 4)
    assert [path.stat().st_mtime_ns for path in outputs(home)] == times
    assert again.actions == run(tmp_path / "in", home, out=tmp_path / "elsewhere").actions
    assert contents(tmp_path / "elsewhere") == first


def test_an_interrupted_run_goes_on(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in")
    whole = run(tmp_path / "in", home, out=tmp_path / "whole")
    monkeypatch.setattr("medml.catalogue.deidentify.GROUP_SIZE", 1)
    seen = 0

    def stop(outcome: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deidentify(tmp_path / "in", tmp_path / "out", home, Pseudonyms(home.key_file), on_outcome=stop)
    assert len(outputs(home)) == 2
    audit = next(home.reports.glob("deidentify-????????????????.jsonl"), None)
    for path in home.reports.glob("*.jsonl"):
        if len(path.read_bytes().splitlines()) == 3:
            audit = path
    assert audit is not None
    with audit.open("ab") as file:
        file.write(b'{"source": "cut sho')  # a kill while a line was written
    report = run(tmp_path / "in", home)
    assert (report.counts.written, report.counts.known) == (2, 2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert report.actions == whole.actions


def test_a_changed_source_or_a_lost_output_is_done_again(tmp_path: Path, home: Home) -> None:
    paths = write_series(tmp_path / "in")
    run(tmp_path / "in", home)
    os.utime(paths[0], ns=(1, 1))
    outputs(home)[-1].unlink()
    report = run(tmp_path / "in", home)
    assert report.counts.written in (1, 2)
    assert report.counts.written + report.counts.known == 4
    assert len(outputs(home)) == 4


def test_other_options_or_another_key_do_everything_again(tmp_path: Path, home: Home) -> None:
    write_series(tmp_path / "in")
    run(tmp_path / "in", home)
    assert run(tmp_path / "in", home, clean_descriptors=True).counts.written == 4
    home.key_file.unlink()
    assert run(tmp_path / "in", home, out=tmp_path / "other").counts.written == 4
    assert contents(tmp_path / "out").keys().isdisjoint(contents(tmp_path / "other"))


@pytest.mark.parametrize("where", ["in", "in/below", "."])
def test_an_output_inside_or_around_the_source_is_refused(tmp_path: Path, home: Home, where: str) -> None:
    write_series(tmp_path / "in")
    with pytest.raises(ConfigError, match="inside of the source, or around it"):
        run(tmp_path / "in", home, out=tmp_path / where)


def test_a_source_that_is_not_and_an_output_that_is_a_file_are_refused(tmp_path: Path, home: Home) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        run(tmp_path / "nowhere", home)
    write_series(tmp_path / "in")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="found a file, expected a folder"):
        run(tmp_path / "in", home, out=tmp_path / "file")


def test_copies_count_once_and_conflicts_are_refused(tmp_path: Path, home: Home) -> None:
    save_slice(tmp_path / "in" / "a", slice_dataset(0))
    save_slice(tmp_path / "in" / "b", slice_dataset(0))
    other = slice_dataset(0)
    other.SliceThickness = 7
    save_slice(tmp_path / "in" / "c", other)
    (tmp_path / "in" / "readme.txt").write_text("x")
    report = run(tmp_path / "in", home)
    assert report.codes == {
        "accepted duplicate": 1,
        "accepted written": 1,
        "ignored not_dicom": 1,
        "refused conflicting_duplicates": 1,
    }
    assert pydicom.dcmread(outputs(home)[0]).SliceThickness == 5
    assert run(tmp_path / "in", home).codes["accepted known"] == 1


def test_a_damaged_file_costs_itself_only(tmp_path: Path, home: Home) -> None:
    paths = write_series(tmp_path / "in")
    paths[1].write_bytes(paths[1].read_bytes()[:-6])
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    report = run(tmp_path / "in", home)
    assert (report.counts.written, report.counts.refused) == (2, 2)
    assert {outcome.code for outcome in report.outcomes if outcome.outcome == "refused"} <= {
        "truncated",
        "damaged",
        "missing_uid",
    }


def test_a_damaged_audit_is_named(tmp_path: Path, home: Home) -> None:
    path = tmp_path / "deidentify-x.jsonl"
    path.write_text('{"no": "file"}\n')
    with pytest.raises(MedmlError, match="line 1 is damaged"):
        Audit(path)


# What a name may hide in


@pytest.mark.parametrize("options", [{}, ALL], ids=["basic", "options"])
def test_a_name_planted_everywhere_is_found_nowhere(tmp_path: Path, home: Home, options: dict[str, bool]) -> None:
    write_planted(tmp_path / "in")
    report = run(tmp_path / "in", home, **options)
    assert report.counts.written == 4
    for name, data in contents(tmp_path / "out").items():
        assert not forms_found(data)
        assert not forms_found(name.encode())
        assert ROOT.encode() not in data
        assert data[:128] == bytes(128)
    audit = Path(report.audit)
    assert audit.stat().st_mode & 0o077 == 0
    for line in audit.read_text().splitlines():
        if '"attributes"' in line:
            assert not forms_found(line.encode())


def test_bytes_beyond_the_pixels_are_left_out(tmp_path: Path, home: Home) -> None:
    data = slice_dataset(0)
    size = len(data.PixelData)
    data.PixelData = data.PixelData + SECRET.encode() + b"\0"
    save_slice(tmp_path / "in" / "a", data)
    run(tmp_path / "in", home)
    assert len(pydicom.dcmread(outputs(home)[0]).PixelData) == size
    assert SECRET.encode() not in outputs(home)[0].read_bytes()


def test_compressed_pixels_are_copied_as_they_are(tmp_path: Path, home: Home) -> None:
    data = slice_dataset(0)
    data.compress(RLELossless, generate_instance_uid=False)
    source = save_slice(tmp_path / "in" / "a", data)
    source.write_bytes(source.read_bytes() + SECRET.encode())
    run(tmp_path / "in", home)
    result = pydicom.dcmread(outputs(home)[0])
    assert result.file_meta.TransferSyntaxUID == RLELossless
    np.testing.assert_array_equal(result.pixel_array, slice_dataset(0).pixel_array)
    assert SECRET.encode() not in outputs(home)[0].read_bytes()


def test_comments_inside_of_codestreams_are_blanked(tmp_path: Path, home: Home) -> None:
    data, pixels = slice_dataset(0), np.arange(1024, dtype=np.uint16).reshape(32, 32)
    set_pixels(data, pixels)
    data.compress(JPEGLSLossless, generate_instance_uid=False)
    frame = next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1))
    comment = SECRET.encode()
    marked = frame[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + frame[2:]
    data.PixelData = encapsulate([marked])
    save_slice(tmp_path / "in" / "a", data)
    run(tmp_path / "in", home)
    assert comment not in outputs(home)[0].read_bytes()
    np.testing.assert_array_equal(pydicom.dcmread(outputs(home)[0]).pixel_array, pixels)


def test_an_overlay_in_the_high_bits_is_masked_and_refused_where_it_is_compressed(tmp_path: Path, home: Home) -> None:
    data = slice_dataset(0)
    clean = (np.arange(6, dtype=np.uint16) * 400).reshape(3, 2)
    set_pixels(data, clean | np.uint16(0x8000))
    data.BitsStored, data.HighBit = 12, 11
    data.add_new(0x60000100, "US", 16)
    data.add_new(0x60000102, "US", 15)
    save_slice(tmp_path / "in" / "a", data)
    other = slice_dataset(1)
    other.add_new(0x60000100, "US", 16)
    other.compress(RLELossless, generate_instance_uid=False)
    save_slice(tmp_path / "in" / "b", other)
    report = run(tmp_path / "in", home)
    assert report.codes == {"accepted written": 1, "refused embedded_overlay": 1}
    np.testing.assert_array_equal(pydicom.dcmread(outputs(home)[0]).pixel_array, clean)


def test_an_overlay_whose_bits_nobody_knows_is_refused(tmp_path: Path, home: Home) -> None:
    data = slice_dataset(0)
    set_pixels(data, np.zeros((3, 2), np.uint8))
    data.add_new(0x60000100, "US", 8)
    save_slice(tmp_path / "in" / "a", data)
    report = run(tmp_path / "in", home)
    assert "expected 16 allocated" in report.outcomes[0].reason


def test_a_deflated_file_is_written_plain(tmp_path: Path, home: Home) -> None:
    data = slice_dataset(0)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save_slice(tmp_path / "in" / "a", data)
    run(tmp_path / "in", home)
    result = pydicom.dcmread(outputs(home)[0])
    assert result.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert result.PixelData == slice_dataset(0).PixelData


def test_a_truncated_compressed_file_is_refused(tmp_path: Path, home: Home) -> None:
    data = slice_dataset(0)
    data.compress(RLELossless, generate_instance_uid=False)
    path = save_slice(tmp_path / "in" / "a", data)
    path.write_bytes(path.read_bytes()[:-8])
    report = run(tmp_path / "in", home)
    assert "not closed by their delimiter" in report.outcomes[0].reason


# Quarantine


def risky(tmp_path: Path, **tags: Any) -> Path:
    data = slice_dataset(0)
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    return save_slice(tmp_path / "in" / "a", data)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "US"}, "burned_in_annotation"),
        ({"ConversionType": "WSD"}, "secondary_capture"),
        ({"PhotometricInterpretation": "RGB"}, "colour_capture"),
    ],
)
def test_what_may_show_a_name_waits_for_a_person(tmp_path: Path, home: Home, tags: dict[str, Any], code: str) -> None:
    path = risky(tmp_path, **tags)
    report = run(tmp_path / "in", home)
    assert (report.counts.held, report.counts.refused, report.counts.written) == (1, 0, 0)
    assert report.codes == {f"refused {code}": 1}
    assert not outputs(home)
    quarantine = Quarantine(home.quarantine)
    (held,) = quarantine.waiting()
    assert f"medml release {held.id}" in report.outcomes[0].reason
    assert (held.code, len(held.files)) == (code, 1)
    (release,) = quarantine.release([held.id], by="A. Reader", note="no text")
    assert (release.by, release.note, release.files) == ("A. Reader", "no text", held.files)
    assert all(file.stat().st_mode & 0o077 == 0 for file in home.quarantine.iterdir())
    assert not quarantine.waiting()
    assert run(tmp_path / "in", home).counts.written == 1
    path.write_bytes(path.read_bytes() + b"\0\0")  # another content is another image: nobody has seen it
    assert run(tmp_path / "in", home).counts.held == 1


def test_a_release_of_what_is_not_held_is_refused_whole(tmp_path: Path, home: Home) -> None:
    risky(tmp_path, BurnedInAnnotation="YES")
    run(tmp_path / "in", home)
    quarantine = Quarantine(home.quarantine)
    (held,) = quarantine.waiting()
    with pytest.raises(NotFound, match=f"1 of 2 names are not in quarantine; waiting: {held.id}"):
        quarantine.release([held.id, "q-../../x"], by="A. Reader")
    assert quarantine.waiting() == [held]


def test_derived_alone_is_no_reason(tmp_path: Path, home: Home) -> None:
    risky(tmp_path, ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    assert run(tmp_path / "in", home).counts.written == 1


def test_ultrasound_without_text_and_photographs_pass(tmp_path: Path, home: Home) -> None:
    risky(tmp_path, SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", Modality="US", BurnedInAnnotation="NO")
    assert run(tmp_path / "in", home).counts.written == 1
    risky(tmp_path, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.4", Modality="XC", SOPInstanceUID=f"{ROOT}.9")
    assert run(tmp_path / "in", home).counts.written == 1
