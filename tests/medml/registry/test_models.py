"""Registered models: versions, aliases, decisions, and packages that are what they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medml.errors import ConfigError, MedmlError, NotFound
from medml.records.home import Home
from medml.records.report import Decision, Evaluation, Summary
from medml.registry import models
from medml.registry.tracking import Tracker


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("home with blanks #1")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Tracker.of(Home(folder / "home"))
    assert sorted(path.name for path in folder.iterdir()) == ["home"]  # nothing is left where it was called


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "model.pt").write_bytes(b"weights")
    (folder / "plan.json").write_text("{}")
    return folder


def evaluation(dice: float = 0.9) -> Evaluation:
    summary = Summary(
        model="m", dataset="liver", test_digest="e" * 64, split="test", n=10, metrics={"dice_mean": dice, "hd95": None}
    )
    return Evaluation(task="segment", summary=summary, labels={0: "background", 1: "liver"})


def trained(tracker: Tracker, name: str, package: Path, key: str, weights: bytes = b"weights") -> models.ModelVersion:
    (package / "models" / "model.pt").write_bytes(weights)
    run_id = tracker.start_or_resume(
        experiment=name,
        run_name=name,
        run_key=f"{name}-{key}",
        params={"network": "dynunet"},
        tags={"medml.dataset": "liver", "medml.dataset_digest": "d" * 64},
    )
    tracker.log_metrics(run_id, {"test_dice_mean": 0.9})
    return models.register(tracker, run_id, name, package, evaluation())


def decided(name: str, challenger: str, champion: str | None, *, promoted: bool = True) -> Decision:
    return Decision(
        promoted=promoted,
        model=name,
        challenger=f"{name}/{challenger}",
        champion=f"{name}/{champion}" if champion else None,
        test_digest="e" * 64,
        rules=(),
        reason="not worse by more than 0.01",
        decided="2026-01-02T03:04:05Z",
    )


def test_the_first_version_is_champion_and_later_ones_challenge(tracker: Tracker, package: Path) -> None:
    first = trained(tracker, "aliases", package, "1")
    second = trained(tracker, "aliases", package, "2", b"other")
    third = trained(tracker, "aliases", package, "3", b"third")
    assert (first.version, first.alias) == ("1", "champion")
    assert (second.version, second.alias) == ("2", "challenger")
    assert (third.version, third.alias) == ("3", "challenger")
    assert models.resolve(tracker, "aliases").version == "1"
    assert models.resolve(tracker, "aliases@challenger").version == "3"
    assert models.resolve(tracker, "aliases/2").alias is None


def test_registering_again_finds_the_version_that_is_there(tracker: Tracker, package: Path) -> None:
    first = trained(tracker, "again", package, "1")
    assert trained(tracker, "again", package, "1") == first


def test_a_version_knows_its_run_its_data_and_its_package(tracker: Tracker, package: Path) -> None:
    version = trained(tracker, "facts", package, "1")
    assert (version.tags["dataset"], version.tags["dataset_digest"]) == ("liver", "d" * 64)
    assert version.tags["test_digest"] == "e" * 64
    assert version.digest == models.folder_digest(package)
    assert (version.package_path / "models" / "model.pt").read_bytes() == b"weights"
    assert tracker.client.get_run(version.run_id).outputs.model_outputs[0].model_id == version.tags["model_id"]


def test_the_mlflow_model_is_loaded_from_code_and_names_no_machine(tracker: Tracker, package: Path) -> None:
    version = trained(tracker, "pyfunc", package, "1")
    folder = version.package_path.parents[1]
    description = (folder / "MLmodel").read_text()
    assert "loader_module: medml.registry.serving_model" in description
    assert not list(folder.rglob("*.pkl"))
    for file in ("MLmodel", "requirements.txt", "conda.yaml"):
        assert str(package.parent) not in (folder / file).read_text()
    logged = tracker.client.get_logged_model(version.tags["model_id"])
    assert {metric.key: metric.value for metric in logged.metrics} == {"test_dice_mean": 0.9}
    assert logged.tags["mlflow.user"] == "medml"
    assert logged.tags["mlflow.modelVersions"] == '[{"name": "pyfunc", "version": "1"}]'


def test_an_unknown_model_lists_the_registered_ones(tracker: Tracker, package: Path) -> None:
    trained(tracker, "known", package, "1")
    with pytest.raises(NotFound, match=r"'nobody' is not registered; registered are: .*known"):
        models.resolve(tracker, "nobody@champion")


def test_an_unknown_alias_or_version_lists_what_there_is(tracker: Tracker, package: Path) -> None:
    trained(tracker, "lists", package, "1")
    with pytest.raises(NotFound, match=r"no @challenger; it has versions 1; aliases @champion \(version 1\)"):
        models.resolve(tracker, "lists@challenger")
    with pytest.raises(NotFound, match=r"no version 7; it has versions 1"):
        models.resolve(tracker, "lists/7")


@pytest.mark.parametrize("reference", ["", "Two Words", "a/b/c", "a@", "../a", "a' OR 1=1"])
def test_a_reference_is_a_name_an_alias_or_a_version(tracker: Tracker, reference: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME, NAME@alias or NAME/version"):
        models.resolve(tracker, reference)


def test_a_changed_package_is_refused_and_found_by_verify(tracker: Tracker, package: Path) -> None:
    version = trained(tracker, "changed", package, "1")
    assert models.verify([version]) == []
    (version.package_path / "models" / "model.pt").write_bytes(b"tampered")
    with pytest.raises(MedmlError, match=r"changed/1: its package has digest \w{12}, registered was \w{12}"):
        models.resolve(tracker, "changed")
    (version.package_path / "models" / "model.pt").unlink()
    (version.package_path / "plan.json").unlink()
    (version.package_path / "models").rmdir()
    version.package_path.rmdir()
    assert "its package is not there" in models.verify([version])[0]


def test_a_promotion_moves_champion_and_can_be_undone(tracker: Tracker, package: Path) -> None:
    trained(tracker, "gate", package, "1")
    challenger = trained(tracker, "gate", package, "2", b"other")
    models.record_decision(tracker, challenger, decided("gate", "2", "1"))
    assert models.resolve(tracker, "gate@champion").version == "2"
    with pytest.raises(NotFound, match="no @challenger"):
        models.resolve(tracker, "gate@challenger")
    run = tracker.client.get_run(challenger.run_id)
    assert run.data.tags["medml.decision"] == "promoted"
    assert tracker.client.list_artifacts(challenger.run_id, "decisions")[0].path == "decisions/20260102T030405Z.json"

    assert models.rollback(tracker, "gate").version == "1"
    assert models.resolve(tracker, "gate@champion").version == "1"
    assert models.resolve(tracker, "gate@challenger").version == "2"
    assert models.resolve(tracker, "gate/2").tags["decision"] == "rolled back"
    with pytest.raises(NotFound, match="no earlier champion to go back to"):
        models.rollback(tracker, "gate")


def test_a_challenger_kept_back_stays_challenger_with_the_reason(tracker: Tracker, package: Path) -> None:
    trained(tracker, "kept", package, "1")
    challenger = trained(tracker, "kept", package, "2", b"other")
    models.record_decision(tracker, challenger, decided("kept", "2", "1", promoted=False))
    assert models.resolve(tracker, "kept").version == "1"
    assert models.resolve(tracker, "kept@challenger").tags["decision"] == "kept back"


def test_a_decision_against_a_former_champion_does_not_count(tracker: Tracker, package: Path) -> None:
    trained(tracker, "stale", package, "1")
    trained(tracker, "stale", package, "2", b"other")
    third = trained(tracker, "stale", package, "3", b"third")
    with pytest.raises(MedmlError, match=r"the champion is version 1, the decision compared with 2"):
        models.record_decision(tracker, third, decided("stale", "3", "2"))
    assert models.resolve(tracker, "stale").version == "1"


def test_all_versions_come_by_name_oldest_first(tracker: Tracker, package: Path) -> None:
    trained(tracker, "listed", package, "1")
    trained(tracker, "listed", package, "2", b"other")
    found = [(v.version, v.alias) for v in models.all_versions(tracker) if v.name == "listed"]
    assert found == [("1", "champion"), ("2", "challenger")]
