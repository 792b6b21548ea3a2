"""The command line: each verb is a thin door to the flow of its name.

Everything heavy is imported inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from medml.errors import ConfigError, MedmlError, NotFound
from medml.records.home import Home
from pipelines.verb import VerbResult

app = typer.Typer(
    name="medml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Medical-imaging pipeline: scans in, trained and registered models, results out. Research use only.",
    epilog="Exit codes: 0 all done, 1 some failed or were refused, 2 usage or configuration.",
)

Json = Annotated[
    bool, typer.Option("--json", help="Print one last line of JSON: verb, ok, counts, outputs, model, summary.")
]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda or cuda:0.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the YAML, e.g. budget.minutes=5."),
]

Name = Annotated[str | None, typer.Option("--collection", help="Name of the collection; default: the source's own.")]
SOURCES = (
    "DICOM or NIfTI folders and files, MSD and nnU-Net folders, CSV manifests, MedMNIST .npz, folders of PNG/JPEG."
)


@app.callback()
def options(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option("--home", envvar="MEDML_HOME", help="Folder that holds everything medml keeps.")
    ] = Path("medml_home"),
) -> None:
    """Options of every verb."""
    context.obj = Home(home.expanduser().resolve())


@app.command(epilog="Example: medml ingest /data/ct_study   |   medml ingest cohort.csv --collection liver")
def ingest(
    context: typer.Context,
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help=SOURCES)],
    collection: Name = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML like configs/ingest/default.yaml.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Read scans, prove their geometry, remove identities, store and catalogue them."""
    home: Home = context.obj
    values = _ingest_values(config, settings, collection)

    def work() -> VerbResult:
        from pipelines.ingest import ingest as flow
        from pipelines.requests import write_request

        request = write_request(home, "ingest", sources=_existing(sources), config=values)
        return flow(request, collection=collection)

    _run(home, work, as_json)


