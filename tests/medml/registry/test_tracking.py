"""MLflow runs of a home: resumed, idempotent, neutral."""

from __future__ import annotations

import getpass
import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.plan import Epoch, Point
from medml.records.report import Evaluation, Summary
from medml.registry.tracking import Tracker


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker.of(Home(tmp_path_factory.mktemp("home with blanks #1")))


def epoch(number: int, loss: float) -> Epoch:
    return Epoch(
        epoch=number, step=10 * number, seconds=1.5, learning_rate=0.01, metrics={"train_loss": loss}, best=False
    )


def dataset() -> Dataset:
    case = Case(
        case_id="a" * 24, patient="p-1", scans=("a" * 24,), digest="c" * 64, shape=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0)
    )
    return Dataset(
        name="liver",
        digest="d" * 64,
        created="2026-01-01T00:00:00Z",
        task="segment",
        select={"collection": "liver"},
        split="patient",
        seed=0,
        labels={0: "background", 1: "liver"},
        channels=("CT",),
        modality="CT",
        geometry="mm",
        cases=(case,),
        test=("a" * 24,),
        folds=((),),
        test_digest="e" * 64,
    )


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 3), 128).save(buffer, format="PNG")
    return buffer.getvalue()


def history(tracker: Tracker, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracker.client.get_metric_history(run_id, key)]


