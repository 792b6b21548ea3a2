"""From stored bits to values: rescale, sign, unused bits, padding, photometric interpretation, SUV."""

from __future__ import annotations

import numpy as np
from corpus.dicom import Stack, put, store
from corpus.phantom import make_grid, only_changed, to_byte, with_points
from corpus.source import Expected, Source, accepted, case, case_of, either, refused
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items


@case("every slice has its own slope and intercept (PET)")
def rescale_per_slice(source: Source) -> Expected:
    stack = Stack(source, modality="PT")
    for index, data in enumerate(stack):
        slope = 0.25 * (1 + index % 3)
        store(data, stack.pixels(index), slope=slope)
    stack.set(Units="BQML").write()
    return accepted(only_changed(stack.truth, tolerance=0.51 * 0.75))


@case("every slice has its own intercept (CT)")
def intercept_per_slice(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), intercept=-1024 - 8 * index)
    stack.write()
    return accepted(stack.truth)


@case("negative slope")
def negative_slope(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), slope=-1, intercept=3000)
    stack.write()
    return accepted(stack.truth)


@case("slope of 0.5")
def half_slope(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), slope=0.5, intercept=-1024)
    stack.write()
    return accepted(stack.truth)


@case("values beyond 16 bits after the rescale")
def beyond_16_bits(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.RescaleSlope, data.RescaleIntercept = 100, -102400
    stack.write()
    return accepted(with_points(stack.truth, lambda v: v * 100))


@case("slope zero")
def slope_zero(source: Source) -> Expected:
    stack = Stack(source).set(RescaleSlope=0)
    stack.write()
    return refused(".*rescale.*|.*slope.*|.*value.*", truth=stack.truth)


@case("slope missing in one slice of a CT")
def slope_missing_once(source: Source) -> Expected:
    stack = Stack(source)
    del stack[4].RescaleSlope, stack[4].RescaleIntercept
    stack.write()
    return refused(".*rescale.*|.*slope.*|.*value.*", truth=stack.truth)


@case("no rescale in a whole CT: stored values are not HU")
def ct_without_rescale(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), signed=True, rescale=False)
    stack.set(RescaleSlope=None, RescaleIntercept=None).write()
    return either(stack.truth)


@case("signed 16 bits")
def signed_16(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), signed=True)
    stack.write()
    return accepted(stack.truth)


