"""What every test shares: real data where it is, quiet threads, and no silent skips where nothing may be missing."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(DO_NOT_TRACK="1", ORT_DISABLE_TELEMETRY="1")
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", PREFECT_SERVER_ANALYTICS_ENABLED="false")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that run whole flows: the last file to end should not be a long one."""
    items.sort(key=lambda item: "pipelines" not in item.path.parts)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data: ``MEDML_DATA``, else ``../shared/data`` beside the checkout."""
    folder = Path(os.environ.get("MEDML_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set MEDML_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """Start a PostgreSQL of its own on a socket in a temporary folder; its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: run `make system`")
    binaries = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    as_user = {"user": user, "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}

    def run(*command: str | Path) -> None:
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, timeout=120, **as_user)

    run(binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", user, "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    run(binaries / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql://{user}@/postgres?host={folder}"
    finally:
        run(binaries / "pg_ctl", "-D", folder / "data", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """Return the URL of a new, empty schema, which stands for a database and costs less."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgresql_server}&options=-csearch_path%3D{name}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a Chromium that draws volumes without a graphics card."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; make setup installs it")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; make system installs it")
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


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
