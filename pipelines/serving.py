"""``medml up``: the Prefect and MLflow servers and the process that serves the flows, kept alive until told to stop."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medml.errors import ConfigError, MedmlError
from medml.records.home import Home
from medml.registry.relocate import follow_home
from pipelines.credentials import login_file
from pipelines.flow_server import error_file, go_file
from pipelines.log_files import rotate
from pipelines.parts import Part, forget_parts, note_parts, part_of
from pipelines.processes import POLL_SECONDS, Child, Pause, stop_on_signals
from pipelines.schedules import FLOWS, SchedulesConfig, load_schedules
from pipelines.server import ServerHandle, bury_dead_runs, connected, running_server, start_early
from pipelines.settings import child_environment, mlflow_environment, prepare
from pipelines.upgrade import upgrade

logger = logging.getLogger(__name__)

READY_SECONDS = 600.0
ROTATE_SECONDS = 60.0

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def up(
    home: Home,
    *,
    prefect_port: int,
    mlflow_port: int,
    schedules: Path,
    host: str = "127.0.0.1",
    flows: Sequence[str] = FLOWS,
) -> None:
    """Start everything, say where it is, and keep it alive until SIGINT or SIGTERM.

    Parameters
    ----------
    prefect_port, mlflow_port : int
        Where the two UIs listen. A Prefect server that already runs for this home keeps its port and is used, and so
        is a tracking server that ``MLFLOW_TRACKING_URI`` names.
    schedules : Path
        ``configs/schedules.yaml``.
    flows : sequence of str
        ``module:function`` of the flows to serve.

    Raises
    ------
    ConfigError
        If a port is taken, or a schedule is wrong.
    MedmlError
        If a server does not answer in time.
    """
    prepare(home)
    home.prefect.mkdir(parents=True, exist_ok=True)
    home.inbox.mkdir(mode=0o700, exist_ok=True)
    wanted = load_schedules(schedules)
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI", "")
    mlflow_url = elsewhere if elsewhere.startswith("http") else f"http://{host}:{mlflow_port}"
    with stop_on_signals() as stopped, ExitStack() as stack:
        stack.enter_context(_only_one(home))
        rotate(home.logs)
        upgrade(home)
        prefect = _Prefect(home, start_early(home, port=prefect_port, host=host), host)
        stack.callback(prefect.close)
        ready = home.prefect / "serving.ready"
        server = _flows(home, schedules, flows, ready, stack)  # it reads everything while the servers start
        mlflow = None if mlflow_url == elsewhere else _mlflow(home, host, mlflow_port, stack)
        prefect.handle.wait(READY_SECONDS)
        bury_dead_runs(prefect.handle)
        go_file(home).touch()
        stack.callback(lambda: _pause_schedules(prefect.handle.api_url))
        stack.callback(forget_parts, home)
        _wait_for_flows(home, server, ready, stopped)
        if mlflow:
            mlflow.wait_until(lambda: _answers(f"{mlflow_url}/health"), stopped, READY_SECONDS)
        if not stopped:
            _announce(home, prefect.handle.ui_url, mlflow_url, wanted)
        _look_after(home, prefect, mlflow, server, mlflow_url, stopped)


def _wait_for_flows(home: Home, server: Child, ready: Path, stopped: Sequence[int]) -> None:
    """Wait until the deployments are registered; mistakes in the schedules are told in their own words."""
    try:
        server.wait_until(ready.exists, stopped, READY_SECONDS)
    except MedmlError:
        if error_file(home).exists():
            raise ConfigError(error_file(home).read_text(encoding="utf-8")) from None
        raise


def _look_after(
    home: Home, prefect: _Prefect, mlflow: Child | None, server: Child, mlflow_url: str, stopped: Sequence[int]
) -> None:
    """Start again what ends, note what runs, keep the logs small; until we are told to stop."""
    noted: tuple[Part, ...] = ()
    rotated = time.monotonic()
    while not stopped:
        prefect.look_after()
        parts = [part_of("medml up", os.getpid()), prefect.part()]
        for child, address in ((mlflow, mlflow_url), (server, "")):
            if child:
                child.look_after()
                parts.append(part_of(child.name.removeprefix("the "), child.process.pid, address, child.restarts))
        if tuple(parts) != noted:
            noted = tuple(parts)
            note_parts(home, noted)
        if time.monotonic() - rotated > ROTATE_SECONDS:
            rotate(home.logs)
            rotated = time.monotonic()
        time.sleep(POLL_SECONDS)


class _Prefect:
    """The home's Prefect server, started again on its port when it ends, after a pause that doubles each time."""

    def __init__(self, home: Home, handle: ServerHandle, host: str) -> None:
        self.home, self.handle, self.host = home, handle, host
        self.restarts = 0
        self._own, self._pause = handle.own, Pause()

    def look_after(self) -> None:
        if not self._pause.over(self.handle.running() and self.handle.own == self._own):
            return
        logger.warning("the Prefect server ended; starting it again on its port")
        port = int(self.handle.ui_url.rpartition(":")[2])
        self.handle.close()
        try:
            self.handle = start_early(self.home, port=port, host=self.host)
        except MedmlError as error:
            logger.warning("it could not be started, trying again later: %s", error)
        self.restarts += 1

    def part(self) -> Part:
        return part_of("Prefect server", self.handle.pid, self.handle.ui_url, self.restarts)

    def close(self) -> None:
        self.handle.close()


