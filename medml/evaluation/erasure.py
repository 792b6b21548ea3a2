"""Evaluation reports that show a patient who was erased: rows and pictures go, averages stay as they were computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medml.io.mentions import Mentions, remove, strike
from medml.pages.shell import render

TABLES = ("cases.csv", "cases.parquet", "cross_validation.csv")


def reports_showing(root: Path, mentions: Mentions) -> Iterator[Path]:
    """Yield the folders of evaluation reports below a folder that have a case of the patient."""
    for table in sorted({path.parent for path in root.rglob("cases.csv")}):
        if any((table / name).is_file() and mentions.in_file(table / name) for name in TABLES):
            yield table


def clear_report(folder: Path, mentions: Mentions, said: str) -> None:
    """Take a patient's rows out of a report's tables, and remove every picture that may show the patient.

    Pictures of the worst cases do not say whose they are, so all of them go; the page is replaced by one that says so.
    """
    for picture in [*folder.glob("figures/worst_*"), folder / "viewer.html", folder / "viewed.html"]:
        remove(picture)
    render(
        "page.html",
        folder / "report.html",
        title="Evaluation report, shortened",
        kicker="Evaluation",
        lead=f"{said} The averages in summary.json and the figures stay as they were computed; the tables of cases "
        "lack the erased ones, and the pictures of the worst cases were removed. Evaluate the model again for a whole "
        "page.",
    )
    # The tables go last: they are what a killed erasure finds the report by.
    for name in TABLES:
        if (folder / name).is_file():
            strike(folder / name, mentions)
