"""DICOM waveforms (ECG, haemodynamics, EEG …): the samples of each channel in real units, as an array over time."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.waveforms.numpy_handler import multiplex_array

from medml.errors import Refusal
from medml.io.dicom_frames import items_of
from medml.io.dicom_header import Header
from medml.io.dicom_parse import BIG_ENDIAN, guarded, parse_elements
from medml.io.files import open_regular
from medml.records.scan import Finding, SourceGrid, Volume

MAX_CHANNELS = 256
# The longest axis that a NIfTI-1 file has.
MAX_SAMPLES = 32_767
_SEQUENCE = 0x54000100
_SAMPLES = {(8, "SB"), (8, "UB"), (16, "SS"), (16, "US"), (32, "SL"), (32, "UL")}
_MILLIVOLTS = {"uV": 1e-3, "mV": 1.0, "V": 1e3}
_LEAD = re.compile(r"(?:LEAD[ _])?(I|II|III|AVR|AVL|AVF|V\d{1,2}R?|X|Y|Z)", re.IGNORECASE)
_MODALITIES = {"9.1": "ECG", "9.2": "HD", "9.3": "EPS", "9.5": "HD", "9.6": "RESP", "9.7": "EEG", "9.8": "OT"}


@dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """One multiplex group of a waveform object.

    Attributes
    ----------
    volume : Volume
        (1, samples, channels, 1), float32; electrical channels in mV, others in the unit of the file. Geometry "none".
    leads : tuple of str
        "I", "II" … "V6", one per channel; empty if a channel is none of the leads of an ECG.
    sampling_hz : float
    """

    volume: Volume
    grid: SourceGrid
    leads: tuple[str, ...]
    sampling_hz: float
    findings: tuple[Finding, ...]


def modality_of(header: Header) -> str:
    """Return the modality that the class of a waveform has, whatever its header says."""
    return _MODALITIES[".".join(header.sop_class.split(".")[9:11])]


def read_waveform(header: Header) -> Waveform:
    """Read the first original multiplex group of a waveform object.

    Raises
    ------
    Refusal
        If it has no samples, more than `MAX_SAMPLES` of a channel, or samples of a kind that is not read.
    """
    # Its warnings about odd values would quote them.
    with disable_value_validation():
        return guarded(lambda: _read(header))


def _read(header: Header) -> Waveform:
    with open_regular(header.path) as file:
        elements = parse_elements(file, (_SEQUENCE,))
    groups = items_of(elements.by_tag.get(_SEQUENCE)) if elements is not None else []
    if not groups:
        raise Refusal("no_waveform", "the waveform object holds no multiplex group; export it again")
    originals = [index for index, group in enumerate(groups) if group.get("WaveformOriginality") != "DERIVED"]
    group = groups[(originals or [0])[0]]
    channels, samples = _check(group)
    values = _values(group, header.transfer_syntax == BIG_ENDIAN)
    findings = _group_findings(len(groups))
    leads = tuple(_lead(channel) for channel in _definitions(group, channels))
    known = all(leads) and len(set(leads)) == channels
    identity = tuple(tuple(float(value) for value in row) for row in np.eye(4))
    grid = SourceGrid(shape=(samples, channels, 1), affine=identity, axes=(0, 1, 2), flips=(False, False, False))
    volume = Volume(values.astype(np.float32).reshape(1, samples, channels, 1), np.eye(4), "none")
    return Waveform(volume, grid, leads if known else (), float(group.SamplingFrequency), findings)


def _check(group: Dataset) -> tuple[int, int]:
    """Return how many channels and samples a group declares; refuse what is not read, before it is."""
    channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    if not (1 <= channels <= MAX_CHANNELS and 1 <= samples <= MAX_SAMPLES):
        raise Refusal(
            "waveform_size",
            f"{channels} channels of {samples} samples, expected 1 to {MAX_CHANNELS} and 1 to {MAX_SAMPLES}; "
            "cut long recordings",
        )
    kind = int(group.WaveformBitsAllocated), str(group.WaveformSampleInterpretation)
    if kind not in _SAMPLES:
        raise Refusal("waveform_format", f"samples of {kind[0]} bits that are no integers, which are not read")
    needed = channels * samples * kind[0] // 8
    if len(group.WaveformData) < needed:
        raise Refusal(
            "truncated", f"the waveform needs {needed} bytes, its file holds {len(group.WaveformData)}; copy it again"
        )
    if not 0 < float(group.SamplingFrequency) < 1e7:
        raise Refusal("waveform_format", "SamplingFrequency is not more than 0; export it again")
    return channels, samples


def _values(group: Dataset, big_endian: bool) -> np.ndarray:
    """Return (samples, channels) in real units, electrical ones in mV."""
    if big_endian:
        size = int(group.WaveformBitsAllocated) // 8
        raw = bytes(group.WaveformData)
        group.WaveformData = np.frombuffer(raw[: len(raw) // size * size], f">u{size}").astype(f"<u{size}").tobytes()
    holder = Dataset()
    holder.WaveformSequence = [group]
    values = np.asarray(multiplex_array(holder, 0, as_raw=False))
    for number, channel in enumerate(_definitions(group, values.shape[1])):
        values[:, number] *= _MILLIVOLTS.get(_unit(channel), 1.0)
    return values


def _definitions(group: Dataset, channels: int) -> list[Dataset]:
    found = list(group.get("ChannelDefinitionSequence") or ())
    if len(found) != channels:
        raise Refusal("waveform_format", f"{channels} channels, {len(found)} of them are defined; export it again")
    return found


def _unit(channel: Dataset) -> str:
    items = channel.get("ChannelSensitivityUnitsSequence") or ()
    return str(items[0].get("CodeValue", "")) if items else ""


def _lead(channel: Dataset) -> str:
    """Return the lead that a channel is of, empty if it is none; no other text of the file is taken over."""
    texts = [str(channel.get("ChannelLabel", ""))]
    for item in channel.get("ChannelSourceSequence") or ():
        texts += [str(item.get("CodeMeaning", "")), str(item.get("CodeValue", "")).removeprefix("MDC_ECG_")]
    for text in texts:
        match = _LEAD.fullmatch(text.strip())
        if match:
            lead = match[1].upper()
            return f"aV{lead[2]}" if lead.startswith("AV") else lead
    return ""


def _group_findings(count: int) -> tuple[Finding, ...]:
    if count == 1:
        return ()
    return (
        Finding(
            code="waveform_groups",
            severity="info",
            message=f"the first original one of {count} multiplex groups was taken",
            numbers={"groups": float(count)},
        ),
    )
