"""DICOM waveforms: 2.5 uV a step and a baseline of 10 uV, so stored value v is (2.5 v + 10) / 1000 mV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_objects import ecg_dataset
from dicom_phantoms import save_slice
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRBigEndian

from medml.errors import Refusal
from medml.io.dicom import read_header
from medml.io.waveform import Waveform, modality_of, read_waveform


def read(folder: Path, data: Dataset) -> Waveform:
    header = read_header(save_slice(folder / "ecg.dcm", data))
    assert header is not None
    assert modality_of(header) == "ECG"
    return read_waveform(header)


def test_samples_are_in_millivolts_one_column_a_lead(tmp_path: Path) -> None:
    waveform = read(tmp_path, ecg_dataset(("I", "aVR", "V5"), 4))
    assert waveform.volume.voxels.shape == (1, 4, 3, 1)
    assert waveform.volume.geometry == "none"
    assert waveform.volume.voxels[0, 3, 2, 0] == pytest.approx((2.5 * 203 + 10) / 1000)
    assert (waveform.leads, waveform.sampling_hz, waveform.findings) == (("I", "aVR", "V5"), 500.0, ())
    assert waveform.grid.shape == (4, 3, 1)


def test_big_endian_samples_are_turned_round(tmp_path: Path) -> None:
    data = ecg_dataset()
    group = data.WaveformSequence[0]
    group.WaveformData = np.frombuffer(group.WaveformData, "<i2").astype(">i2").tobytes()
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert read(tmp_path, data).volume.voxels[0, 4, 1, 0] == pytest.approx((2.5 * 104 + 10) / 1000)


def test_channels_that_are_no_leads_have_no_names(tmp_path: Path) -> None:
    assert read(tmp_path, ecg_dataset(("I", "Doe^Jane"))).leads == ()
    assert read(tmp_path, ecg_dataset(("I", "I"))).leads == ()


def test_odd_labels_are_not_quoted_in_warnings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    data = ecg_dataset()
    with disable_value_validation():
        data.WaveformSequence[0].ChannelDefinitionSequence[0].ChannelLabel = "Doe^Jane, longer than allowed"
        path = save_slice(tmp_path / "ecg.dcm", data)
    header = read_header(path)
    assert header is not None
    assert read_waveform(header).leads == ("I", "II")
    assert not recwarn.list


def test_the_first_original_group_is_taken(tmp_path: Path) -> None:
    data = ecg_dataset()
    median = ecg_dataset(("V1",), 9).WaveformSequence[0]
    median.WaveformOriginality = "DERIVED"
    data.WaveformSequence = Items([median, data.WaveformSequence[0]])
    waveform = read(tmp_path, data)
    assert waveform.volume.voxels.shape == (1, 5, 2, 1)
    assert [(finding.code, finding.numbers) for finding in waveform.findings] == [("waveform_groups", {"groups": 2.0})]


@pytest.mark.parametrize(
    ("name", "value", "code", "words"),
    [
        ("NumberOfWaveformSamples", 6, "truncated", "needs 24 bytes, its file holds 20"),
        ("NumberOfWaveformSamples", 90_000, "waveform_size", "2 channels of 90000 samples"),
        ("NumberOfWaveformChannels", 0, "waveform_size", "0 channels of 5 samples"),
        ("WaveformSampleInterpretation", "MB", "waveform_format", "that are no integers"),
        ("SamplingFrequency", "0", "waveform_format", "SamplingFrequency is not more than 0"),
        ("ChannelDefinitionSequence", Items([]), "waveform_format", "0 of them are defined"),
        ("WaveformBitsAllocated", None, "damaged", "cannot be parsed"),
    ],
)
def test_waveforms_that_are_not_sound_are_refused(
    tmp_path: Path, name: str, value: object, code: str, words: str
) -> None:
    data = ecg_dataset()
    setattr(data.WaveformSequence[0], name, value)
    with pytest.raises(Refusal, match=words) as refusal:
        read(tmp_path, data)
    assert refusal.value.code == code


def test_a_waveform_object_without_groups_is_refused(tmp_path: Path) -> None:
    data = ecg_dataset()
    del data.WaveformSequence
    with pytest.raises(Refusal, match="holds no multiplex group"):
        read(tmp_path, data)
