"""What a radiologist would notice at a glance must stand among the findings, with the images themselves untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from corpus.dicom import Stack, store
from corpus.nifti import SHAPE, affine_of, body, header, truth, voxels_of, write
from corpus.phantom import make_grid, only_changed, organ_mask, with_points
from corpus.source import Expected, Source, accepted, case


def _changed(source: Source, change: Callable[[np.ndarray], np.ndarray], name: str = "a.nii.gz") -> Any:
    affine = affine_of()
    values = change(voxels_of(affine).copy())
    write(source, name, header(SHAPE, sform=affine, qform=affine), body(values))
    points = {v: at for v, at in truth(affine).points.items() if np.sum(values == v) == 1}
    return only_changed(truth(affine), points=points, values=values.astype(float))


@case("empty slices inside a volume")
def empty_slices(source: Source) -> Expected:
    stack = Stack(source)
    values = stack.values.copy()
    values[:, :, 5] = -1000
    store(stack[5], values[:, :, 5].T, intercept=-1024)
    stack.write()
    points = {
        float(stack.values[at]): stack.truth.points[float(stack.values[at])]
        for at in stack.landmarks.values()
        if at[2] != 5
    }
    return accepted(
        only_changed(stack.truth, values=values.astype(float), points=points), findings="empty.*|constant.*"
    )


@case("saturated: a fifth of the body at the largest value")
def saturated(source: Source) -> Expected:
    def change(values: np.ndarray) -> np.ndarray:
        values[values >= 40] = 2500
        return values

    held = _changed(source, change)
    return accepted(held, findings="saturat.*")


@case("voxels ten times as long as wide")
def anisotropic(source: Source) -> Expected:
    stack = Stack(source, make_grid(spacing=(0.8, 0.8), step=8.0, shape=(60, 56, 6)))
    stack.write()
    return accepted(stack.truth, findings="anisotrop.*|.*spacing.*")


@case("a body cut off by the field of view")
def field_of_view(source: Source) -> Expected:
    stack = Stack(source, make_grid(spacing=(1.5, 1.5), shape=(14, 24, 12)))
    values = np.maximum(stack.values, 30)
    for index, data in enumerate(stack):
        store(data, values[:, :, index].T, intercept=-1024)
    stack.write()
    return accepted(
        only_changed(stack.truth, values=values.astype(float)),
        findings=".*field_of_view.*|body_at_edge|cropped|truncated.*",
    )


@case("the same pixels under another patient")
def same_pixels(source: Source) -> Expected:
    one, other = Stack(source, study=1, series=1), Stack(source, study=2, series=2, patient=1)
    one.write("one")
    other.write("two")
    return accepted(one.truth, other.truth, findings=".*duplicate.*", patients=2)


@case("a CT that is no CT: values 0 to 255")
def not_hounsfield(source: Source) -> Expected:
    stack = Stack(source)
    values = np.rint(np.interp(stack.values, [-1000, 2150], [0, 255])).astype(int)
    for index, data in enumerate(stack):
        store(data, values[:, :, index].T)
    stack.write()
    return accepted(
        only_changed(stack.truth, values=values.astype(float), points={}), findings=".*hounsfield.*|.*ct_.*|.*range.*"
    )


@case("the intercept was applied twice: air at -2024")
def intercept_twice(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.RescaleIntercept = -2048
    stack.write()
    return accepted(with_points(stack.truth, lambda v: v - 1024), findings=".*below_air.*|.*air.*|.*range.*")


def _labelled(source: Source, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Write an image whose air has one value, and a label map."""
    affine = affine_of()
    mask = change(organ_mask(affine, SHAPE))
    values = np.where(voxels_of(affine) < -900, -1000, voxels_of(affine))
    write(source, "images/a.nii.gz", header(SHAPE, sform=affine, qform=affine), body(values))
    write(source, "labels/a.nii.gz", header(SHAPE, "u1", sform=affine, qform=affine), body(mask, "u1"))
    return only_changed(truth(affine), values=values.astype(float), mask=mask)


@case("a label map without a label")
def empty_mask(source: Source) -> Expected:
    affine = affine_of()
    write(source, "images/a.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine)))
    write(source, "labels/a.nii.gz", header(SHAPE, "u1", sform=affine, qform=affine), body(np.zeros(SHAPE), "u1"))
    return Expected(scans=(truth(affine),), findings=(".*mask.*|.*label.*",), refused=("?.*label.*",), free=True)


@case("a label map drawn outside the body")
def mask_outside(source: Source) -> Expected:
    def change(mask: np.ndarray) -> np.ndarray:
        mask[:] = 0
        mask[0:3, 0:3, 0:4] = 1
        return mask

    return accepted(_labelled(source, change), findings=".*outside.*")


@case("single stray voxels of a label")
def tiny_components(source: Source) -> Expected:
    def change(mask: np.ndarray) -> np.ndarray:
        mask[4:12, 4:14, 3:11] = 1
        mask[2, 3, 2] = mask[13, 4, 11] = mask[3, 15, 10] = 1
        return mask

    return accepted(_labelled(source, change), findings=".*tiny.*|.*component.*")


@case("voxels that are no size for a patient: micrometres taken as millimetres")
def wrong_unit(source: Source) -> Expected:
    affine = affine_of()
    affine[:3] *= 1000
    write(source, "a.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine_of())))
    held = truth()
    points = {v: (x * 1000, y * 1000, z * 1000) for v, (x, y, z) in held.points.items()}
    return Expected(scans=(), maybe=(only_changed(held, affine=affine, points=points),), check=_told)


def _told(home: object, report: Any, kept: list) -> list[str]:
    told = [o for o in report.outcomes if o.outcome == "refused" or o.findings]
    return [] if told else ["36 m of patient passed without a word"]
