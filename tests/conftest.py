"""What every test shares: real data where it is, quiet threads, and no silent skips where nothing may be missing."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(DO_NOT_TRACK="1", ORT_DISABLE_TELEMETRY="1")
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", PREFECT_SERVER_ANALYTICS_ENABLED="false")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data: ``MEDML_DATA``, else ``../shared/data`` beside the checkout."""
    folder = Path(os.environ.get("MEDML_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set MEDML_DATA to run this test")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``MEDML_REQUIRE=all`` a skipped test fails: CI has everything."""
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself (`pytest.importorskip`)."""
    return _required((yield))


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _required(report: Report) -> Report:
    if os.environ.get("MEDML_REQUIRE") == "all" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"MEDML_REQUIRE=all, but this was skipped: {reason}"
    return report