@app.command(epilog="Example: medml deidentify /data/ct -o /data/ct_anon --config configs/deidentify/research.yaml")
def deidentify(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="DICOM folder or file; it is only read.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files, outside of SRC.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML like configs/deidentify/default.yaml.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """De-identify DICOM files by PS3.15 Annex E. Run it again after an interruption: what is done is skipped."""
    home: Home = context.obj
    values = _deidentify_values(config, settings)

    def work() -> VerbResult:
        from pipelines.deidentify import deidentify as flow
        from pipelines.requests import write_request

        out = str(output.expanduser().resolve())
        return flow(write_request(home, "deidentify", sources=_existing([source]), output=out, config=values))

    _run(home, work, as_json)


@app.command(epilog="Example: medml release q-0123456789abcdef --by 'A. Reader'   |   medml release (lists what waits)")
def release(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids that a report names.")] = None,
    by: Annotated[str, typer.Option(help="Who looked at the pixels and saw no name.")] = "",
    note: Annotated[str, typer.Option(help="Anything to remember about it.")] = "",
    as_json: Json = False,
) -> None:
    """Let images through that were held back because their pixels may show a name; without ids, list them."""

    def work() -> VerbResult:
        from pipelines.release import release as let_through

        if names and not by.strip():
            raise ConfigError("--by is empty; say who looked at the images, e.g. --by 'A. Reader'")
        return let_through(context.obj, names or [], by=by.strip(), note=note)

    _prepare(context.obj, create=False)
    _finish(_guard(work), as_json)


@app.command(epilog="Example: medml dataset liver --task segment --select collection=liver")
def dataset(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    task: Annotated[str, typer.Option(help="segment or classify.")] = "segment",
    select: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What to select, e.g. collection=liver.")
    ] = None,
    annotation: Annotated[
        str, typer.Option(help="Where scans have several: annotations of this origin, or that name this label.")
    ] = "",
    split: Annotated[str, typer.Option(help="patient, official or column.")] = "patient",
    split_column: Annotated[str, typer.Option(help="Column that holds the split (with --split column).")] = "split",
    test_fraction: Annotated[float, typer.Option(help="Share of patients held out (with --split patient).")] = 0.2,
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    refresh: Annotated[bool, typer.Option(help="Freeze a new version if the selection has grown.")] = False,
    extend_test: Annotated[bool, typer.Option(help="Let newcomers join the test set too.")] = False,
    as_json: Json = False,
) -> None:
    """Freeze a selection of the catalogue: cases, test set, patient-grouped folds, digests."""
    home: Home = context.obj

    def work() -> VerbResult:
        from medml.config import validate
        from medml.records.experiment import DatasetChoice
        from pipelines.dataset import dataset as flow
        from pipelines.requests import write_request

        values = {"name": name, "select": _pairs(select), "split": split, "split_column": split_column}
        values["annotation"] = annotation
        choice = validate({**values, "test_fraction": test_fraction, "folds": folds}, DatasetChoice, name="dataset")
        if task not in ("segment", "classify"):
            raise ConfigError(f"--task {task}: expected segment or classify")
        request = write_request(
            home, "dataset", dataset=choice.model_dump(mode="json"), task=task, refresh=refresh, extend_test=extend_test
        )
        return flow(request)

    _run(home, work, as_json)


@app.command(epilog="Example: medml export liver --layout nnunet -o Dataset101_liver")
def export(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Frozen dataset: NAME, or NAME@digest of an older version.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder.")],
    layout: Annotated[str, typer.Option(help="nnunet, msd or bids.")] = "nnunet",
    as_json: Json = False,
) -> None:
    """Write a frozen dataset as a folder for other tools, under pseudonyms, with its splits."""
    home: Home = context.obj

    def work() -> VerbResult:
        from pipelines.export import export as flow
        from pipelines.requests import write_request

        request = write_request(home, "export", output=str(output.expanduser().resolve()))
        return flow(dataset, layout, request)

    _run(home, work, as_json)


@app.command(epilog="Example: medml train configs/training/hippocampus.yaml --set budget.minutes=10")
def train(
    context: typer.Context,
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="One YAML, see configs/training.")],
    settings: Settings = None,
    device: Device = "auto",
    refresh: Annotated[bool, typer.Option(help="Freeze a new dataset version if the selection has grown.")] = False,
    as_json: Json = False,
) -> None:
    """Plan, train, evaluate and register a model. Run it again after an interruption: it resumes."""
    home: Home = context.obj

    def work() -> VerbResult:
        from pipelines.configs import read_experiment_file
        from pipelines.requests import write_request
        from pipelines.train import train as flow

        wanted = read_experiment_file(experiment, tuple(settings or ()))
        request = write_request(home, "train", experiment=wanted.model_dump(mode="json"))
        return flow(request, device=device, refresh=refresh)

    _run(home, work, as_json)


@app.command(epilog="Example: medml evaluate hippocampus@champion")
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")],
    dataset: Annotated[str | None, typer.Argument(help="Frozen dataset; default: the one of its training.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a registered model on the test set of a frozen dataset."""

    def work() -> VerbResult:
        from pipelines.evaluate import evaluate as flow

        return flow(model, dataset=dataset, device=device)

    _run(context.obj, work, as_json)


@app.command(epilog="Example: medml explain breastmnist@champion 3f0c…   |   medml explain hippocampus scan.nii.gz")
def explain(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")],
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

    def work() -> VerbResult:
        from medml.explain.page import METHODS
        from pipelines.explain import explain as flow
        from pipelines.requests import write_request

        where = str(Path(scan).expanduser().resolve()) if Path(scan).exists() else scan
        out = str(output.expanduser().resolve()) if output else None
        asked = {"scan": where, "output": out, "target": target, "methods": methods or list(METHODS)}
        return flow(model, write_request(home, "explain", **asked), device=device)

    _run(home, work, as_json)


@app.command(epilog="Example: medml promote hippocampus   |   medml promote hippocampus --rollback")
def promote(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model; its @challenger is judged.")],
    gate: Annotated[str, typer.Option(help="Name of a YAML in configs/gates.")] = "default",
    rollback: Annotated[bool, typer.Option(help="Undo the last promotion.")] = False,
    as_json: Json = False,
) -> None:
    """Run the gate: the challenger becomes champion only if every rule passes."""

    def work() -> VerbResult:
        from pipelines.promote import promote as flow

        return flow(model, gate=gate, rollback=rollback)

    _run(context.obj, work, as_json)


@app.command(epilog="Example: medml predict hippocampus@champion /data/new_scans -o results")
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

    def work() -> VerbResult:
        from pipelines.predict import predict as flow
        from pipelines.requests import write_request

        out = str(output.expanduser().resolve()) if output else None
        request = write_request(home, "predict", sources=_existing([source]), output=out)
        return flow(model, request, device=device)

    _run(home, work, as_json)


@app.command(epilog="Example: medml up --prefect-port 4201 --mlflow-port 5001")
def up(
    context: typer.Context,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    schedules: Annotated[Path | None, typer.Option(help="Default: configs/schedules.yaml.")] = None,
) -> None:
    """Start Prefect and MLflow on loopback and serve the flows with their schedules, until Ctrl-C."""

    def work() -> None:
        from pipelines.configs import config_folder
        from pipelines.serving import up as serve

        serve(
            context.obj,
            prefect_port=prefect_port,
            mlflow_port=mlflow_port,
            schedules=schedules or config_folder() / "schedules.yaml",
        )

    _prepare(context.obj)
    _guard(work)


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Say what is where: collections, datasets, models, batches, servers."""

    def work() -> VerbResult:
        from pipelines.status import status as look

        return look(context.obj)

    _prepare(context.obj, create=False)
    _finish(_guard(work), as_json)


@app.command()
def verify(context: typer.Context, as_json: Json = False) -> None:
    """Check that every stored scan, dataset and model still has the digest it was stored with."""

    def work() -> VerbResult:
        from pipelines.status import verify as check

        return check(context.obj)

    _prepare(context.obj, create=False)
    _finish(_guard(work), as_json)


def main() -> None:
    """Entry point of the console script."""
    app()


def _run(home: Home, work: Callable[[], VerbResult], as_json: bool) -> None:
    """Run one flow on the home's Prefect server, print its outcome and leave with its exit code."""
    _prepare(home)

    def served() -> VerbResult:
        from pipelines.server import prefect_server

        with prefect_server(home):
            return work()

    _finish(_guard(served), as_json)


def _prepare(home: Home, *, create: bool = True) -> None:
    from pipelines.settings import prepare

    if not create and not home.root.exists():
        _fail(f"{home.root} does not exist; give another --home, or make one with: medml --home DIR ingest SRC")
    home.root.mkdir(parents=True, exist_ok=True)
    prepare(home)
    print(f"medml home: {home.root}", file=sys.stderr)


def _guard(work: Callable[[], Any]) -> Any:
    """Turn errors into one readable line and an exit code."""
    try:
        return work()
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(130) from None
    except (ConfigError, NotFound) as error:
        _fail(str(error))
    except MedmlError as error:
        details = getattr(error, "details", None)
        text = details.read_text(encoding="utf-8").strip() if details else str(error)
        _fail(text, code=2 if getattr(error, "usage", False) else 1)


def _fail(message: str, code: int = 2) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_escape(message)}", highlight=False)
    raise typer.Exit(code)


def _finish(result: VerbResult, as_json: bool) -> None:
    from pipelines.tables import show

    show(result)
    if as_json:
        import json

        shown = result.model_dump(mode="json", include={"verb", "ok", "counts", "outputs", "model", "summary"})
        print(json.dumps(shown, sort_keys=True), flush=True)
    raise typer.Exit(0 if result.ok else 1)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _existing(paths: list[Path]) -> list[str]:
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder; check the path")
    return [str(path.expanduser().resolve()) for path in paths]


def _pairs(items: list[str] | None) -> dict[str, str]:
    pairs = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--select {item}: expected key=value, e.g. --select collection=liver")
        pairs[key.strip()] = value.strip()
    return pairs


def _ingest_values(config: Path | None, settings: list[str] | None, collection: str | None) -> dict[str, Any]:
    def work() -> dict[str, Any]:
        from medml.catalogue.ingest import IngestConfig
        from medml.config import load_config, load_settings

        if config is not None:
            values = load_config(config, IngestConfig, settings=tuple(settings or ())).model_dump(mode="json")
        else:
            values = load_settings(IngestConfig, tuple(settings or ())).model_dump(mode="json")
        return values | ({"collection": collection} if collection else {})

    return _guard(work)  # type: ignore[no-any-return]


def _deidentify_values(config: Path | None, settings: list[str] | None) -> dict[str, Any]:
    def work() -> dict[str, Any]:
        from medml.config import load_config, load_settings
        from medml.io.confidentiality.options import DeidentifyConfig

        if config is not None:
            wanted = load_config(config, DeidentifyConfig, settings=tuple(settings or ()))
        else:
            wanted = load_settings(DeidentifyConfig, tuple(settings or ()))
        return wanted.model_dump(mode="json")

    return _guard(work)  # type: ignore[no-any-return]


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
