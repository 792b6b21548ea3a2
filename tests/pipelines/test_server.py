"""One real Prefect server per home: shared, never two, no task history lost, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.server import running_server, start_early

ROOT = Path(__file__).resolve().parents[2]

VERB = """
import sys
from pathlib import Path
from medml.records.home import Home
from pipelines.server import prefect_server

home, tasks, seconds = Home(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
with prefect_server(home) as url:
    import time
    from prefect import flow, task

    @task
    def one(number):
        return number

    @flow
    def many():
        numbers = [future.result() for future in one.map(range(tasks))]
        print(url, flush=True)
        time.sleep(seconds)
        return sum(numbers)

    many()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    # `prepare` writes to the environment; monkeypatch puts back what was there.
    for name in ("MEDML_HOME", "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def verb(home: Home, *, tasks: int = 50, seconds: float = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", VERB, str(home.root), str(tasks), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0
    return output.strip()


def rows(home: Home, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(home.prefect / "prefect.db") as database:
        return database.execute(query).fetchall()


def gone(pid: int, *, within: float) -> bool:
    deadline = time.monotonic() + within
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not psutil.pid_exists(pid)


@pytest.mark.timeout(400)
def test_every_task_of_three_runs_is_stored_and_runs_at_once_share_a_server(home: Home) -> None:
    alone = finished(verb(home))
    together = [finished(process) for process in [verb(home, seconds=3), verb(home, seconds=3)]]
    stored = rows(home, "select count(*) from task_run where state_type = 'COMPLETED' group by flow_run_id")
    assert stored == [(50,)] * 3
    assert len(set(together)) == 1
    assert alone not in together
    assert running_server(home) is None
    assert not (home.prefect / "server.json").exists()


@pytest.mark.timeout(300)
def test_a_killed_verb_leaves_no_server_and_its_run_is_marked_as_crashed(home: Home) -> None:
    process = verb(home, tasks=1, seconds=600)
    assert process.stdout is not None
    process.stdout.readline()
    server = json.loads((home.prefect / "server.json").read_text())["pid"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert gone(server, within=30)
    assert rows(home, "select count(*) from flow_run where state_type = 'RUNNING'") == [(1,)]
    finished(verb(home, tasks=1))
    assert rows(home, "select state_type, count(*) from flow_run group by 1") == [("COMPLETED", 4), ("CRASHED", 1)]


def test_a_server_that_is_given_must_answer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    handle = start_early(home)
    with pytest.raises(
        ConfigError, match=r"PREFECT_API_URL=http://127\.0\.0\.1:9/api: no Prefect server answers there"
    ):
        handle.wait(timeout=0.1)
    handle.close()


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 cannot be used"):
            start_early(Home(tmp_path), port=port)
    assert running_server(Home(tmp_path)) is None
