"""Label maps and classes beside NIfTI images: nnU-Net, MSD, BIDS, tables."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from corpus.nifti import SHAPE, affine_of, body, header, oblique, truth, voxels_of, write
from corpus.phantom import only_changed, organ_mask, with_points
from corpus.source import Expected, Source, accepted, case, refused


def _case_files(source: Source, image: str, label: str, *, image_affine: Any = None, label_affine: Any = None,
                labels: Any = None, kind: str = "u1", number: int = 0) -> tuple[Any, Any]:  # fmt: skip
    """Write an image and a label map; return the truth with its mask."""
    image_affine = oblique() if image_affine is None else image_affine
    label_affine = image_affine if label_affine is None else label_affine
    write(source, image, header(SHAPE, sform=image_affine, qform=image_affine), body(voxels_of(image_affine) + number))
    mask = organ_mask(label_affine, SHAPE) if labels is None else labels
    write(source, label, header(SHAPE, kind, sform=label_affine, qform=label_affine), body(mask, kind))
    held = with_points(truth(image_affine), lambda v: v + number)
    return only_changed(held, mask=mask), mask


def _nnunet(source: Source, names: dict[str, str] | None = None, training: int = 1) -> None:
    description = {
        "channel_names": names or {"0": "CT"}, "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": training, "file_ending": ".nii.gz",
        "description": "Quetzalberg", "reference": "Klinikum Zwiebelfeld",
    }  # fmt: skip
    source.bytes("dataset.json", json.dumps(description).encode())


@case("nnU-Net: one case with its label map")
def nnunet(source: Source) -> Expected:
    _nnunet(source)
    held, _ = _case_files(source, "imagesTr/DateinameSecret12_0000.nii.gz", "labelsTr/DateinameSecret12.nii.gz")
    return accepted(held, ignored="metadata")


@case("nnU-Net: the label map has the image's shape and another affine")
def nnunet_affine_mismatch(source: Source) -> Expected:
    _nnunet(source)
    moved = oblique()
    moved[:3, 3] += [3.0, 0, 0]
    _case_files(source, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", label_affine=moved)
    return refused("grid_mismatch", ignored="metadata", maybe=truth(oblique()))


@case("nnU-Net: the label map lost its orientation (identity affine)")
def nnunet_identity_label(source: Source) -> Expected:
    _nnunet(source)
    _case_files(source, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", label_affine=np.diag([2.5, 2.25, 3.0, 1.0]))
    return refused("grid_mismatch", ignored="metadata", maybe=truth(oblique()))


@case("nnU-Net: the label map is stored with other axes, but lies on the image's grid")
def nnunet_other_axes(source: Source) -> Expected:
    _nnunet(source)
    affine = affine_of()
    mask = organ_mask(affine, SHAPE)
    write(source, "imagesTr/a_0000.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine)))
    turned = affine @ np.array([[0, 0, -1, SHAPE[0] - 1], [1, 0, 0, 0], [0, -1, 0, SHAPE[2] - 1], [0, 0, 0, 1]])
    stored = np.flip(mask.transpose(1, 2, 0), axis=(1, 2))
    write(source, "labelsTr/a.nii.gz", header(stored.shape, "u1", sform=turned, qform=turned), body(stored, "u1"))
    return accepted(only_changed(truth(affine), mask=mask), ignored="metadata")


@case("nnU-Net: label values that dataset.json does not name")
def nnunet_unknown_label(source: Source) -> Expected:
    _nnunet(source)
    labels = organ_mask(oblique(), SHAPE)
    labels[labels == 2] = 7
    _case_files(source, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", labels=labels)
    return refused("unknown_label|bad_labels", ignored="metadata", maybe=truth(oblique()))


@case("nnU-Net: label values that are no whole numbers")
def nnunet_broken_label(source: Source) -> Expected:
    _nnunet(source)
    labels = organ_mask(oblique(), SHAPE) * 0.7
    _case_files(source, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", labels=labels, kind="f4")
    return refused("bad_labels|unknown_label", ignored="metadata", maybe=truth(oblique()))


@case("nnU-Net: label map of another shape")
def nnunet_other_shape(source: Source) -> Expected:
    _nnunet(source)
    affine = oblique()
    write(source, "imagesTr/a_0000.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine)))
    small = organ_mask(affine, SHAPE)[1:]
    write(source, "labelsTr/a.nii.gz", header(small.shape, "u1", sform=affine, qform=affine), body(small, "u1"))
    return refused("grid_mismatch", ignored="metadata", maybe=truth(oblique()))


@case("nnU-Net: two channels of one case")
def nnunet_channels(source: Source) -> Expected:
    _nnunet(source, {"0": "T1", "1": "T2"})
    affine = oblique()
    held, _ = _case_files(source, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    write(source, "imagesTr/a_0001.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine) + 7))
    return accepted(held, with_points(truth(affine), lambda v: v + 7), ignored="metadata", check=_one_group)


def _one_group(home: object, report: object, kept: list) -> list[str]:
    groups, channels = {scan.facts["group"] for scan in kept}, sorted(scan.facts["channel"] for scan in kept)
    return [] if len(groups) == 1 and channels == [0, 1] else [f"{len(groups)} groups, channels {channels}"]


@case("MSD: 4D image with its label map")
def msd(source: Source) -> Expected:
    description = {
        "name": "Quetzalberg", "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}], "test": [],
    }  # fmt: skip
    source.bytes("dataset.json", json.dumps(description).encode())
    affine = oblique()
    values = np.stack([voxels_of(affine), voxels_of(affine) + 5], axis=-1)
    write(source, "imagesTr/a.nii.gz", header(values.shape, sform=affine, qform=affine), body(values))
    mask = organ_mask(affine, SHAPE)
    write(source, "labelsTr/a.nii.gz", header(SHAPE, "u1", sform=affine, qform=affine), body(mask, "u1"))
    return accepted(
        only_changed(with_points(truth(affine), lambda v: v + 5), component=1, mask=mask), ignored="metadata"
    )


@case("MSD: paths that leave the folder")
def msd_traversal(source: Source) -> Expected:
    outside = source.outside / "outside.nii.gz"
    affine = oblique()
    write(Source(source.outside, source.name), outside.name, header(SHAPE, sform=affine), body(voxels_of(affine)))
    astray = os.path.relpath(outside, source.folder)
    description = {
        "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"},
        "training": [{"image": astray, "label": astray}, {"image": str(outside), "label": "/etc/passwd"}],
    }  # fmt: skip
    source.bytes("dataset.json", json.dumps(description).encode())
    return refused("outside_source", ignored="metadata")


@case("BIDS: a label map among the derivatives")
def bids(source: Source) -> Expected:
    source.bytes(
        "dataset_description.json",
        json.dumps({"Name": "Quetzalberg", "BIDSVersion": "1.9.0", "License": "CC0"}).encode(),
    )
    source.bytes("participants.tsv", b"participant_id\tage\tsex\tname\nsub-01\t93\tF\tQuetzalberg\n")
    held, _ = _case_files(
        source, "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/manual/sub-01/anat/sub-01_label-organ_dseg.nii.gz"
    )
    source.bytes(
        "sub-01/anat/sub-01_T1w.json", b'{"PatientName": "Quetzalberg", "InstitutionName": "Klinikum Zwiebelfeld"}'
    )
    source.bytes("derivatives/manual/dataset_description.json", b'{"Name": "m", "BIDSVersion": "1.9.0"}')
    return accepted(held, ignored="?.*")


@case("a table of classes, with names and addresses in other columns")
def table(source: Source) -> Expected:
    affine, held = oblique(), []
    for number in range(3):
        write(
            source, f"scan{number}.nii.gz", header(SHAPE, sform=affine, qform=affine), body(voxels_of(affine) + number)
        )
        held.append(with_points(truth(affine), lambda v, n=number: v + n))
    rows = ["image,patient_id,label,age,sex,patient_name,birth_date,address,notes"]
    rows += [
        f'scan{n}.nii.gz,PX-7741-ZULU,{"ab" * bool(n)}normal,93,F,Quetzalberg,1931-07-24,Blumenpfad 77,"=cmd()"'
        for n in range(3)
    ]
    source.bytes("labels.csv", "\n".join(rows).encode())
    return accepted(*held, ignored="?.*", patients=1, check=_classes)


def _classes(home: Any, report: Any, kept: list) -> list[str]:
    labelled = report.counts.labelled
    ages = {scan.facts["columns"].get("age") for scan in kept}
    return [] if labelled == 3 and ages == {90} else [f"{labelled} labelled, ages {ages}; expected 3 and 90"]


@case("a label map beside no image")
def label_alone(source: Source) -> Expected:
    _nnunet(source, training=0)
    affine = oblique()
    mask = organ_mask(affine, SHAPE)
    write(source, "labelsTr/a.nii.gz", header(SHAPE, "u1", sform=affine, qform=affine), body(mask, "u1"))
    return refused("label_without_image", ignored="metadata")