def start(tracker: Tracker, key: str, **more: object) -> str:
    return tracker.start_or_resume(experiment="liver", run_name="liver fold 0", run_key=key, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("left", ["RUNNING", "FAILED", "KILLED"])
def test_an_unfinished_run_of_the_same_key_is_taken_up_again(tracker: Tracker, left: str) -> None:
    first = start(tracker, f"key-{left}")
    if left != "RUNNING":
        tracker.finish(first, left)  # type: ignore[arg-type]
    assert start(tracker, f"key-{left}") == first
    assert tracker.client.get_run(first).info.status == "RUNNING"


def test_a_finished_run_and_another_key_start_anew(tracker: Tracker) -> None:
    first = start(tracker, "key-done")
    tracker.finish(first)
    assert tracker.client.get_run(first).info.status == "FINISHED"
    assert len({first, start(tracker, "key-done"), start(tracker, "key-other")}) == 3


def test_epochs_logged_twice_stand_once_and_keep_their_first_value(tracker: Tracker) -> None:
    run_id = start(tracker, "key-epochs")
    tracker.log_epochs(run_id, [epoch(0, 1.0), epoch(1, 0.5)])
    tracker.log_epochs(run_id, [epoch(1, 0.4), epoch(2, 0.25)])
    assert history(tracker, run_id, "train_loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert history(tracker, run_id, "learning_rate") == [(0, 0.01), (1, 0.01), (2, 0.01)]


def test_metrics_of_the_whole_run_stand_once(tracker: Tracker) -> None:
    run_id = start(tracker, "key-metrics")
    tracker.log_metrics(run_id, {"test_dice_mean": 0.9})
    tracker.log_metrics(run_id, {"test_dice_mean": 0.9, "test_auroc": 0.8})
    assert history(tracker, run_id, "test_dice_mean") == [(0, 0.9)]
    assert history(tracker, run_id, "test_auroc") == [(0, 0.8)]


def test_parameters_are_kept_when_the_run_resumes_and_long_ones_are_cut(tracker: Tracker) -> None:
    run_id = start(tracker, "key-params", params={"patch": [64, 64, 32], "long": "x" * 501, "network": "dynunet"})
    start(tracker, "key-params", params={"patch": [1, 1, 1], "batch": 2})
    params = tracker.client.get_run(run_id).data.params
    assert params == {"patch": "[64, 64, 32]", "long": "x" * 499 + "…", "network": "dynunet", "batch": "2"}


def test_the_dataset_is_shown_by_name_and_digest_without_a_path(tracker: Tracker) -> None:
    run_id = start(tracker, "key-dataset", dataset=dataset())
    start(tracker, "key-dataset", dataset=dataset())
    inputs = tracker.client.get_run(run_id).inputs.dataset_inputs
    shown = {entry.tags[0].value: entry.dataset for entry in inputs}
    assert len(inputs) == 2
    assert (shown["training"].name, shown["training"].digest) == ("liver", "d" * 36)
    assert (shown["test"].name, shown["test"].digest) == ("liver (test set)", "e" * 36)
    assert shown["training"].source_type == "medml dataset"
    assert "/" not in shown["training"].source + shown["training"].profile + shown["test"].source


def test_a_part_of_a_run_is_folded_under_it(tracker: Tracker) -> None:
    whole = start(tracker, "key-whole", description="Livers in CT.")
    part = start(tracker, "key-whole/fold-0-seed-0", parent=whole)
    run = tracker.client.get_run(part)
    assert run.data.tags["mlflow.parentRunId"] == whole
    tracker.describe(whole, "# Card")
    assert tracker.client.get_run(whole).data.tags["mlflow.note.content"] == "# Card"
    assert tracker.client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"] == "Livers in CT."
    assert tracker.page(part) == f"#/experiments/{run.info.experiment_id}/runs/{part}"


def test_pictures_are_stepped_and_logged_once(tracker: Tracker) -> None:
    run_id = start(tracker, "key-pictures")
    picture = png()
    for step in (1, 2, 2):
        tracker.log_picture(run_id, "worst_cases", picture, step=step)
    shown = [item.path for item in tracker.client.list_artifacts(run_id, "images") if item.path.endswith(".png")]
    assert sorted(path.split("+step+")[1].split("+")[0] for path in shown) == ["1", "2"]


def test_no_tag_names_the_user_the_host_or_a_path(tracker: Tracker) -> None:
    run = tracker.client.get_run(start(tracker, "key-neutral", tags={"medml.task": "segment"}))
    said = " ".join(run.data.tags.values()) + run.info.user_id
    assert run.info.user_id == "medml"
    assert not any(word in said for word in (getpass.getuser(), socket.gethostname(), "/", "git"))


def test_files_and_figures_are_kept_with_the_run(tracker: Tracker, tmp_path: Path) -> None:
    run_id = start(tracker, "key-files")
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "figures" / "roc.png").write_bytes(b"\x89PNG")
    (tmp_path / "plan.json").write_text("{}")
    tracker.log_folder(run_id, tmp_path / "report", "report")
    tracker.log_text_files(run_id, [tmp_path / "plan.json"], "configuration")
    tracker.log_figure_bytes(run_id, "curve", b"\x89PNG")
    kept = {
        item.path
        for part in ("report/figures", "configuration", "figures")
        for item in tracker.client.list_artifacts(run_id, part)
    }
    assert kept == {"report/figures/roc.png", "configuration/plan.json", "figures/curve.png"}


def test_an_evaluation_is_a_finished_run_of_its_own(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html></html>")
    summary = Summary(
        model="liver/1",
        dataset="liver",
        test_digest="e" * 64,
        split="test",
        n=3,
        metrics={"dice_mean": 0.8, "hd95": None},
    )
    evaluation = Evaluation(task="segment", summary=summary, labels={0: "background", 1: "liver"})
    run = tracker.client.get_run(tracker.log_evaluation("liver", "1", evaluation, tmp_path))
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"test_dice_mean": 0.8}
    assert run.data.tags["medml.model"] == "liver/1"


def test_two_first_runs_at_once_make_one_database(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medml.records.home import Home;"
        "from medml.registry.tracking import Tracker;"
        "print(Tracker.of(Home(Path(sys.argv[1]))).experiment('liver'))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["1", "1"]
    assert not (tmp_path / "mlruns").exists()


def test_the_environment_may_name_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5999")
    assert Tracker.of(Home(tmp_path)).tracking_uri == "http://127.0.0.1:5999"


def test_steps_are_logged_once_at_their_numbers_however_many(tracker: Tracker) -> None:
    run_id = start(tracker, "steps")
    points = [Point(step=n, seconds=n / 10, metrics={"loss": 1.0 / n, "gradient": 1.0}) for n in range(1, 601)]
    tracker.log_steps(run_id, points[:5])
    tracker.log_steps(run_id, points)
    assert history(tracker, run_id, "step/loss") == [(n, 1.0 / n) for n in range(1, 601)]
    assert history(tracker, run_id, "step/seconds")[-1] == (600, 60.0)


def test_what_the_machine_does_is_logged_by_seconds(tracker: Tracker) -> None:
    run_id = start(tracker, "system")
    tracker.log_system(run_id, 10, {"system/training_cores": 1.5})
    tracker.log_system(run_id, 20, {"system/training_cores": 2.0})
    assert history(tracker, run_id, "system/training_cores") == [(10, 1.5), (20, 2.0)]
