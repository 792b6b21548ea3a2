"""Whether promises of coverage are kept: 500 re-splits of calibration and test, patient by patient.

``python -m benchmarks.conformal`` ingests two classifiers' collections and a segmenter's into a home of its own, trains
each for a minute or two by the command line, predicts validation and test cases once, and then draws calibration and
test patients anew 500 times. It writes ``benchmarks/results/conformal.json``. ``--home`` takes a home that has the
models already.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.__main__ import processor
from benchmarks.peers import CACHE
from medml.metrics.conformal import (
    conformal_quantile,
    coverage_interval,
    covered_share,
    prediction_sets,
    risk_controlled,
)

ROOT = Path(__file__).resolve().parent.parent
RESULT = Path(__file__).with_name("results") / "conformal.json"
DATA = Path(os.environ.get("MEDML_DATA", ROOT.parent / "shared" / "data"))
MODELS = {"breastmnist": 1.0, "nih_cxr": 1.0, "hippocampus": 2.0}  # experiment to minutes of training
SPLITS, MISS, WITHIN = 500, 0.1, 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The cases that are drawn from: validation and test of one model.

    Attributes
    ----------
    losses : ndarray
        Segmenter: share of the structure outside the mask (N, settings). Classifier: None.
    probabilities, truth : ndarray
        Classifier: (N, classes), and the index of the true class (N,).
    own : ndarray of shape (N,), bool
        Which cases are the real calibration cases; the others are the real test.
    """

    name: str
    patients: np.ndarray
    own: np.ndarray
    probabilities: np.ndarray | None = None
    truth: np.ndarray | None = None
    losses: np.ndarray | None = None

    def missed(self, calibration: np.ndarray) -> float:
        """Return the share of test patients missed when these cases (N,), bool, calibrate and the others test."""
        test, patients = ~calibration, self.patients
        if self.losses is not None:
            chosen = risk_controlled(self.losses[calibration], patients[calibration], MISS)
            return float("nan") if chosen is None else _patient_mean(self.losses[test, chosen], patients[test])
        assert self.probabilities is not None
        assert self.truth is not None
        scores = 1 - self.probabilities[np.arange(len(self.truth)), self.truth]
        quantile = conformal_quantile(scores[calibration], patients[calibration], MISS)
        inside = prediction_sets(self.probabilities[test], quantile)
        return 1 - covered_share(inside, self.truth[test], patients[test])