@case("signed 12 of 16 bits, the upper bits not extended")
def signed_12(source: Source) -> Expected:
    stack = Stack(source, change=lambda v: v // 2)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), signed=True, stored=12)
    stack.write()
    return accepted(stack.truth)


@case("12 of 16 bits with an overlay in the bits above")
def overlay_bits(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        raw = (stack.pixels(index) + 1024).astype(np.uint16)
        raw[3:9, 2:15] |= 0x9000
        raw[12, :] |= 0x4000
        put(data, raw, stored=12)
        data.add_new(0x60000010, "US", 20)
        data.add_new(0x60000011, "US", 24)
        data.add_new(0x60000040, "CS", "G")
        data.add_new(0x60000050, "SS", [1, 1])
        data.add_new(0x60000100, "US", 16)
        data.add_new(0x60000102, "US", 12)
    stack.write()
    return accepted(stack.truth)


@case("an overlay of its own, with text in it")
def overlay_data(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.add_new(0x60000010, "US", 20)
        data.add_new(0x60000011, "US", 24)
        data.add_new(0x60000022, "LO", "OVERLAYSECRET77")
        data.add_new(0x60000040, "CS", "G")
        data.add_new(0x60000050, "SS", [1, 1])
        data.add_new(0x60000100, "US", 1)
        data.add_new(0x60000102, "US", 0)
        data.add_new(0x60003000, "OW", b"OVERLAYSECRET77".ljust(60, b"\0"))
        data.add_new(0x50003000, "OW", b"OVERLAYSECRET77 ")
    stack.write()
    return accepted(stack.truth)


@case("high bit 15 of 12 stored bits: values are shifted up (PS3.5 8.1.1)")
def high_bit_shifted(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        put(data, ((stack.pixels(index) + 1024) << 4).astype(np.uint16), stored=12)
        data.HighBit = 15
    stack.write()
    return either(stack.truth)


def _padded(source: Source, padding: int, signed: bool, declared: bool) -> tuple[Stack, int]:
    stack = Stack(source)
    for index, data in enumerate(stack):
        values = stack.pixels(index).astype(int)
        raw = values if signed else values + 1024
        rows, columns = np.mgrid[: raw.shape[0], : raw.shape[1]]
        outside = ((rows - 9.5) / 10) ** 2 + ((columns - 11.5) / 12) ** 2 > 1.2
        raw[outside] = padding
        data.RescaleIntercept = 0 if signed else -1024
        put(data, (raw & 0xFFFF).astype(np.uint16), signed=signed)
        if declared:
            data.add_new(0x00280120, "SS" if signed else "US", padding)
    return stack, padding if signed else padding - 1024


def _no_stray_values(low: float, high: float) -> object:
    def check(home: object, report: object, kept: list) -> list[str]:
        found = [(float(scan.voxels.min()), float(scan.voxels.max())) for scan in kept]
        return [f"values run from {a} to {b}, expected {low} to {high}" for a, b in found if a < low or b > high]

    return check


@case("padding of -2000 outside the circle of a CT, declared")
def padding_low(source: Source) -> Expected:
    stack, _ = _padded(source, -2000, True, True)
    stack.write()
    return accepted(only_changed(stack.truth, values=None), check=_no_stray_values(-3024, 2150))


@case("padding of 65535 outside the circle of a CT, declared: it must not shine")
def padding_high(source: Source) -> Expected:
    stack, _ = _padded(source, 65535, False, True)
    stack.write()
    return accepted(only_changed(stack.truth, values=None), check=_no_stray_values(-3024, 2150))


@case("MONOCHROME1 in a CT: the rescaled values still are Hounsfield units")
def monochrome1_ct(source: Source) -> Expected:
    stack = Stack(source).set(PhotometricInterpretation="MONOCHROME1")
    stack.write()
    return either(stack.truth)


@case("a palette image whose red is the stored value")
def palette(source: Source) -> Expected:
    stack = Stack(source, modality="MR", change=to_byte)
    for index, data in enumerate(stack):
        put(data, stack.pixels(index).astype(np.uint8), photometric="PALETTE COLOR")
        for tag in (0x00281101, 0x00281102, 0x00281103):
            data.add_new(tag, "US", [256, 0, 16])
        for tag in (0x00281201, 0x00281202, 0x00281203):
            data.add_new(tag, "OW", (np.arange(256, dtype="<u2") * 257).tobytes())
    stack.write()
    return either(stack.truth)


@case("RGB slices of a CT series (a dose report, a fused picture)")
def colour_slices(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        grey = to_byte(stack.pixels(index))
        put(data, np.stack([grey, grey // 2, grey // 3], axis=-1), photometric="RGB")
    stack.write()
    return refused("colour.*|burned.*|.*capture|unsupported.*|.*colour.*", truth=())


@case("float pixels (7FE0,0008)")
def float_pixels(source: Source) -> Expected:
    stack = Stack(source, modality="MR")
    for index, data in enumerate(stack):
        put(data, stack.pixels(index).astype(np.uint16))
        del data.PixelData
        data.BitsAllocated = 32
        data.add_new(0x7FE00008, "OF", stack.pixels(index).astype("<f4").tobytes())
    stack.write()
    return either(stack.truth)


@case("twelve bits allocated, packed")
def packed_12(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.BitsAllocated = data.BitsStored = 12
        data.HighBit = 11
        data.PixelData = data.PixelData[: 24 * 20 * 12 // 8]
    stack.write()
    return refused("unsupported.*|truncated", truth=())


@case("a modality look-up table instead of a rescale")
def modality_lut(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        del data.RescaleSlope, data.RescaleIntercept
        table = Dataset()
        table.add_new(0x00283002, "US", [4096, 0, 16])
        table.ModalityLUTType = "HU"
        table.add_new(0x00283006, "OW", (np.arange(4096, dtype="<u2") // 2).tobytes())
        data.ModalityLUTSequence = Items([table])
    stack.write()
    return refused(".*lut.*|unsupported.*|.*rescale.*", truth=())


@case("slices differ in sign")
def mixed_sign(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        if index % 2:
            store(data, stack.pixels(index), signed=True)
    stack.write()
    return either(stack.truth)


@case("slices differ in stored bits")
def mixed_stored_bits(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), intercept=-1024, stored=12 if index % 2 else 16)
    stack.write()
    return either(stack.truth)


@case("pixels declared in OB although they have 16 bits")
def pixels_in_ob(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data["PixelData"].VR = "OB"
    stack.write()
    return accepted(stack.truth)


def _pet(source: Source, **tags: object) -> Stack:
    stack = Stack(source, modality="PT", change=lambda v: (v + 1000) * 10)
    item = Dataset()
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = "350000000", "6586.2"
    item.RadiopharmaceuticalStartTime = "123522.771"
    item.RadiopharmaceuticalStartDateTime = "20240517123522.771"
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), slope=1)
    stack.set(
        Units="BQML", DecayCorrection="START", CorrectedImage=["ATTN", "DECY"], PatientWeight="70",
        RadiopharmaceuticalInformationSequence=Items([item]), FrameReferenceTime=0, ActualFrameDuration=120000,
        SeriesType=["WHOLE BODY", "IMAGE"],
    )  # fmt: skip
    return stack.set(**tags)


@case("PET in Bq/mL with what SUVbw takes: SUV, or Bq/mL and said so")
def suv(source: Source) -> Expected:
    stack = _pet(source)
    stack.write()
    # Injected 4,200 s before the series began; decay corrected to the start of the series.
    factor = 70 * 1000 / (350e6 * 2 ** (-4200 / 6586.2))
    return accepted(with_points(stack.truth, lambda v: v * factor, tolerance=0.01 * 10 * factor * 100), config={})


@case("PET whose patient has no weight: Bq/mL, and said so, or refused")
def suv_without_weight(source: Source) -> Expected:
    stack = _pet(source, PatientWeight=None)
    stack.write()
    return either(stack.truth)


@case("PET injected before midnight, scanned after")
def suv_over_midnight(source: Source) -> Expected:
    stack = _pet(source, SeriesTime="003000", AcquisitionTime="003000", StudyTime="003000")
    for data in stack:
        item = data.RadiopharmaceuticalInformationSequence[0]
        item.RadiopharmaceuticalStartTime, item.RadiopharmaceuticalStartDateTime = "233000", "20240516233000"
    stack.write()
    factor = 70 * 1000 / (350e6 * 2 ** (-3600 / 6586.2))
    return either(with_points(stack.truth, lambda v: v * factor, tolerance=factor * 10))


MISSING = (
    "BitsStored",
    "BitsAllocated",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
)


def _without(name: str) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source).set(**{name: None})
        stack.write()
        return either(stack.truth)

    return build


for _name in MISSING:
    case_of("values", f"no {_name}", f"no {_name}: right or refused", _without(_name))  # type: ignore[arg-type]


@case("signed values whose header says unsigned, as the rescale gives away")
def sign_lies(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), signed=True)
        data.PixelRepresentation = 0
    stack.write()
    return Expected(free=True, check=_warned_or_refused)


def _warned_or_refused(home: object, report: object, kept: list) -> list[str]:
    bad = [o for o in report.outcomes if o.outcome == "refused" or any(f.severity != "info" for f in o.findings)]  # type: ignore[attr-defined]
    return [] if bad else ["air at 64536 HU passed without a warning"]


@case("eight bits, odd number of pixels a slice")
def odd_bytes(source: Source) -> Expected:
    stack = Stack(source, make_grid(shape=(23, 19, 12)), modality="MR", change=to_byte)
    for index, data in enumerate(stack):
        put(data, stack.pixels(index).astype(np.uint8))
    stack.write()
    return accepted(stack.truth)
