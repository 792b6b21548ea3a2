"""What inference is measured on: hippocampi as NIfTI and generated CT series as DICOM, and one network for all sides.

Weights are nnU-Net's own. Those of the hippocampus come from `benchmarks.time_to_dice`, those of the CT phantom are
trained here for some minutes: random ones would decide by chance, and every rounding would turn a label.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ct_series import LABELS, SIZE, build_study, slice_labels, slice_pixels, slice_texture
from benchmarks.hippocampus import DATA, NNUNET_NAME, prepare
from benchmarks.peers import CACHE, nnunet_python
from benchmarks.time_to_dice import THREADS, train_nnunet
from medml.networks.foreign import fit_network, read_foreign
from medml.networks.package import write_package
from medml.records.calibration import Calibration
from medml.records.plan import Normalisation, Plan

WORK = CACHE / "inference"
CHILD = Path(__file__).with_name("nnunet_inference.py")
CASES, SERIES, SLICES = 60, 3, 120
COARSE_MM = 3.0
CT_WINDOW = (48, 96, 96)  # slices, rows, columns, as nnU-Net orders them
CT_FILTERS = (16, 32, 64, 128)
PIXEL_MM = 0.78125


@dataclass(frozen=True, slots=True)
class Input:
    """One batch.

    Attributes
    ----------
    source : Path
        Folder of images as they come: one file, or one folder of slices, per scan.
    package : Path
        Ours, with nnU-Net's weights.
    nnunet : Path
        Folder with ``plans.json``, ``dataset.json`` and ``weights.pth``.
    """

    name: str
    source: Path
    dicom: bool
    package: Path
    nnunet: Path


def hippocampi() -> Input | str:
    """Return 60 hippocampi and their trained network, or why there are none."""
    folder = next((path for path in DATA.glob("*") if path.name.lower() == "task04_hippocampus"), None)
    if folder is None:
        return f"{DATA} holds no task04_hippocampus; set MEDML_DATA"
    work, data = WORK / "hippocampus", prepare()
    trained = sorted(data.work.glob("nnunet-*/final.pth"))
    if not trained:
        train_nnunet(data, 2.0)
        trained = sorted(data.work.glob("nnunet-*/final.pth"))
    if not (work / "ready").exists():
        images, nnunet = work / "images", work / "nnunet"
        images.mkdir(parents=True, exist_ok=True)
        nnunet.mkdir(exist_ok=True)
        for path in sorted((folder / "imagesTr").glob("[!.]*.nii.gz"))[:CASES]:
            target = images / f"{path.name.removesuffix('.nii.gz')}_0000.nii.gz"
            target.unlink(missing_ok=True)
            target.write_bytes(path.read_bytes())
        plans = Path(data.nnunet["nnUNet_preprocessed"]) / NNUNET_NAME / "nnUNetPlans.json"
        (nnunet / "plans.json").write_bytes(plans.read_bytes())
        (nnunet / "dataset.json").write_bytes((data.raw / "dataset.json").read_bytes())
        (nnunet / "weights.pth").write_bytes(trained[-1].read_bytes())
        _pack(work, "MR", orientation="RAS")  # as the files lie
        (work / "ready").touch()
    return Input("60 hippocampi, NIfTI", work / "images", False, work / "package", work / "nnunet")


def ct_series() -> Input | str:
    """Return generated CT series and a network trained on what they show."""
    like = WORK / "hippocampus" / "nnunet" / "plans.json"
    if not like.exists():
        return "nnU-Net's plans of the hippocampus, which those of the CT are made from, are not there"
    work = WORK / "ct"
    if not (work / "ready").exists():
        nnunet = work / "nnunet"
        nnunet.mkdir(parents=True, exist_ok=True)
        build_study(work / "images", series=SERIES, slices=SLICES)
        values = _coarse(nnunet / "phantom.npz")
        plans = _ct_plans(json.loads(like.read_text(encoding="utf-8")), values)
        (nnunet / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
        described = {"channel_names": {"0": "CT"}, "labels": {name: value for value, name in LABELS.items()}}
        (nnunet / "dataset.json").write_text(json.dumps(described | {"file_ending": ".nii.gz"}), encoding="utf-8")
        command = [str(nnunet_python()), str(CHILD), "train", str(nnunet)]
        subprocess.run(command, check=True, env=os.environ | THREADS, stdout=subprocess.DEVNULL)
        _pack(work, "CT", orientation="LAS")  # as dcm2niix writes them
        (work / "ready").touch()
    name = f"{SERIES} CT series of {SIZE}x{SIZE}x{SLICES}, DICOM"
    return Input(name, work / "images", True, work / "package", work / "nnunet")


def our_plan(plans: dict[str, Any], dataset: dict[str, Any], modality: str, orientation: str) -> Plan:
    """Return the plan that says what nnU-Net's plans say; its axes are (z, y, x), ours (x, y, z).

    nnU-Net takes files as they lie, so that ``orientation`` is that of its files.
    """
    found = plans["configurations"]["3d_fullres"]
    arguments = found["architecture"]["arch_kwargs"]
    scheme = Normalisation(kind="zscore")
    if found["normalization_schemes"] == ["CTNormalization"]:
        known = plans["foreground_intensity_properties_per_channel"]["0"]
        low, high = known["percentile_00_5"], known["percentile_99_5"]
        scheme = Normalisation(kind="clip_zscore", low=low, high=high, mean=known["mean"], std=known["std"])
    return Plan(
        task="segment",
        dims=3,
        modality=modality,
        channels=("image",),
        labels={int(value): name for name, value in dataset["labels"].items()},
        spacing_mm=tuple(found["spacing"][::-1]),
        anchor="edges",
        orientation=orientation,
        patch=tuple(found["patch_size"][::-1]),
        normalisation=(scheme,),
        network="dynunet",
        network_options={
            "filters": tuple(arguments["features_per_stage"]),
            "strides": tuple(tuple(stride[::-1]) for stride in arguments["strides"]),
            "trans_bias": bool(arguments["conv_bias"]),
        },
        batch=1,
        steps_per_epoch=1,
        epochs=1,
        minutes=1,
        patience=1,
        learning_rate=1e-3,
        loss="dice_ce",
    )


def _pack(work: Path, modality: str, *, orientation: str) -> None:
    nnunet = work / "nnunet"
    plans, dataset = (json.loads((nnunet / name).read_text("utf-8")) for name in ("plans.json", "dataset.json"))
    plan = our_plan(plans, dataset, modality, orientation)
    network = fit_network(read_foreign(nnunet / "weights.pth")[0], plan, axes=(2, 1, 0))
    write_package(work / "package", network, plan, plan.labels, Calibration(), "# Benchmark\n", {})


def _coarse(path: Path) -> dict[str, float]:
    """Write the phantom at the network's spacing (z, y, x), normalised, with its labels; return what it looks like."""
    step = round(COARSE_MM / PIXEL_MM)
    texture = slice_texture(SLICES)
    planes = range(0, SLICES, round(COARSE_MM))
    image = np.stack([slice_pixels(k, texture[k])[::step, ::step] for k in planes]).astype(np.float32)
    labels = np.stack([slice_labels()[::step, ::step] for _ in planes])
    inside = image[labels > 0]
    low, high = (float(value) for value in np.percentile(inside, (0.5, 99.5)))
    known = {"percentile_00_5": low, "percentile_99_5": high, "mean": float(inside.mean()), "std": float(inside.std())}
    np.savez(path, image=(image.clip(low, high) - known["mean"]) / known["std"], labels=labels)
    return known | {"median": float(np.median(inside)), "min": float(inside.min()), "max": float(inside.max())}


def _ct_plans(like: dict[str, Any], values: dict[str, float]) -> dict[str, Any]:
    plans = copy.deepcopy(like)
    plans["foreground_intensity_properties_per_channel"] = {"0": values}
    found = plans["configurations"]["3d_fullres"]
    found |= {"patch_size": CT_WINDOW, "spacing": [COARSE_MM] * 3, "normalization_schemes": ["CTNormalization"]}
    stages = len(CT_FILTERS)
    found["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": CT_FILTERS,
        "kernel_sizes": [[3] * 3] * stages,
        "strides": [[1] * 3, *([[2] * 3] * (stages - 1))],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    plans["configurations"] = {"3d_fullres": found}
    return plans
