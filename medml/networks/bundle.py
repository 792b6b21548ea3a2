"""The two configuration files that make a package a MONAI bundle: what it is, and how to run it without medml."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

from medml.networks.build import network_arguments, network_target
from medml.networks.ensemble import views
from medml.records.plan import Normalisation, Plan
from medml.transforms.preprocessing import SAME_SPACING_MM, foreground_threshold

WINDOW_BATCH = 4
REQUIRED = ("nibabel", "einops", "scipy", "scikit-image")  # beside MONAI and torch; the last for the largest component
Step = dict[str, Any]


def inference_config(plan: Plan, temperature: float = 1.0, *, members: int = 1) -> dict[str, Any]:
    """Return ``configs/inference.json``: one NIfTI (or one per channel) in; a mask or class probabilities out.

    ``python -m monai.bundle run --config_file configs/inference.json --input scan.nii.gz --output_dir out``, in the
    package's folder. Probabilities of ``members`` networks and of the plan's mirrored views are averaged as
    `medml.networks.ensemble.Ensemble` does it.
    """
    network = {"_target_": network_target(plan), **network_arguments(plan)}
    shared = {
        "imports": ["$import json", "$import torch", "$from pathlib import Path"],
        "bundle_root": ".",
        "input": "image.nii.gz",
        "output_dir": "output",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        **{f"network_def_{number}": network for number in range(2, members + 1)},
        "networks": ["@network_def", *(f"@network_def_{number}" for number in range(2, members + 1))],
        "files": ["model.pt", *(f"model_{number}.pt" for number in range(2, members + 1))],
        "weights": "$[network.load_state_dict(torch.load(str(Path(@bundle_root) / 'models' / file), "
        "map_location='cpu', weights_only=True)) for network, file in zip(@networks, @files)]",
        "network": "$[network.to(@device).eval() for network in @networks]",
        "views": [list(axes) for axes in views(plan.tta_flips)],
        "answer": _answer(plan, members),
        **({"reading": {"_target_": "Compose", "transforms": _reading(plan)}} if _holds_edges(plan) else {}),
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(plan)},
        "data": "$@preprocessing({'image': @input})",
        "inferer": _inferer(plan),
        **_arithmetic(plan),
        "logits": "$torch.no_grad()(torch.autocast(@device.type, torch.bfloat16, @half)(lambda: "
        "@inferer(@data['image'][None].to(@device), lambda batch: @answer(batch).float())))()[0].cpu()",
    }
    return shared | (_segment(plan) if plan.task == "segment" else _classify(plan, temperature))


def metadata(plan: Plan, *, name: str, version: str, terms: str) -> dict[str, Any]:
    """Return ``configs/metadata.json`` in the fields of MONAI's bundle specification."""
    shape = plan.patch if plan.task == "segment" else plan.size
    segment = plan.task == "segment"
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "name": name,
        "version": version,
        "changelog": {version: "packaged by medml"},
        "monai_version": installed_version("monai"),
        "pytorch_version": installed_version("torch").partition("+")[0],
        "numpy_version": installed_version("numpy"),
        "required_packages_version": {part: installed_version(part) for part in REQUIRED},
        "supported_apps": {},
        "task": f"{plan.modality} {'segmentation' if segment else 'classification'}",
        "description": f"{plan.network} to {plan.task} {', '.join(plan.labels.values())}; research use only",
        "authors": "medml",
        "copyright": f"Weights learned from data with its own terms: {terms}",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if plan.modality == "CT" else "magnitude",
                    "modality": plan.modality,
                    "num_channels": len(plan.channels),
                    "spatial_shape": list((shape or ())[: plan.dims]),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": segment,
                    "channel_def": {str(number): channel for number, channel in enumerate(plan.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image" if segment else "probabilities",
                    "format": "segmentation" if segment else "classes",
                    "num_channels": len(plan.labels),
                    "spatial_shape": list((shape or ())[: plan.dims]) if segment else [],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": segment,
                    "channel_def": {str(value): label for value, label in plan.labels.items()},
                }
            },
        },
    }


def _arithmetic(plan: Plan) -> dict[str, Any]:
    """Return whether networks run in bf16: as `medml.networks.precision.choose_precision` says; ``--half False`` not.

    In other arithmetic a few voxels on a border would have another label: 6 of the 3,000 of a hippocampus.
    """
    if plan.task != "segment":
        return {"half": False}
    flags = "any(flag in Path('/proc/cpuinfo').read_text() for flag in ('avx512_bf16', 'amx_bf16'))"
    cuda = "torch.cuda.is_bf16_supported(including_emulation=False)"
    return {"half": f"${cuda} if @device.type == 'cuda' else Path('/proc/cpuinfo').exists() and {flags}"}


def _answer(plan: Plan, members: int) -> str:
    """Return the expression that asks the networks: the MONAI counterpart of `Ensemble.forward`."""
    scores = "network(batch)[0]" if network_target(plan) == "ViT" else "network(batch)"
    if members == 1 and not plan.tta_flips:
        return f"$(lambda network: lambda batch: {scores})(@network[0])"
    back = "torch.flip(scores, axes)" if plan.task == "segment" else "scores"
    one = f"(lambda scores, axes: {back})((lambda batch: {scores})(torch.flip(batch, axes)), axes)"
    every = f"torch.stack([{one} for network in networks for axes in views])"
    if plan.multi_label:
        log = "torch.nn.functional.logsigmoid"
        mean = f"(lambda all: {log}(all).logsumexp(0) - {log}(-all).logsumexp(0))({every})"
    else:
        mean = f"{every}.log_softmax(2).logsumexp(0)"
    return f"$(lambda networks, views: lambda batch: {mean})(@network, @views)"


