"""Flow: train again on what has come in, judge at the gate, and let a person have the last word."""

from __future__ import annotations

from prefect import flow, runtime

from medml.io.files import read_record, write_record
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.promote import ask_person, conclude, judge
from pipelines.tasks import current_home
from pipelines.train import train
from pipelines.verb import VerbResult


@flow(name="retrain", flow_run_name="retrain {experiment}", persist_result=False, **AUDITED)
def retrain(experiment: str, gate: str = "default", minutes: float = 7 * 24 * 60.0, device: str = "auto") -> VerbResult:
    """Train with a fresh version of the dataset; promote only if the gate and then a person say so.

    Parameters
    ----------
    experiment : str
        Name of a YAML in ``configs/training`` (without its suffix) or a request id.
    gate : str
        Name of a YAML in ``configs/gates``.
    minutes : float
        How long to wait for the person; then nothing is promoted.
    device : str
        "auto", "cpu", "cuda" or "cuda:0".
    """
    trained = _train_once(experiment, device)
    if trained.summary.get("alias") == "champion":
        return told(trained)  # the first of its name has nobody to be compared with
    decision = judge(str(trained.model).partition("/")[0], gate, None)
    if decision.promoted:
        decision = ask_person(decision, minutes)
    return told(conclude(decision))


def _train_once(experiment: str, device: str) -> VerbResult:
    """Train; a run that is started again after a crash keeps the model it has made."""
    note = current_home().runs / f"retrain-{runtime.flow_run.id}.json"
    if note.exists():
        return read_record(note, VerbResult)
    trained = train(experiment, device, refresh=True)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_record(note, trained)
    return trained
