"""Where slices lie: every orientation and order, and each way in which they do not form one regular grid."""

from __future__ import annotations

import numpy as np
from corpus.dicom import Stack
from corpus.phantom import AXIAL, even, make_grid, only_changed
from corpus.source import Expected, Source, accepted, case, case_of, either, refused


def _at(index: int, x: float, y: float, z: float) -> list[str]:
    """Return ImagePositionPatient of a slice of the axial grid, moved by x, y and z mm."""
    return [f"{value:.6f}" for value in AXIAL.position(index) + np.array([x, y, z])]


@case("instance numbers run against the positions")
def instance_numbers_reversed(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.InstanceNumber = 100 - index
    stack.write()
    return accepted(stack.truth)


@case("instance numbers shuffled")
def instance_numbers_shuffled(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.InstanceNumber = (index * 5) % 12 + 1
    stack.write()
    return accepted(stack.truth)


@case("no instance numbers")
def instance_numbers_absent(source: Source) -> Expected:
    stack = Stack(source).set(InstanceNumber=None)
    stack.write()
    return accepted(stack.truth)


@case("SliceLocation contradicts the positions")
def slice_location_lies(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.SliceLocation = 500 - 7 * index
    stack.write()
    return accepted(stack.truth)


@case("slice thickness is not the spacing (overlapping slices)")
def thickness_is_not_spacing(source: Source) -> Expected:
    stack = Stack(source).set(SliceThickness=8)
    stack.write()
    return accepted(stack.truth)


@case("SpacingBetweenSlices states the gap between slices")
def spacing_between_slices_lies(source: Source) -> Expected:
    stack = Stack(source).set(SpacingBetweenSlices=1.5)
    stack.write()
    return accepted(stack.truth, findings="spacing_disagrees")


@case("SpacingBetweenSlices negative")
def spacing_between_slices_negative(source: Source) -> Expected:
    stack = Stack(source).set(SpacingBetweenSlices=-4)
    stack.write()
    return accepted(stack.truth)


@case("positions rounded to 0.01 mm")
def positions_rounded(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.ImagePositionPatient = [f"{v + 0.004 * (-1) ** index:.2f}" for v in AXIAL.position(index)]
    stack.write()
    return accepted(only_changed(stack.truth, values=None))


@case("positions in exponent notation with blanks")
def positions_in_exponents(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.ImagePositionPatient = [
            f"{v:.6e} ".replace("e-0", "E-").replace("e+0", "E+") for v in AXIAL.position(index)
        ]
    stack.write()
    return accepted(stack.truth)


@case("one slice missing in the middle")
def missing_slice(source: Source) -> Expected:
    stack = Stack(source).drop(5)
    stack.write()
    return refused("missing_slice", truth=only_changed(stack.truth, values=None))


@case("three slices missing together")
def missing_block(source: Source) -> Expected:
    stack = Stack(source).drop(6, 7, 8)
    stack.write()
    return refused("missing_slice", truth=only_changed(stack.truth, values=None))


@case("second slice missing")
def missing_second(source: Source) -> Expected:
    stack = Stack(source).drop(1)
    stack.write()
    return refused("missing_slice", truth=only_changed(stack.truth, values=None))


@case("only every second slice is there, the numbers show it")
def missing_every_second(source: Source) -> Expected:
    stack = Stack(source).set(SpacingBetweenSlices=4, SliceThickness=4).drop(1, 3, 5, 7, 9, 11)
    stack.write()
    return refused("missing_slice", truth=only_changed(stack.truth, values=None))


@case("first and last slices missing: a shorter volume, still right")
def missing_at_the_ends(source: Source) -> Expected:
    stack = Stack(source).drop(0, 11)
    stack.write()
    return accepted(stack.part(1, 11))


@case("one position twice, other pixels, nothing tells them apart")
def duplicate_position(source: Source) -> Expected:
    stack = Stack(source)
    extra = Stack(source, first=50)[6]
    extra.PixelData = bytes(b ^ 1 for b in extra.PixelData)
    stack.slices.append(extra)
    stack.write()
    return refused("duplicate_positions", truth=only_changed(stack.truth, values=None))


@case("all positions twice, nothing tells them apart")
def duplicate_stack(source: Source) -> Expected:
    stack = Stack(source)
    again = Stack(source, first=50, change=lambda values: values + 3)
    for data in again:
        data.InstanceNumber = None
    stack.set(InstanceNumber=None)
    stack.slices += again.slices
    stack.write()
    return refused("duplicate_positions|several_volumes", truth=stack.truth)


@case("the same slices sent twice under new SOP instance UIDs")
def sent_twice(source: Source) -> Expected:
    stack = Stack(source)
    again = Stack(source, first=50)
    for index, data in enumerate(again):
        data.InstanceNumber = index + 1
    stack.slices += again.slices
    stack.write()
    return either(stack.truth)


@case("files copied byte for byte")
def exact_copies(source: Source) -> Expected:
    stack = Stack(source)
    for path in stack.write("a")[:4]:
        source.bytes(f"b/{path.name}", path.read_bytes())
    return accepted(stack.truth, findings="duplicate_files")


@case("one SOP instance UID, two contents")
def conflicting_copies(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("a")
    data = Stack(source, change=lambda values: values + 5)[3]
    single = Stack(source)
    single.slices = [data]
    single.write("b")
    return refused("conflicting_duplicates", truth=stack.truth)


@case("spacing changes halfway, 4 mm then 3 mm")
def variable_spacing(source: Source) -> Expected:
    stack = Stack(source)
    points = {}
    for index, data in enumerate(stack):
        data.ImagePositionPatient = _at(min(index, 6), 0, 0, 3.0 * max(0, index - 6))
    for value, (column, row, index) in stack.landmarks.items():
        position = np.array([float(v) for v in stack[index].ImagePositionPatient])
        world = position + AXIAL.row * column * AXIAL.spacing[0] + AXIAL.column * row * AXIAL.spacing[1]
        points[float(value)] = (-world[0], -world[1], world[2])
    stack.write()
    return refused("variable_spacing", truth=only_changed(stack.truth, values=None, points=points))


@case("2 mm slices through the neck, 4 mm below")
def thin_then_thick(source: Source) -> Expected:
    stack = Stack(source, make_grid(step=2.0, shape=(24, 20, 22))).drop(13, 15, 17, 19)
    stack.write()
    return refused("variable_spacing|missing_slice", truth=only_changed(stack.truth, values=None))


@case("the table moved sideways halfway")
def table_moved(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.ImagePositionPatient = _at(index, 6.0 * (index > 5), 0, 0)
    stack.write()
    return refused("variable_spacing|mixed_.*|gantry_tilt", truth=())


TILTS = {"15 degrees": 15.0, "minus 22 degrees": -22.0, "3 degrees": 3.0}


def _tilted(degrees: float) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source, make_grid(shear=(0.0, 4.0 * float(np.tan(np.radians(degrees))))), change=even)
        stack.set(GantryDetectorTilt=f"{degrees:.1f}").write()
        return accepted(only_changed(stack.truth, resampled=True), findings="gantry_tilt")

    return build


for _name, _degrees in TILTS.items():
    case_of("geometry", f"gantry tilted by {_name}", f"gantry tilted by {_name}", _tilted(_degrees))  # type: ignore[arg-type]


@case("gantry tilted, no GantryDetectorTilt, oblique shift along the row too")
def gantry_tilted_untold(source: Source) -> Expected:
    stack = Stack(source, make_grid(shear=(0.6, -1.1)), change=even)
    stack.write()
    return accepted(only_changed(stack.truth, resampled=True), findings="gantry_tilt")


@case("gantry tilted, slices in falling order")
def gantry_tilted_falling(source: Source) -> Expected:
    stack = Stack(source, make_grid(step=-4.0, shear=(0.0, 1.2)), change=even)
    stack.write()
    return accepted(only_changed(stack.truth, resampled=True), findings="gantry_tilt")


@case("gantry tilted and a slice missing")
def gantry_tilted_and_gap(source: Source) -> Expected:
    stack = Stack(source, make_grid(shear=(0.0, 1.2))).drop(4)
    stack.write()
    return refused("missing_slice", truth=only_changed(stack.truth, values=None))


@case("GantryDetectorTilt says 20 degrees, the positions are straight")
def gantry_tilt_only_told(source: Source) -> Expected:
    stack = Stack(source).set(GantryDetectorTilt="20.0")
    stack.write()
    return accepted(stack.truth)


MISSING = {
    "no ImagePositionPatient": {"ImagePositionPatient": None},
    "no ImageOrientationPatient": {"ImageOrientationPatient": None},
    "no PixelSpacing": {"PixelSpacing": None},
    "PixelSpacing zero": {"PixelSpacing": [0, 0]},
    "PixelSpacing negative": {"PixelSpacing": [-2.5, 2]},
    "orientation all zero": {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
    "orientation not at right angles": {"ImageOrientationPatient": [1, 0, 0, 0.5, 0.866, 0]},
    "orientation twice the same direction": {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
    "orientation of length two": {"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]},
}


def _broken(tags: dict[str, object]) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source).set(**tags)
        stack.write()
        return refused("missing_geometry|bad_orientation|bad_spacing", truth=())

    return build


for _name, _tags in MISSING.items():
    case_of("geometry", _name, _name, _broken(_tags))  # type: ignore[arg-type]


@case("one slice without a position")
def one_without_position(source: Source) -> Expected:
    stack = Stack(source)
    del stack[4].ImagePositionPatient
    stack.write()
    return refused("missing_geometry|missing_slice", truth=only_changed(stack.truth, values=None))


@case("a position of NaN, of infinity, of two numbers and with decimal commas")
def positions_damaged(source: Source) -> Expected:
    for number, text in enumerate((b"nan\\0\\0 ", b"1e999\\0\\0", b"10\\20 ", b"-11,5\\8,0\\3,5 ")):
        stack = Stack(source, series=number + 1)
        for data in stack:
            data["ImagePositionPatient"]._value = "@" * len(text)
            data["ImagePositionPatient"].VR = "LO"
        for path in stack.write(f"{number}"):
            raw = path.read_bytes()
            marker = b"\x20\x00\x32\x00LO"
            at = raw.index(marker)
            path.write_bytes(raw.replace(b"@" * len(text), text).replace(marker, b"\x20\x00\x32\x00DS"))
            assert at
    return refused("missing_geometry")


@case("one slice of a volume alone")
def one_slice(source: Source) -> Expected:
    stack = Stack(source)
    stack.slices = stack.slices[5:6]
    stack.write()
    return accepted(stack.part(5, 6))


@case("two slices")
def two_slices(source: Source) -> Expected:
    stack = Stack(source)
    stack.slices = stack.slices[5:7]
    stack.write()
    return accepted(stack.part(5, 7))


@case("fine spacing of a micro-CT, 0.05 mm")
def micro(source: Source) -> Expected:
    grid = make_grid(spacing=(0.05, 0.06), step=0.05)
    stack = Stack(source, grid)
    stack.write()
    return accepted(stack.truth)


@case("fine spacing with a slice missing, 0.05 mm")
def micro_gap(source: Source) -> Expected:
    stack = Stack(source, make_grid(spacing=(0.05, 0.06), step=0.05)).drop(5)
    stack.write()
    return refused("missing_slice", truth=only_changed(stack.truth, values=None))


@case("far from the isocentre: positions of 1,500 mm")
def far_away(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.ImagePositionPatient = _at(index, 0, 0, -1500)
    stack.write()
    affine = stack.truth.affine.copy()
    affine[2, 3] -= 1500
    points = {value: (x, y, z - 1500) for value, (x, y, z) in stack.truth.points.items()}
    return accepted(only_changed(stack.truth, affine=affine, points=points))


@case("orientation rounded to four digits on an oblique")
def orientation_rounded(source: Source) -> Expected:
    u, v = np.array([0.9063, 0.0, -0.4226]), np.array([0.1093, 0.9660, 0.2343])
    grid = make_grid(tuple(u), tuple(v - np.dot(u, v) / np.dot(u, u) * u))
    stack = Stack(source, grid)
    rng = np.random.default_rng(3)
    for data in stack:
        noisy = np.concatenate([grid.row, grid.column]) + rng.uniform(-4e-5, 4e-5, 6)
        data.ImageOrientationPatient = [f"{value:.5f}" for value in noisy]
    stack.write()
    return accepted(only_changed(stack.truth, values=None))


@case("positions jitter by 0.3 mm on 4 mm")
def jitter(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.ImagePositionPatient = _at(index, 0, 0, 0.3 * (index in (4, 7)))
    stack.write()
    return refused("variable_spacing", truth=only_changed(stack.truth, values=None))


@case("one gap of one and a half slices")
def half_gap(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        data.ImagePositionPatient = _at(index, 0, 0, 2.0 * (index > 6))
    stack.write()
    return refused("variable_spacing|missing_slice", truth=())


@case("slices shift sideways by 0.3 degrees: kept in the affine")
def slight_shear(source: Source) -> Expected:
    stack = Stack(source, make_grid(shear=(0.0, 0.02)))
    stack.write()
    return accepted(stack.truth)


@case("a stack of one-pixel-high strips: 24 x 1 x 12")
def strips(source: Source) -> Expected:
    stack = Stack(source, make_grid(shape=(24, 1, 12)))
    stack.write()
    return either(stack.truth)
