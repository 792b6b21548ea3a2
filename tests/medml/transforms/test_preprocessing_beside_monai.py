"""From the very file to the network's input: ours and MONAI's own transforms, step for step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Resize,
    ScaleIntensityRanged,
    Spacingd,
)

from medml.io.nifti import read_labels, read_nifti
from medml.records.plan import Normalisation, Plan
from medml.transforms.preprocessing import preprocess, preprocess_mask

BOTH = ["image", "mask"]
# Columns along -R, rows along +S, thick slices along -A. Not oblique: there MONAI's `Spacing`
# takes an affine's rounding to 32 bits for a shear, and begins up to half a voxel elsewhere (its affine says so).
THICK = np.array([[-0.75, 0, 0, 40], [0, 0, -5.0, 70], [0, 0.75, 0, -30], [0, 0, 0, 1]])


def files(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    hounsfield = rng.normal(40, 80, (24, 30, 9)).astype(np.int16)
    hounsfield[:4] = hounsfield[:, 25:] = -1000
    mask = np.zeros(hounsfield.shape, dtype=np.uint8)
    mask[8:18, 6:20, 2:7], mask[10:14, 10:14, 3:5] = 1, 2
    paths = {name: folder / f"{name}.nii.gz" for name in BOTH}
    for name, voxels in (("image", hounsfield), ("mask", mask)):
        image = nibabel.Nifti1Image(voxels, THICK)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, paths[name])
    return paths


@pytest.mark.parametrize("spacing", [(1.0, 5.0, 1.0), (0.9, 2.5, 1.3), (1.6, 7.0, 0.7)])
def test_orientation_crop_spacing_and_clipping_of_a_thick_ct(
    tmp_path: Path, make_plan: Callable[..., Plan], spacing: tuple[float, float, float]
) -> None:
    paths = files(tmp_path)
    rule = Normalisation(kind="clip_zscore", low=-150, high=250, mean=45, std=70)
    plan = make_plan(modality="CT", crop_foreground=True, spacing_mm=spacing, normalisation=(rule,))
    volume, _ = read_nifti(paths["image"])
    labels, _ = read_labels(paths["mask"])
    prepared = preprocess(volume, plan)
    monai = Compose(
        [
            LoadImaged(BOTH),
            EnsureChannelFirstd(BOTH),
            Orientationd(BOTH, "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            CropForegroundd(BOTH, "image", select_fn=lambda x: x > -500, allow_smaller=True),
            Spacingd(BOTH, spacing, mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", -150, 250, -150, 250, clip=True),
            NormalizeIntensityd("image", 45, 70),
        ]
    )(paths)
    np.testing.assert_allclose(prepared.voxels, monai["image"].numpy(), atol=1e-4)
    np.testing.assert_allclose(prepared.affine, monai["image"].affine.numpy(), atol=1e-5)
    moved = preprocess_mask(labels.voxels[0], volume, plan)
    # Half-way between two voxels either one is nearest.
    assert (moved == monai["mask"].numpy()[0]).mean() > 0.99


def test_anchored_edges_of_a_mirrored_thick_ct(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    paths = files(tmp_path)
    rule = Normalisation(kind="range", low=-150, high=250)
    plan = make_plan(
        modality="CT",
        crop_foreground=True,
        spacing_mm=(1.6, 7.0, 0.7),
        normalisation=(rule,),
        anchor="edges",
        orientation="LPS",
    )
    volume, _ = read_nifti(paths["image"])
    prepared = preprocess(volume, plan)
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "LPS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            CropForegroundd("image", "image", select_fn=lambda x: x > -500, allow_smaller=True),
        ]
    )(paths)["image"]
    assert before.shape == (1, 20, 9, 25)  # of 0.75, 5 and 0.75 mm
    theirs = Resize((9, 6, 27), mode="trilinear", align_corners=False)(before)
    scaled = ScaleIntensityRanged("image", -150, 250, 0, 1, clip=True)({"image": theirs})["image"]
    np.testing.assert_allclose(prepared.voxels, scaled.numpy(), atol=1e-4)
    np.testing.assert_allclose(prepared.affine, scaled.affine.numpy(), atol=1e-4)
