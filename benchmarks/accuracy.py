"""How right a model is that planned itself: several seeds of one experiment, each tested once, every run listed.

``python -m benchmarks.accuracy --experiment configs/training/breastmnist.yaml --seeds 5 --minutes 12`` ingests the
experiment's collection into a home of its own, runs ``medml train`` for every seed, and writes
``benchmarks/results/accuracy_<name>.json`` after each. A seed that is there is not run again, so a broken-off benchmark
goes on; ``--again`` starts anew and keeps the former runs in the list.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.__main__ import processor
from benchmarks.peers import CACHE
from medml.metrics.intervals import Resamples, weighted_auroc

ROOT = Path(__file__).resolve().parent.parent
SEEDS_APART = 100  # a model of several starts uses the seeds that follow its own
RESULTS = Path(__file__).with_name("results")
DATA = Path(os.environ.get("MEDML_DATA", ROOT.parent / "shared" / "data"))
MEDMNIST = "Yang et al., MedMNIST v2, Sci Data 10:41, 2023, tables 3 and 4 (one GPU, 100 epochs, mean of 3 runs)"
KEPT = ("network", "network_options", "starts", "minutes", "batch", "epochs", "steps_per_epoch", "tta_flips")
PUBLISHED: dict[str, list[dict[str, Any]]] = {
    "breastmnist": [
        {"model": "ResNet-18, 28", "auroc": 0.901, "accuracy": 0.863, "source": MEDMNIST},
        {"model": "ResNet-50, 28", "auroc": 0.857, "accuracy": 0.812, "source": MEDMNIST},
        {"model": "AutoKeras", "auroc": 0.871, "accuracy": 0.831, "source": MEDMNIST},
        {"model": "Google AutoML Vision", "auroc": 0.919, "accuracy": 0.861, "source": MEDMNIST},
    ],
    "adrenalmnist3d": [
        {"model": "ResNet-18 + 3D", "auroc": 0.827, "accuracy": 0.721, "source": MEDMNIST},
        {"model": "ResNet-18 + ACS", "auroc": 0.839, "accuracy": 0.754, "source": MEDMNIST},
        {"model": "ResNet-50 + 3D", "auroc": 0.828, "accuracy": 0.745, "source": MEDMNIST},
        {"model": "auto-sklearn", "auroc": 0.828, "accuracy": 0.802, "source": MEDMNIST},
    ],
}


def main() -> int:
    """Run what is missing, print all runs and their mean; 0 if every seed ended."""
    given = _arguments()
    experiment = yaml.safe_load(given.experiment.read_text(encoding="utf-8"))
    result = RESULTS / f"accuracy_{experiment['name']}.json"
    record = _read(result, experiment)
    if given.again:
        record["earlier"] += record["runs"]
        record["runs"] = []
    home = CACHE / "accuracy" / experiment["dataset"]["name"]
    _ingest(home, experiment, given.source)
    for seed in range(given.seeds):
        if any((run["seed"], run["minutes"]) == (seed, given.minutes) for run in record["runs"]):
            continue
        record["runs"].append(_train(home, given.experiment, seed, given.minutes))
        record["mean"] = _mean(home, record["runs"])
        RESULTS.mkdir(exist_ok=True)
        result.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _print(record)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--experiment", type=Path, required=True, help="YAML that names data, task and budget")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=12.0, help="the budget of each run")
    parser.add_argument("--source", type=Path, help=f"what to ingest; default: the collection's name in {DATA.name}/")
    parser.add_argument("--again", action="store_true", help="run every seed anew; former runs stay listed")
    return parser.parse_args()


def _read(result: Path, experiment: dict[str, Any]) -> dict[str, Any]:
    """Return what was found so far, with the published figures as they are known now."""
    name = experiment["name"]
    known = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    return {
        "experiment": {key: experiment[key] for key in ("name", "task", "dataset", "plan") if key in experiment},
        "published": PUBLISHED.get(name, []),
        "mean": known.get("mean", {}),
        "runs": known.get("runs", []),
        "earlier": known.get("earlier", []),
    }


def _ingest(home: Path, experiment: dict[str, Any], source: Path | None) -> None:
    """Put the experiment's collection into the home, once."""
    if (home / "ingested").exists():
        return
    collection = str(experiment["dataset"]["select"]["collection"])
    found = [path for path in sorted([*DATA.glob("*"), *DATA.glob("*/*")]) if path.stem.lower() == collection]
    if source is None and not found:
        raise SystemExit(f"{DATA} holds nothing named {collection}; set MEDML_DATA or pass --source")
    _medml(home, "ingest", str(source or found[0]), "--collection", collection)
    (home / "ingested").touch()


