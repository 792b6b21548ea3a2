"""The verbs about data: ingest, deidentify, release, dataset, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from medml.config import Config, load_config, load_settings, validate
from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.terminal import Json, absolute, existing, look, readable_errors, require, run_flow
from pipelines.verb import VerbResult

PANEL = "Data"

verbs = typer.Typer()
ConfigT = TypeVar("ConfigT", bound=Config)


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml ingest /data/ct_study   |   medml ingest cohort.csv --set policies.missing_slice=split",
)
def ingest(
    context: typer.Context,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SRC...",
            help="Folders or files: DICOM, NIfTI, MSD, nnU-Net, BIDS, CSV manifest, MedMNIST .npz, PNG and JPEG.",
        ),
    ],
    collection: Annotated[
        str | None, typer.Option("--collection", help="What the scans belong to; default: the source's name.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML like configs/ingest/default.yaml.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One key of the YAML, e.g. policies.missing_slice=split."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read scans, prove their geometry, remove identities, store and catalogue them."""
    home: Home = context.obj
    with readable_errors():
        from medml.catalogue.config import IngestConfig

        values = _configured(IngestConfig, config, settings).model_dump(mode="json")
        values |= {"collection": collection} if collection else {}
        values = validate(values, IngestConfig, name="--collection").model_dump(mode="json")
        paths = [existing(source) for source in sources]

    def flow() -> VerbResult:
        from pipelines.ingest import ingest as ingest_flow
        from pipelines.requests import write_request

        request = write_request(home, "ingest", sources=paths, config=values)
        return ingest_flow(request, collection=collection)

    run_flow(home, flow, as_json)


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml deidentify /data/ct -o /data/ct_anon --config configs/deidentify/research.yaml",
)
def deidentify(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="DICOM folder or file; it is only read.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files, outside of SRC.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML like configs/deidentify/default.yaml.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One key of the YAML, e.g. retain_device=true."),
    ] = None,
    as_json: Json = False,
) -> None:
    """De-identify DICOM files by PS3.15 Annex E. Run it again after an interruption: what is done is skipped."""
    home: Home = context.obj
    with readable_errors():
        from medml.io.confidentiality.options import DeidentifyConfig

        values = _configured(DeidentifyConfig, config, settings).model_dump(mode="json")
        path = existing(source)

    def flow() -> VerbResult:
        from pipelines.deidentify import deidentify as deidentify_flow
        from pipelines.requests import write_request

        request = write_request(home, "deidentify", sources=[path], output=absolute(output), config=values)
        return deidentify_flow(request)

    run_flow(home, flow, as_json)


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml release   |   medml release q-0123456789abcdef --by 'A. Reader'",
)
def release(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids that the list or a report names.")] = (
        None
    ),
    by: Annotated[str, typer.Option(help="Who looked at the pixels and saw no name.")] = "",
    note: Annotated[str, typer.Option(help="Anything to remember about it.")] = "",
    as_json: Json = False,
) -> None:
    """List images held back because their pixels may show a name; with ids, let these through."""

    def work() -> VerbResult:
        from pipelines.release import release as let_through

        if names and not by.strip():
            raise ConfigError("--by is empty; say who looked at the images, e.g. --by 'A. Reader'")
        return let_through(context.obj, names or [], by=by.strip(), note=note)

    look(context.obj, work, as_json)


@verbs.command(
    rich_help_panel=PANEL, epilog="Example: medml dataset liver --task segment --select collection=liver_study"
)
def dataset(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    task: Annotated[str, typer.Option(help="segment or classify.")] = "segment",
    select: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What to select, e.g. collection=liver_study.")
    ] = None,
    annotation: Annotated[
        str, typer.Option(help="Where scans have several: annotations of this origin, or that name this label.")
    ] = "",
    split: Annotated[str, typer.Option(help="patient, official or column.")] = "patient",
    split_column: Annotated[str, typer.Option(help="Column that holds the split (with --split column).")] = "split",
    test_fraction: Annotated[float, typer.Option(help="Share of patients held out (with --split patient).")] = 0.2,
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    refresh: Annotated[bool, typer.Option("--refresh", help="Freeze a new version if the selection has grown.")] = (
        False
    ),
    extend_test: Annotated[bool, typer.Option("--extend-test", help="Let newcomers join the test set too.")] = False,
    as_json: Json = False,
) -> None:
    """Freeze a selection of the catalogue: cases, test set, patient-grouped folds, digests."""
    home: Home = context.obj
    with readable_errors():
        from medml.records.experiment import DatasetChoice

        require(home)
        if task not in ("segment", "classify"):
            raise ConfigError(f"--task {task}: expected segment or classify")
        values = {"name": name, "select": _pairs(select), "annotation": annotation, "split": split, "folds": folds}
        divided = {"split_column": split_column, "test_fraction": test_fraction}
        choice = validate({**values, **divided}, DatasetChoice, name="dataset").model_dump(mode="json")

    def flow() -> VerbResult:
        from pipelines.dataset import dataset as dataset_flow
        from pipelines.requests import write_request

        asked = {"dataset": choice, "task": task, "refresh": refresh, "extend_test": extend_test}
        return dataset_flow(write_request(home, "dataset", **asked))

    run_flow(home, flow, as_json)


@verbs.command(rich_help_panel=PANEL, epilog="Example: medml export liver --layout nnunet -o Dataset101_liver")
def export(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Frozen dataset: NAME, or NAME@digest of an older version.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder.")],
    layout: Annotated[str, typer.Option(help="nnunet, msd or bids.")] = "nnunet",
    as_json: Json = False,
) -> None:
    """Write a frozen dataset as a folder for other tools, under pseudonyms, with its splits."""
    home: Home = context.obj
    with readable_errors():
        require(home)

    def flow() -> VerbResult:
        from pipelines.export import export as export_flow
        from pipelines.requests import write_request

        return export_flow(dataset, layout, write_request(home, "export", output=absolute(output)))

    run_flow(home, flow, as_json)


def _configured(schema: type[ConfigT], config: Path | None, settings: list[str] | None) -> ConfigT:
    """Fill a configuration from its YAML and ``--set``; from its defaults where there is no YAML."""
    if config is None:
        return load_settings(schema, tuple(settings or ()))
    return load_config(config, schema, settings=tuple(settings or ()))


def _pairs(items: list[str] | None) -> dict[str, str]:
    pairs = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--select {item}: expected key=value, e.g. --select collection=liver_study")
        pairs[key.strip()] = value.strip()
    return pairs
