"""`medml up`: both servers on ports of our choice, a cron deployment that fires by itself, a clean end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medml.records.home import Home
from pipelines.server import running_server

ROOT = Path(__file__).resolve().parents[2]

FLOW = """
from prefect import flow, task

@task(name="say")
def say(word):
    return word

@flow(name="trivial")
def trivial(word: str) -> str:
    return say(word)
"""

UP = """
import sys
from pathlib import Path
from medml.records.home import Home
from pipelines.serving import up

up(
    Home(Path(sys.argv[1])),
    prefect_port=int(sys.argv[2]),
    mlflow_port=int(sys.argv[3]),
    schedules=Path(sys.argv[4]),
    flows=("trivial_flow:trivial",),
)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def seen(look: Callable[[], Any], *, within: float) -> Any:
    deadline = time.monotonic() + within
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def quiet_environment(*paths: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "MEDML_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, paths))}


class Running:
    """`medml up` of one test: its process, its output, its two addresses."""

    def __init__(self, folder: Path) -> None:
        (folder / "trivial_flow.py").write_text(FLOW)
        schedule = "{name: every-minute, flow: trivial, cron: '* * * * *', parameters: {word: hello}}"
        (folder / "schedules.yaml").write_text(f"schedules: [{schedule}]\n")
        self.home = Home(folder / "home")
        ports = free_port(), free_port()
        self.prefect, self.mlflow = (f"http://127.0.0.1:{port}" for port in ports)
        self.output = folder / "up.log"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, str(self.home.root), *map(str, ports), str(folder / "schedules.yaml")],
                stdout=output,
                stderr=output,
                env=quiet_environment(ROOT, folder),
            )

    def said(self, words: str) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        return words in self.output.read_text()

    def runs(self, state: str) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"state": {"type": {"any_": [state]}}}, "limit": 50}
        return list(ask(f"{self.prefect}/api/flow_runs/filter", wanted))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    instance = Running(tmp_path_factory.mktemp("up"))
    try:
        yield instance
    finally:
        if instance.process.poll() is None:
            instance.stop()


@pytest.mark.timeout(500)
def test_a_cron_deployment_is_scheduled_and_fires_by_itself(running: Running) -> None:
    assert seen(lambda: running.said("Stop with Ctrl-C"), within=180)
    assert running.said(running.prefect)
    assert running.said(running.mlflow)
    assert running.said("every-minute")
    assert seen(lambda: running.runs("SCHEDULED"), within=30)
    done = seen(lambda: running.runs("COMPLETED"), within=120)
    assert done
    assert done[0]["parameters"] == {"word": "hello"}
    assert done[0]["auto_scheduled"]


def test_the_prefect_ui_calls_its_own_port_and_mlflow_refuses_other_hosts(running: Running) -> None:
    assert ask(f"{running.prefect}/ui-settings")["api_url"] == f"{running.prefect}/api"
    strange = urllib.request.Request(
        f"{running.mlflow}/ajax-api/2.0/mlflow/experiments/search", headers={"Host": "evil"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(strange, timeout=20)


def test_every_flow_can_be_started_by_hand_with_checked_parameters(running: Running) -> None:
    deployment = ask(f"{running.prefect}/api/deployments/name/trivial/on-demand")
    assert list(deployment["parameter_openapi_schema"]["properties"]) == ["word"]
    create = f"{running.prefect}/api/deployments/{deployment['id']}/create_flow_run"
    with pytest.raises(urllib.error.HTTPError, match=r"409|422"):
        ask(create, {"parameters": {"word": {"no": "text"}}})
    run = ask(create, {"parameters": {"word": "by hand"}})
    assert seen(lambda: run["id"] in [done["id"] for done in running.runs("COMPLETED")], within=90)


@pytest.mark.timeout(300)
def test_the_end_is_clean_and_a_second_one_is_refused_before_it(running: Running) -> None:
    arguments = [
        str(running.home.root),
        str(free_port()),
        str(free_port()),
        str(running.home.root.parent / "schedules.yaml"),
    ]
    second = subprocess.run(
        [sys.executable, "-c", UP, *arguments],
        capture_output=True,
        text=True,
        env=quiet_environment(ROOT, running.home.root.parent),
        timeout=120,
    )
    assert "`medml up` runs for this home already" in second.stderr
    assert running.stop() == 0
    assert running_server(running.home) is None
    with pytest.raises(urllib.error.URLError):
        ask(f"{running.mlflow}/health")