def _train(home: Path, experiment: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Run one seed through `medml train`, as a user would; return what it found and at what cost."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    load = round(os.getloadavg()[0], 1)
    line = _medml(
        home,
        "train",
        str(experiment.resolve()),
        "--set",
        f"plan.seed={SEEDS_APART * seed}",
        "--set",
        f"budget.minutes={minutes:g}",
    )
    after, summary = resource.getrusage(resource.RUSAGE_CHILDREN), line["summary"]
    plan = json.loads((Path(line["outputs"]["package"]) / "plan.json").read_text(encoding="utf-8"))
    report = Path(line["outputs"]["report"]).parent
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "seed": seed,
        "minutes": minutes,
        "commit": commit.stdout.strip() or "unknown",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": processor(),
        "load": load,
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
        "dataset": summary["dataset"],
        "test_digest": summary["test_digest"],
        "report": report.name,
        "plan": {key: plan[key] for key in KEPT},
        "test": _figures([_table(report)]),
    }


def _mean(home: Path, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds of each figure, its interval over patients, and its spread over seeds."""
    found = _figures([_table(home / "reports" / run["report"]) for run in runs])
    for name, figure in found.items():
        values = [run["test"][name]["value"] for run in runs]
        figure["seeds"] = len(values)
        figure["spread"] = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None
    return found


def _table(report: Path) -> pd.DataFrame:
    return pd.read_csv(report / "cases.csv").sort_values("case_id", ignore_index=True)


def _figures(tables: list[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Return figures averaged over tables of the same cases, with 95 % percentile intervals over patients.

    The mean Dice of segmenters. Of two classes the AUROC and the accuracy, both of the likelier class (what MedMNIST
    publishes) and at the threshold that was chosen on validation; of more classes the mean AUROC over them.
    """
    draws = Resamples(tables[0]["patient"].to_numpy())
    names = ["dice"] if "dice" in tables[0] else ["auroc", "accuracy", "accuracy_at_threshold"]
    found = {}
    for name in names:
        everyone = np.ones((1, len(tables[0])))
        value = float(np.mean([_figure(name, table, everyone) for table in tables]))
        spread = np.mean([_figure(name, table, draws.weights) for table in tables], axis=0)
        low, high = np.nanpercentile(spread, [2.5, 97.5])
        found[name] = {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return found


def _figure(name: str, table: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Return one figure of one table under every row of weights (resamples, N)."""
    if name == "dice":
        values = table["dice"].to_numpy(dtype=float)
        known = np.isfinite(values)
        return np.asarray((weights[:, known] * values[known]).sum(axis=1) / weights[:, known].sum(axis=1))
    probabilities = table.filter(regex=r"^prob_\d+$").to_numpy(dtype=float)
    truth = table["truth"].to_numpy(dtype=int)
    if name == "auroc":
        classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
        areas = [weighted_auroc(truth == n, probabilities[:, n], weights) for n in classes]
        return np.asarray(np.mean(areas, axis=0))
    said = probabilities.argmax(axis=1) if name == "accuracy" else table["predicted"].to_numpy(dtype=int)
    return np.asarray((weights * (said == truth)).sum(axis=1) / weights.sum(axis=1))


def _medml(home: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(home), *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"medml {arguments[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _print(record: dict[str, Any]) -> None:
    names = list(record["mean"])
    print(f"\n| {record['experiment']['name']}, test set | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for run in record["runs"]:
        print(f"| seed {run['seed']}, {run['cpu_seconds']:.0f} CPU s | {_cells(run['test'], names)} |")
    print(f"| mean of {len(record['runs'])} | {_cells(record['mean'], names)} |")
    for row in record["published"]:
        print(f"| {row['model']} (published) | {' | '.join(f'{row[n]:.3f}' if n in row else '' for n in names)} |")
    for run in record["earlier"]:
        print(f"| earlier, {run['commit']}, seed {run['seed']} | {_cells(run['test'], names)} |")


def _cells(found: dict[str, Any], names: list[str]) -> str:
    return " | ".join("{value:.3f} ({low:.3f} to {high:.3f})".format(**found[name]) for name in names)


if __name__ == "__main__":
    sys.exit(main())