def _reading(plan: Plan) -> list[Step]:
    """Return the first steps of `_preprocessing`: reading, turning and cropping."""
    steps: list[Step] = [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": plan.orientation},
    ]
    if plan.crop_foreground:
        steps.append(
            {
                "_target_": "CropForegroundd",
                "keys": "image",
                "source_key": "image",
                "select_fn": f"$lambda x: x > {foreground_threshold(plan.modality)}",
                "allow_smaller": True,
            }
        )
    return steps


def _preprocessing(plan: Plan) -> list[Step]:
    """Return the MONAI counterpart of `medml.transforms.preprocessing.preprocess`, step by step."""
    steps = _reading(plan)
    if plan.spacing_mm is not None:
        steps.append(_respace(plan))
    steps += _normalise(plan)
    if plan.task == "classify" and plan.size is not None:
        if plan.spacing_mm is not None:
            steps.append({"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": list(plan.size)})
        else:
            steps.append(
                {
                    "_target_": "Resized",
                    "keys": "image",
                    "spatial_size": list(plan.size),
                    "mode": "trilinear",
                    "anti_aliasing": True,
                }
            )
        if plan.dims == 2:
            steps.append({"_target_": "SqueezeDimd", "keys": "image", "dim": -1})
    return steps


def _holds_edges(plan: Plan) -> bool:
    return plan.spacing_mm is not None and plan.anchor == "edges"


def _respace(plan: Plan) -> Step:
    """Return the step to the plan's spacing; where the edges stay, its shape follows from the image that is read."""
    pixdim = list(plan.spacing_mm or ())
    if plan.dims == 2:
        pixdim[2] = -1.0
    if not _holds_edges(plan):
        return {"_target_": "Spacingd", "keys": "image", "pixdim": pixdim, "mode": "bilinear"}
    shape = (
        f"$(lambda image: [n if wanted < 0 or abs(own - wanted) <= {SAME_SPACING_MM} else max(1, round(n * own / wanted"
        f")) for n, own, wanted in zip(image.shape[1:], image.pixdim.tolist(), {pixdim})])"
        "(@reading({'image': @input})['image'])"
    )
    return {"_target_": "Resized", "keys": "image", "spatial_size": shape, "mode": "trilinear", "align_corners": False}


def _normalise(plan: Plan) -> list[Step]:
    first, *others = plan.normalisation
    if all(rule == first for rule in others):
        return _scale("image", first)
    parts = [f"image_{number}" for number in range(len(plan.normalisation))]
    steps: list[Step] = [{"_target_": "SplitDimd", "keys": "image", "dim": 0, "keepdim": True}]
    for part, rule in zip(parts, plan.normalisation, strict=True):
        steps += _scale(part, rule)
    return [*steps, {"_target_": "ConcatItemsd", "keys": parts, "name": "image"}]


def _scale(key: str, rule: Normalisation) -> list[Step]:
    if rule.kind == "zscore":
        return [{"_target_": "NormalizeIntensityd", "keys": key, "channel_wise": True}]
    span = (0.0, 1.0) if rule.kind == "range" else (rule.low, rule.high)
    clip: Step = {"_target_": "ScaleIntensityRanged", "keys": key, "a_min": rule.low, "a_max": rule.high}
    clip |= {"b_min": span[0], "b_max": span[1], "clip": True}
    if rule.kind == "range":
        return [clip]
    divisor = rule.std if rule.std > 0 else 1.0
    return [clip, {"_target_": "NormalizeIntensityd", "keys": key, "subtrahend": rule.mean, "divisor": divisor}]


def _inferer(plan: Plan) -> Step:
    if plan.task == "classify":
        return {"_target_": "SimpleInferer"}
    roi = list((plan.patch or ())[: plan.dims])
    window: Step = {"roi_size": roi, "sw_batch_size": WINDOW_BATCH, "overlap": plan.overlap}
    if plan.dims == 2:
        return {"_target_": "SliceInferer", "spatial_dim": 2, "mode": "gaussian", **window}
    return {"_target_": "SlidingWindowInferer", "mode": "gaussian", **window}


def _segment(plan: Plan) -> dict[str, Any]:
    steps: list[Step] = [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]
    if plan.keep_largest:
        labels = [value for value in plan.labels if value != 0]
        steps.append(
            {
                "_target_": "KeepLargestConnectedComponentd",
                "keys": "pred",
                "applied_labels": labels,
                "is_onehot": False,
                "independent": True,
            }
        )
    steps.append(
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$__import__('numpy').uint8",
            "separate_folder": False,
            "resample": False,
        }
    )
    return {
        "postprocessing": {"_target_": "Compose", "transforms": steps},
        "run": ["@weights", "$@postprocessing({**@data, 'pred': @logits})"],
    }


def _classify(plan: Plan, temperature: float) -> dict[str, Any]:
    activation = "sigmoid(@logits / @temperature)" if plan.multi_label else "softmax(@logits / @temperature, dim=0)"
    return {
        "temperature": temperature,
        "labels": [plan.labels[number] for number in sorted(plan.labels)],
        "probabilities": f"$dict(zip(@labels, torch.{activation}.tolist()))",
        "run": [
            "@weights",
            "$Path(@output_dir).mkdir(parents=True, exist_ok=True)",
            "$(Path(@output_dir) / 'probabilities.json').write_text(json.dumps(@probabilities, indent=1))",
            "$print(json.dumps(@probabilities))",
        ],
    }
