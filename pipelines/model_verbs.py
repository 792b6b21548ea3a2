"""The verbs about models: train, evaluate, register, explain, promote, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medml.records.home import Home
from pipelines.terminal import Device, Json, Model, absolute, existing, readable_errors, run_flow
from pipelines.verb import VerbResult

PANEL = "Models"

verbs = typer.Typer()


@verbs.command(
    rich_help_panel=PANEL, epilog="Example: medml train configs/training/hippocampus.yaml --set budget.minutes=10"
)
def train(
    context: typer.Context,
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="One YAML, see configs/training.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One key of the YAML, e.g. budget.minutes=5."),
    ] = None,
    device: Device = "auto",
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Freeze a new dataset version if the selection has grown.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Plan, train, evaluate and register a model. Run it again after an interruption: it resumes."""
    home: Home = context.obj
    with readable_errors():
        from pipelines.configs import read_experiment_file

        wanted = read_experiment_file(experiment, tuple(settings or ())).model_dump(mode="json")

    def flow() -> VerbResult:
        from pipelines.requests import write_request
        from pipelines.train import train as train_flow

        return train_flow(write_request(home, "train", experiment=wanted), device=device, refresh=refresh)

    run_flow(home, flow, as_json)


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml evaluate hippocampus@champion   |   medml evaluate hippocampus other_hospital --every-case",
)
def evaluate(
    context: typer.Context,
    model: Model,
    dataset: Annotated[str | None, typer.Argument(help="Frozen dataset; default: the one of its training.")] = None,
    allow_seen: Annotated[
        bool,
        typer.Option("--allow-seen", help="Go on where the model has seen patients or pictures; marks the report."),
    ] = False,
    every_case: Annotated[
        bool, typer.Option("--every-case", help="All cases of DATASET, not only its test set: external validation.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a registered model on a frozen dataset, and prove that it has not seen the cases."""

    def flow() -> VerbResult:
        from pipelines.evaluate import evaluate as evaluate_flow

        return evaluate_flow(model, dataset=dataset, device=device, allow_seen=allow_seen, every_case=every_case)

    run_flow(context.obj, flow, as_json)


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml register spleen_ct_segmentation --plan configs/plans/spleen_ct.yaml --name spleen",
)
def register(
    context: typer.Context,
    weights: Annotated[
        Path, typer.Argument(metavar="BUNDLE|WEIGHTS", help="MONAI bundle, state dict (.pt, .pth) or safetensors.")
    ],
    plan: Annotated[Path, typer.Option("--plan", help="YAML of the network and its input, see configs/plans.")],
    name: Annotated[str, typer.Option("--name", help="Name of the model.")],
    labels: Annotated[
        str | None, typer.Option("--labels", help="Names of the output channels in order, e.g. background,spleen.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option("--axes", help="Which axis of the kernels runs along x, y, z; default 012, of nnU-Net 210."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a registered model of weights that were trained elsewhere; nothing but tensors is read from them."""
    home: Home = context.obj
    with readable_errors():
        from pipelines.configs import read_axes, read_plan_file

        wanted = read_plan_file(plan, labels=tuple(labels.split(",")) if labels else ())
        asked = {"weights": existing(weights), "plan": wanted.model_dump(mode="json"), "axes": read_axes(axes)}

    def flow() -> VerbResult:
        from pipelines.register import register as register_flow
        from pipelines.requests import write_request

        return register_flow(name, write_request(home, "register", **asked))

    run_flow(home, flow, as_json)


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml explain breastmnist@champion 3f0c…   |   medml explain hippocampus scan.nii.gz",
)
def explain(
    context: typer.Context,
    model: Model,
    scan: Annotated[str, typer.Argument(help="A scan id of the home, or the path of one scan.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default: below HOME/reports.")] = None,
    target: Annotated[int | None, typer.Option("--class", help="Label value; default: the likeliest.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="gradcam, gradcam++, occlusion, integrated_gradients.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show why a model says what it says: maps of what mattered, checks of the maps, layer by layer."""
    home: Home = context.obj

    def flow() -> VerbResult:
        from medml.explain.page import METHODS
        from pipelines.explain import explain as explain_flow
        from pipelines.requests import write_request

        where = absolute(Path(scan)) if Path(scan).exists() else scan
        out = absolute(output) if output else None
        asked = {"scan": where, "output": out, "target": target, "methods": methods or list(METHODS)}
        return explain_flow(model, write_request(home, "explain", **asked), device=device)

    run_flow(home, flow, as_json)


@verbs.command(
    rich_help_panel=PANEL, epilog="Example: medml promote hippocampus   |   medml promote hippocampus --rollback"
)
def promote(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model; its @challenger is judged.")],
    gate: Annotated[str, typer.Option(help="Name of a YAML in configs/gates.")] = "default",
    rollback: Annotated[bool, typer.Option("--rollback", help="Undo the last promotion.")] = False,
    as_json: Json = False,
) -> None:
    """Run the gate: the challenger becomes champion only if every rule passes."""

    def flow() -> VerbResult:
        from pipelines.promote import promote as promote_flow

        return promote_flow(model, gate=gate, rollback=rollback)

    run_flow(context.obj, flow, as_json)


@verbs.command(rich_help_panel=PANEL, epilog="Example: medml predict hippocampus@champion /data/new_scans -o results")
def predict(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version; @champion if not said.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="DICOM folder, NIfTI file or folder, CSV manifest.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results; default: HOME/batches/ID.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a model over many scans. Run it again after an interruption: what is done is skipped."""
    home: Home = context.obj
    with readable_errors():
        path = existing(source)

    def flow() -> VerbResult:
        from pipelines.predict import predict as predict_flow
        from pipelines.requests import write_request

        out = absolute(output) if output else None
        return predict_flow(model, write_request(home, "predict", sources=[path], output=out), device=device)

    run_flow(home, flow, as_json)
