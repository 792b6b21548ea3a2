"""`make demo`: the whole way on phantoms, by the very commands a user would type."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medml.records.home import Home

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "demo_home"
SAMPLES = HOME / "samples"

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Generate, ingest, train a segmenter and a classifier, infer, and say where to look."""
    from pipelines.settings import prepare

    started = time.monotonic()
    HOME.mkdir(exist_ok=True)
    prepare(Home(HOME))
    from pipelines.server import prefect_server

    _say("Phantom CT scans of fictitious patients", "data_samples/generate.py")
    _command([sys.executable, str(ROOT / "data_samples" / "generate.py"), str(SAMPLES)])
    with prefect_server(Home(HOME)):
        ingested = _medml("ingest", str(SAMPLES / "cohort" / "manifest.csv"), "--config", "configs/ingest/demo.yaml")
        models = [_medml("train", f"configs/training/{name}.yaml") for name in ("demo_segmenter", "demo_classifier")]
        batches = [
            _medml("predict", name, str(SAMPLES / "new"), "-o", str(HOME / "results" / name))
            for name in ("demo_segmenter", "demo_classifier")
        ]
    _summary(ingested, models, batches, time.monotonic() - started)


def _medml(*arguments: str) -> dict[str, Any]:
    """Run one verb as a user would; return its line of JSON."""
    shown = " ".join(["medml", "--home", HOME.name, *(_shown(argument) for argument in arguments)])
    _say(shown)
    output = _command([sys.executable, "-m", "pipelines.cli", "--home", str(HOME), *arguments, "--json"])
    return dict(json.loads(output.splitlines()[-1]))


def _command(command: list[str]) -> str:
    """Run a command, show what it prints but a last line of JSON, return all of it; stop the demo if it fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line.rstrip("\n"))
            if not line.startswith('{"'):
                print(line, end="", flush=True)
    if process.returncode != 0:
        console.print(f"[bold red]the demo stops here:[/] exit code {process.returncode}")
        raise SystemExit(process.returncode)
    return "\n".join(lines)


def _summary(
    ingested: dict[str, Any], models: list[dict[str, Any]], batches: list[dict[str, Any]], seconds: float
) -> None:
    counts = ingested["counts"]
    console.rule("[bold]What happened")
    console.print(", ".join(f"{value} {key}" for key, value in counts.items()), style="cyan")
    table = Table("model", "test figure", "value", "95 % interval", title="Held-out patients", title_justify="left")
    for model in models:
        for key, label in _figures(model["summary"]):
            summary = model["summary"]
            interval = f"{_number(summary.get(key + '_low'))} to {_number(summary.get(key + '_high'))}"
            table.add_row(model["model"], label, _number(summary[key]), interval)
    console.print(table)
    table = Table("model", "scans", "results", title="New scans", title_justify="left")
    for batch in batches:
        words = {"needs_review": "of them to review"}
        counted = ", ".join(f"{value} {words.get(key, key)}" for key, value in batch["counts"].items() if value)
        table.add_row(batch["model"], counted, _shown(batch["outputs"]["results"]))
    console.print(table)
    console.rule("[bold]Look at")
    for title, result in [*(("test report", m) for m in models), *(("batch report", b) for b in batches)]:
        console.print(f"  {title:13} {result['model']:20} xdg-open {_shown(result['outputs']['report'])}")
    console.print(f"  MLflow, Prefect and their schedules:  .venv/bin/medml --home {HOME.name} up")
    console.print("     then open http://127.0.0.1:5000 (MLflow) and http://127.0.0.1:4200 (Prefect)")
    console.print(f"  what is where:                        .venv/bin/medml --home {HOME.name} status")
    console.print(f"\nDone in {seconds / 60:.1f} minutes. Research use only; the patients are fictitious.")


def _figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Name the headline figures a summary holds, in reading order."""
    dice = [(key, "Dice " + key.removeprefix("dice_")) for key in summary if key.startswith("dice_")]
    figures = [item for item in dice if not item[0].endswith(("_low", "_high"))]
    for key, label in (("auroc", "AUROC"), ("sensitivity", "sensitivity"), ("specificity", "specificity")):
        if key in summary:
            figures.append((key, label))
    return figures


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "undefined"


def _say(text: str, more: str = "") -> None:
    console.print(f"\n[bold cyan]$ {text}[/] {more}")


def _shown(path: str) -> str:
    return str(Path(path).relative_to(ROOT)) if path.startswith(str(ROOT)) else path


if __name__ == "__main__":
    main()