@contextmanager
def _only_one(home: Home) -> Iterator[None]:
    """Two processes that serve one home's flows would run every schedule twice."""
    with (home.prefect / "serving.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"`medml up` runs for this home already: {running_server(home)}; stop it first") from None
        yield


def _mlflow(home: Home, host: str, port: int, stack: ExitStack) -> Child:
    _refuse_taken(host, port)
    follow_home(home.root / "mlflow.db", home.mlartifacts)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", os.environ.get("MLFLOW_TRACKING_URI") or home.mlflow_url),
        *("--default-artifact-root", home.mlartifacts.resolve().as_uri(), "--no-serve-artifacts"),
        "--uvicorn-opts=--no-access-log",
        *("--app-name", "medml"),  # ours, which asks for the login: medml.registry.login
    ]
    child = Child("the MLflow server", command, home.logs / "mlflow.log", mlflow_environment(home, port, host=host))
    child.launch()
    stack.callback(child.stop)
    return child


def _flows(home: Home, schedules: Path, flows: Sequence[str], ready: Path, stack: ExitStack) -> Child:
    for file in (ready, go_file(home), error_file(home)):
        file.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pipelines.flow_server", str(home.root), str(schedules.resolve()), str(ready)),
        *flows,
    ]
    child = Child("the process that serves the flows", command, home.logs / "serving.log", child_environment())
    child.launch()
    stack.callback(child.stop)
    return child


def _answers(url: str) -> bool:
    try:
        with _direct.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"port {port} on {host} cannot be used ({error.strerror}); choose another one") from None


def _announce(home: Home, prefect_url: str, mlflow_url: str, wanted: SchedulesConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]Prefect[/]  {prefect_url}   flows, runs, schedules; start a flow by hand under Deployments")
    console.print(f"[bold]MLflow[/]   {mlflow_url}   trainings, figures, models")
    console.print(
        f"[bold]Login[/]    the line user:password in {login_file(home)} (only you can read it): Prefect asks for the "
        "whole line, MLflow for its two halves"
    )
    heads = ("name", "flow", "when", "parameters", "enabled")
    table = Table(title="Schedules and triggers", title_justify="left")
    for head in heads:
        table.add_column(head, no_wrap=head == "name", overflow="fold")
    when = {item.name: f"{item.cron} {item.timezone}" for item in wanted.schedules}
    when |= {item.name: f"{item.when} quiet for {item.quiet_seconds:g} s" for item in wanted.triggers}
    for item in wanted.planned:
        given = ", ".join(f"{key}={value}" for key, value in item.parameters.items())
        table.add_row(item.name, item.flow, when[item.name], given, "yes" if item.enabled else "no")
    console.print(table)
    if any(item.enabled for item in wanted.triggers):
        console.print(f"A folder or file that is put into {home.inbox} starts its triggers.")
    console.print(f"Logs are in {home.logs}. Stop with Ctrl-C.")


def _pause_schedules(api_url: str) -> None:
    """Plan no more runs: nobody serves them until the next `medml up`."""
    import httpx
    from prefect.client.orchestration import get_client

    from pipelines.planned import our_deployments

    try:
        with connected(api_url), get_client(sync_client=True) as client:
            for deployment in our_deployments(client):
                client.pause_deployment(deployment.id)
    except httpx.HTTPError as error:
        logger.warning("the schedules could not be paused (%s); the next start sorts them out", type(error).__name__)
