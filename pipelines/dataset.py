"""Flow: freeze a dataset."""

from __future__ import annotations

from typing import Any

from prefect import flow

from medml.records.dataset import Task
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.requests import read_request
from pipelines.stores import open_catalogue
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult


@flow(name="dataset", flow_run_name="dataset {request}", persist_result=False, **AUDITED)
def dataset(request: str) -> VerbResult:
    """Freeze the cases of a selection into a versioned dataset, or say what is frozen already.

    Parameters
    ----------
    request : str
        A request id that holds the dataset's choice, its task and whether to refresh.
    """
    asked = read_request(current_home(), request)
    frozen = freeze_dataset(asked["dataset"], asked["task"], refresh=asked["refresh"], extend_test=asked["extend_test"])
    return told(frozen)


@step("freeze dataset")
def freeze_dataset(choice: dict[str, Any], task: Task, *, refresh: bool, extend_test: bool) -> VerbResult:
    """Use the frozen dataset of that name or freeze one."""
    frozen, freshness = freeze(choice, task, refresh=refresh, extend_test=extend_test)
    home = current_home()
    return VerbResult(
        verb="dataset",
        ok=True,
        counts={
            "cases": len(frozen.cases),
            "patients": len({case.patient for case in frozen.cases}),
            "train": len(frozen.cases_of("train")),
            "validation": len(frozen.cases_of("validation")),
            "test": len(frozen.cases_of("test")),
            "omitted": len(frozen.omitted),
        },
        outputs={"manifest": str(home.datasets / frozen.name / f"{frozen.digest}.json")},
        summary={
            "dataset": frozen.name,
            "digest": frozen.digest,
            "test_digest": frozen.test_digest,
            "labels": ", ".join(frozen.labels.values()),
            "split": frozen.split,
            "folds": len(frozen.folds),
            "subgroups": ", ".join(frozen.subgroups),
        },
        notes=freshness.notes,
    )


def freeze(choice: dict[str, Any], task: Task, *, refresh: bool = False, extend_test: bool = False) -> Any:
    """Return the frozen `Dataset` and how fresh it is."""
    from medml.config import validate
    from medml.datasets.freeze import freeze as freeze_choice
    from medml.records.experiment import DatasetChoice
    from medml.store.catalogue import Catalogue

    home = current_home()
    return freeze_choice(
        validate(choice, DatasetChoice, name="dataset"),
        task,
        catalogue=Catalogue(open_catalogue(home)),
        home=home,
        refresh=refresh,
        extend_test=extend_test,
    )