def main(arguments: Sequence[str] = ()) -> int:
    """Print and keep what was found; 1 if a promise is broken."""
    given = _arguments(arguments)
    found = []
    for name in given.models:
        if given.home == CACHE / "conformal":
            _train(given.home, name)
        for pool in _pools(given.home, name, given.device):
            found.append(_resplit(pool))
            print(json.dumps(found[-1]), flush=True)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    record = {
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": processor(),
        "splits": SPLITS,
        "rows": found,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(not all(row["kept"] for row in found))


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformal", description=__doc__)
    parser.add_argument("--home", type=Path, default=CACHE / "conformal")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def _resplit(pool: Pool) -> dict[str, Any]:
    """Draw about three quarters of the patients for calibration, again and again; the real split stands beside.

    K patients can promise multiples of 1 / (K + 1) alone, so K + 1 is made a multiple of 10 for a target of 0.9. With
    several cases a patient the promise is kept by up to 0.9 / K more than it says, whence so many for calibration.
    """
    rng, names = np.random.default_rng(0), np.unique(pool.patients)
    most = len(names) * 3 // 4
    count = most - (most + 1) % round(1 / MISS)
    missed = []
    for _ in range(SPLITS):
        drawn = rng.permutation(names)[:count]
        missed.append(pool.missed(np.isin(pool.patients, drawn)))
    mean, single = 1 - float(np.mean(missed)), 1 - pool.missed(pool.own)
    sides = [len(np.unique(pool.patients[side])) for side in (pool.own, ~pool.own)]
    row = {
        "model": pool.name,
        "target": 1 - MISS,
        "patients_drawn": [count, len(names) - count],
        "mean_coverage": round(mean, 4),
        "spread_over_splits": [round(1 - float(value), 4) for value in np.quantile(missed, (0.975, 0.025))],
        "single_split": round(single, 4),
        "calibration_patients": sides[0],
        "test_patients": sides[1],
    }
    if pool.losses is None:
        low, high = coverage_interval(sides[0], sides[1], MISS)
        return row | {
            "single_split_beta_binomial_95": [round(low, 4), round(high, 4)],
            "kept": bool(abs(mean - (1 - MISS)) <= WITHIN or (mean > 1 - MISS and _tied(pool))),
        }
    return row | {"kept": bool(mean >= 1 - MISS - WITHIN / 10)}


def _tied(pool: Pool) -> bool:
    """Say whether the surplus is that of ties: cases of equal score, or classes that belong as the likeliest."""
    assert pool.probabilities is not None
    assert pool.truth is not None
    scores = 1 - pool.probabilities[np.arange(len(pool.truth)), pool.truth]
    return len(np.unique(scores.round(6))) < 0.9 * len(scores) or float(np.mean(scores < 0.5)) > 1 - MISS


def _patient_mean(values: np.ndarray, patients: np.ndarray) -> float:
    _, place, cases = np.unique(patients, return_inverse=True, return_counts=True)
    return float((values / cases[place]).sum() / len(cases))


def _pools(home: Path, name: str, device: str) -> Iterator[Pool]:
    """Predict validation and test cases of a registered model, once."""
    from medml.datasets.freeze import load
    from medml.networks.predictor import Predictor
    from medml.records.home import Home
    from medml.registry import models
    from medml.registry.tracking import Tracker

    place = Home(home)
    version = models.resolve(Tracker.of(place), name)
    dataset = load(place, version.tags["dataset"], version.tags["dataset_digest"])
    predictor = Predictor(version.package_path, device=device)
    cases = [(case, part == "validation") for part in ("validation", "test") for case in dataset.cases_of(part, fold=0)]
    yield from (_masks if dataset.task == "segment" else _classes)(name, predictor, cases, place.scans, dataset.labels)


def _classes(name: str, predictor: Any, cases: list[Any], scans: Path, labels: dict[int, str]) -> Iterator[Pool]:
    from medml.evaluation.evaluate import read_case

    values = sorted(labels)
    shares = [predictor.predict(read_case(case, scans)[0]).probabilities[values] for case, _ in cases]
    truth = np.array([values.index(case.classes[0]) for case, _ in cases])
    patients, own = np.array([case.patient for case, _ in cases]), np.array([own for _, own in cases])
    yield Pool(name, patients, own, np.array(shares), truth)


def _masks(name: str, predictor: Any, cases: list[Any], scans: Path, labels: dict[int, str]) -> Iterator[Pool]:
    """Yield a pool per structure: how much of it lies below each probability that may bound the outer mask."""
    from medml.evaluation.evaluate import read_case
    from medml.training.package import OUTER_STEPS

    losses: dict[int, list[np.ndarray]] = {value: [] for value in labels if value}
    having: dict[int, list[tuple[str, bool]]] = {value: [] for value in labels if value}
    for case, own in cases:
        volume, reference = read_case(case, scans)
        shares = predictor.predict(volume, detailed=True).label_probabilities
        for value in losses:
            inside = np.sort(shares[value][reference == value].astype(np.float32))
            if inside.size:
                losses[value].append(np.searchsorted(inside, OUTER_STEPS) / inside.size)
                having[value].append((case.patient, own))
    for value, rows in losses.items():
        patients, own = np.array([p for p, _ in having[value]]), np.array([o for _, o in having[value]])
        yield Pool(f"{name}, outer mask of {labels[value]}", patients, own, losses=np.array(rows))


def _train(home: Path, name: str) -> None:
    """Ingest and train by the command line, once."""
    if (home / f"{name}.trained").exists():
        return
    experiment = ROOT / "configs" / "training" / f"{name}.yaml"
    collection = yaml.safe_load(experiment.read_text(encoding="utf-8"))["dataset"]["select"]["collection"]
    found = [path for path in sorted([*DATA.glob("*"), *DATA.glob("*/*")]) if path.stem.lower() == collection]
    if not found:
        raise SystemExit(f"{DATA} holds nothing named {collection}; set MEDML_DATA, or pass --home")
    budget = f"budget.minutes={MODELS[name]:g}"
    for verb in (("ingest", str(found[0])), ("train", str(experiment), "--set", budget)):
        done = subprocess.run([sys.executable, "-m", "pipelines.cli", "--home", str(home), *verb], cwd=ROOT)
        if done.returncode == 2:
            raise SystemExit(f"medml {verb[0]} failed; its error stands above")
    (home / f"{name}.trained").touch()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
