"""A packaged network as one ONNX file, proved to give the same scores as torch."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medml.errors import ConfigError, MedmlError
from medml.io.files import temporary_path, write_record
from medml.networks.ensemble import Ensemble
from medml.networks.package import Package
from medml.networks.recipe import input_shape
from medml.records.plan import Plan
from medml.records.record import Record

TOLERANCE = 1e-3
OPSET = 20
LIBRARIES = ("onnx", "onnxruntime", "onnxscript")


class Parity(Record):
    """``model.onnx.json``: what the file beside it holds, and how far its scores are from torch's.

    Attributes
    ----------
    package : str
        Digest of the package that was exported.
    input_shape : tuple
        (batch, channels, I, J) or (…, K): preprocessed voxels, float32. The batch may have any size.
    members, views : int
        Networks and mirrored views whose probabilities are averaged inside the file.
    largest_difference : dict
        Over all scores, absolute, in fp32 on the CPU: of an image of noise, and of one with a body and an organ.
    """

    package: str
    network: str
    input_shape: tuple[int | str, ...]
    members: int
    views: int
    opset: int
    largest_difference: dict[str, float]
    tolerance: float
    versions: dict[str, str]


def export_onnx(package: Package, folder: Path) -> tuple[Path, Parity]:
    """Write ``model.onnx`` and ``model.onnx.json`` into ``folder``; neither is there if the scores differ.

    The network takes preprocessed windows (batch, C, I, J[, K]) of the plan's patch or size, named ``image``, and gives
    ``scores``: (batch, L, …) of a segmenter, (batch, L) of a classifier, before calibration.

    Raises
    ------
    ConfigError
        If the ``onnx`` extra is not installed.
    MedmlError
        If the network cannot be exported, or its scores differ by more than `TOLERANCE`.
    """
    _require_libraries()
    plan = package.plan
    module = Ensemble(
        package.members,
        flips=plan.tta_flips,
        per_voxel=plan.task == "segment",
        multi_label=plan.multi_label,
    ).eval()
    images = example_images(plan)
    folder.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(folder / "model.onnx")
    try:
        _export(module, images["noise"], partial, plan.network)
        differences = {name: _difference(module, image, partial) for name, image in images.items()}
        worst = max(differences.values())
        if not worst <= TOLERANCE:
            raise MedmlError(
                f"{plan.network}: scores of the ONNX file differ by {worst:.2g} from torch's, at most {TOLERANCE:g} is "
                "allowed; nothing was written, use the bundle"
            )
        parity = Parity(
            package=package.digest,
            network=plan.network,
            input_shape=("batch", len(plan.channels), *input_shape(plan)),
            members=len(package.members),
            views=len(module.views),
            opset=OPSET,
            largest_difference=differences,
            tolerance=TOLERANCE,
            versions={name: installed_version(name) for name in ("torch", *LIBRARIES)},
        )
        partial.replace(folder / "model.onnx")
    finally:
        partial.unlink(missing_ok=True)
    write_record(folder / "model.onnx.json", parity)
    return folder / "model.onnx", parity


def example_images(plan: Plan) -> dict[str, torch.Tensor]:
    """Return batches (B, C, I, J[, K]) to compare on: noise, and a smooth body with an organ; of different sizes B."""
    shape = input_shape(plan)
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(2, len(plan.channels), *shape)).astype(np.float32)
    grid = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    distance = np.sqrt(sum(np.square(axis) for axis in grid))
    scene = np.where(distance < 0.9, 0.5, -1.0) + 2.0 * np.exp(-np.square(distance / 0.3))
    body = scene + 0.05 * generator.normal(size=(3, len(plan.channels), *shape))
    return {"noise": torch.from_numpy(noise), "body": torch.from_numpy(body.astype(np.float32))}


def _require_libraries() -> None:
    # Read once, when ONNX Runtime is loaded; without it, official builds report to their maker (its Privacy.md).
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        for name in LIBRARIES:
            import_module(name)
    except ImportError as error:
        raise ConfigError(f"ONNX needs {error.name}, which is not installed; pip install 'medml[onnx]'") from None


def _export(module: nn.Module, image: torch.Tensor, path: Path, name: str) -> None:
    noisy = [logging.getLogger(part) for part in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        torch.onnx.export(
            module,
            (image,),
            str(path),
            dynamo=True,
            input_names=["image"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    except Exception as error:
        # torch wraps whatever stops it, a library's own error included, in errors of several kinds.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MedmlError(f"{name} cannot be exported to ONNX: {reason}; use the bundle") from error
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def _difference(module: nn.Module, image: torch.Tensor, path: Path) -> float:
    """Return the largest absolute difference between torch's scores and the file's, both fp32 on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = module(image).numpy()
    (found,) = session.run(["scores"], {"image": image.numpy()})
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max())
