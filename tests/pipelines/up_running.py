"""`medml up` for tests: a process of its own, with flows and schedules of the test, asked over HTTP."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medml.records.home import Home
from pipelines.credentials import read_login
from pipelines.parts import Part, read_parts

ROOT = Path(__file__).resolve().parents[2]

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
    flows=tuple(sys.argv[5:]),
)
"""
SAID_WHEN_READY = "Stop with Ctrl-C"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: Any = None, *, login: str = "", method: str | None = None, **headers: str) -> Any:
    """Return what an address answers; the login is ``user:password``."""
    data = json.dumps(body).encode() if body is not None else None
    given = {"Content-Type": "application/json", **headers}
    if login:
        given["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    request = urllib.request.Request(url, data, given, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def seen(look: Callable[[], Any], *, within: float, every: float = 1.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(every)
    return found


def quiet_environment(*paths: Path, **given: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "MEDML_"))}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, paths))} | given


class Running:
    """`medml up` of one test: its process, its output, its two addresses.

    Parameters
    ----------
    folder : Path
        Holds ``schedules.yaml``, modules of flows, and gets the home.
    flows : str
        ``module:function`` of what is served.
    """

    def __init__(self, folder: Path, *flows: str, **environment: str) -> None:
        self.folder, self.flows, self.environment = folder, flows, environment
        self.home = Home(folder / "home")
        self.ports = free_port(), free_port()
        self.prefect, self.mlflow = (f"http://127.0.0.1:{port}" for port in self.ports)
        self.output = folder / "up.log"
        self.start()

    def start(self) -> None:
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, *self.arguments()],
                stdout=output,
                stderr=output,
                env=quiet_environment(ROOT, self.folder, **self.environment),
            )

    def arguments(self) -> list[str]:
        return [str(self.home.root), *map(str, self.ports), str(self.folder / "schedules.yaml"), *self.flows]

    @property
    def login(self) -> str:
        return read_login(self.home).text

    def said(self, words: str) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        return words in self.output.read_text()

    def api(self, path: str, body: Any = None, *, method: str | None = None) -> Any:
        """Ask Prefect's API, with the login and the token against forged requests that a change needs."""
        token = ask(f"{self.prefect}/api/csrf-token?client=test", login=self.login)["token"]
        tokens = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"}
        return ask(f"{self.prefect}/api/{path}", body, login=self.login, method=method, **tokens)

    def runs(self, *states: str) -> list[dict[str, Any]]:
        """Return the flow runs that are part of no other, the newest first; without states, all that began."""
        wanted: dict[str, Any] = {"flow_runs": {"parent_task_run_id": {"is_null_": True}}, "limit": 200}
        wanted["sort"] = "EXPECTED_START_TIME_DESC"
        if states:
            wanted["flow_runs"]["state"] = {"type": {"any_": list(states)}}
        return list(self.api("flow_runs/filter", wanted))

    def part(self, name: str) -> Part:
        return next(part for part in read_parts(self.home) if part.name == name)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def end(self) -> None:
        if self.process.poll() is None:
            self.stop()
