"""Flow: a registered model as a folder that needs no medml."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from medml.errors import ConfigError
from pipelines.audit import AUDITED
from pipelines.requests import read_request
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult

FORMATS = ("bundle", "onnx")


@flow(name="export-model", flow_run_name="export {model} as {layout}", persist_result=False, **AUDITED)
def export_model(model: str, layout: str, request: str) -> VerbResult:
    """Write a registered model as a MONAI bundle or as an ONNX network.

    Parameters
    ----------
    model : str
        ``name``, ``name@alias`` or ``name/version``; the champion if nothing else is said.
    layout : str
        bundle or onnx.
    request : str
        A request id that holds where to. Never a path: Prefect stores what is given here.
    """
    return write_model(model, layout, request)


@step("export model")
def write_model(model: str, layout: str, request: str) -> VerbResult:
    """Prove the package whole, then copy it or export its network."""
    from medml.networks.package import copy_package, load_package
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    out = Path(read_request(home, request)["output"])
    if layout not in FORMATS:
        raise ConfigError(f"format {layout}: expected one of {', '.join(FORMATS)}")
    version = models.resolve(Tracker.of(home), model)
    label = f"{version.name}/{version.version}"
    if layout == "bundle":
        copy_package(version.package_path, out)
        note = f"cd {out.name}; python -m monai.bundle run --config_file configs/inference.json --input scan.nii.gz"
        return VerbResult(verb="export-model", ok=True, outputs={"bundle": str(out)}, model=label, notes=(note,))
    from medml.networks.onnx_export import export_onnx

    path, parity = export_onnx(load_package(version.package_path), out)
    return VerbResult(
        verb="export-model",
        ok=True,
        outputs={"onnx": str(path), "parity": f"{path}.json"},
        model=label,
        summary={
            "largest_difference": max(parity.largest_difference.values()),
            "tolerance": parity.tolerance,
            "network": parity.network,
        },
        notes=("preprocessing and calibration are not in the ONNX file; docs/packages.md says what they are",),
    )
