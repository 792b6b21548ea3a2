"""The verbs about models: plan, train, evaluate, register, explain, promote, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    epilog="Example: medml plan configs/training/hippocampus.yaml   |   medml plan lung.yaml --set plan.batch=4",
)
def plan(
    context: typer.Context,
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="One YAML, see configs/training.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One key of the YAML, e.g. plan.network=segresnet."),
    ] = None,
    device: Device = "auto",
    memory: Annotated[
        str | None, typer.Option("--memory", help="What a training step may take, e.g. 8GB; patch and batch follow.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the plan here, as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Show what would be trained and why, choice by choice; every key can be set in the YAML or by --set plan.KEY=."""
    home: Home = context.obj
    with readable_errors():
        from pipelines.configs import read_experiment_file, read_memory

        wanted = read_experiment_file(experiment, tuple(settings or ()))
        if memory is not None:
            budget = wanted.budget.model_copy(update={"memory_gb": read_memory(memory)})
            wanted = wanted.model_copy(update={"budget": budget})

    def flow() -> VerbResult:
        from pipelines.plan import plan as plan_flow
        from pipelines.requests import write_request

        asked = {"experiment": wanted.model_dump(mode="json"), "output": absolute(output) if output else None}
        return plan_flow(write_request(home, "plan", **asked), device=device)

    run_flow(home, flow, as_json)


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml tune configs/training/hippocampus.yaml --trials 30 -o hippocampus_tuned.yaml",
)
def tune(
    context: typer.Context,
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="One YAML; its tune: says what to try.")
    ],
    trials: Annotated[int, typer.Option("--trials", min=1, help="Of the whole study; a larger number goes on.")] = 20,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Trainings at once.")] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The best settings as an experiment; default: HOME/reports.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One key of the YAML, e.g. tune.minutes=5."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Try settings of the plan on validation cases; run it again after an interruption: it goes on."""
    home: Home = context.obj
    with readable_errors():
        from pipelines.configs import read_experiment_file

        wanted = read_experiment_file(experiment, tuple(settings or ())).model_dump(mode="json")

    def flow() -> VerbResult:
        from pipelines.requests import write_request
        from pipelines.tune import tune as tune_flow

        out = absolute(output) if output else None
        asked = write_request(home, "tune", experiment=wanted, output=out)
        return tune_flow(asked, trials=trials, workers=workers, device=device)

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
    card: Annotated[
        Path | None,
        typer.Option("--card", help="YAML with data, terms, intended_use and limits, for the model card."),
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
        from medml.config import load_config
        from medml.records.experiment import ForeignCard
        from pipelines.configs import read_axes, read_plan_file

        wanted = read_plan_file(plan, labels=tuple(labels.split(",")) if labels else ())
        words = load_config(card, ForeignCard).model_dump() if card else None
        described = wanted.model_dump(mode="json")
        asked = {"weights": existing(weights), "plan": described, "axes": read_axes(axes), "card": words}

    def flow() -> VerbResult:
        from pipelines.register import register as register_flow
        from pipelines.requests import write_request

        return register_flow(name, write_request(home, "register", **asked))

    run_flow(home, flow, as_json)


@verbs.command(
    "export-model",
    rich_help_panel=PANEL,
    epilog="Example: medml export-model hippocampus -o bundle   |   medml export-model organ -o net --format onnx",
)
def export_model(
    context: typer.Context,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder.")],
    layout: Annotated[
        str, typer.Option("--format", help="bundle: runs under MONAI alone; onnx: the network alone.")
    ] = "bundle",
    as_json: Json = False,
) -> None:
    """Write a registered model as a folder that needs no medml: a MONAI bundle, or ONNX with its parity check."""
    home: Home = context.obj

    def flow() -> VerbResult:
        from pipelines.export_model import export_model as export_flow
        from pipelines.requests import write_request

        return export_flow(model, layout, write_request(home, "export-model", output=absolute(output)))

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
    on: Annotated[
        str | None, typer.Option("--on", metavar="DATASET", help="Judge both versions on this dataset's test set.")
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="If every rule passes, wait for a person to approve or reject in Prefect.")
    ] = False,
    minutes: Annotated[float, typer.Option("--minutes", help="How long --ask waits; then nothing is promoted.")] = 60.0,
    rollback: Annotated[bool, typer.Option("--rollback", help="Undo the last promotion.")] = False,
    as_json: Json = False,
) -> None:
    """Run the gate: the challenger becomes champion only if every rule passes."""

    def flow() -> VerbResult:
        from pipelines.promote import promote as promote_flow

        return promote_flow(model, gate=gate, on=on, ask=ask, minutes=minutes, rollback=rollback)

    run_flow(context.obj, flow, as_json)


@verbs.command(rich_help_panel=PANEL, epilog="Example: medml predict hippocampus@champion /data/new_scans -o results")
def predict(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="NAME, NAME@alias or NAME/version; left out with --selection: its models."
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="DICOM or NIfTI folder or file, CSV manifest; or an alias, such as inbox."),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results; default: HOME/batches/ID.")
    ] = None,
    dicom: Annotated[
        Literal["binary", "labelmap", "none"],
        typer.Option(help="DICOM sources get a SEG of this kind and a structured report; none: NIfTI only."),
    ] = "binary",
    capture: Annotated[
        bool, typer.Option(help="DICOM sources get pictures with the result drawn in, for viewers that read no SEG.")
    ] = True,
    review: Annotated[
        str, typer.Option(help="Name of a YAML in configs/review: which results a person must look at.")
    ] = "default",
    selection: Annotated[
        str | None, typer.Option("--selection", "-s", help="Name of a YAML in configs/selection: which series.")
    ] = None,
    quiet_seconds: Annotated[
        float, typer.Option(min=0, help="What changed more recently is left for the next run; inbox: at least 10.")
    ] = 0.0,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that share the scans; default: one for each GPU, one on the CPU."),
    ] = None,
    runner: Annotated[
        Literal["local", "dask"], typer.Option(help="dask: workers are tasks on a cluster whose machines see the home.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="The cluster's scheduler; default: one started here.")] = None,
    as_json: Json = False,
) -> None:
    """Run a model over many scans. Run it again after an interruption: what is done is skipped."""
    home: Home = context.obj
    with readable_errors():
        from pipelines.selections import sort_out

        asked = sort_out(home, model, source, selection, output)

    def flow() -> VerbResult:
        from pipelines.predict import predict as predict_flow
        from pipelines.predict_selection import predict_selection

        request, quiet = asked.request(home), max(quiet_seconds, asked.quiet_seconds)
        if selection and not asked.model:
            return predict_selection(
                selection,
                request,
                device=device,
                dicom=dicom,
                capture=capture,
                review=review,
                quiet_seconds=quiet,
                workers=workers,
            )
        return predict_flow(
            asked.model,
            request,
            selection=selection,
            quiet_seconds=quiet,
            device=device,
            dicom=dicom,
            capture=capture,
            review=review,
            workers=workers,
            runner=runner,
            runner_address=address,
        )

    run_flow(home, flow, as_json)
