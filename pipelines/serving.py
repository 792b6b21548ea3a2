"""``medml up``: the Prefect and MLflow servers and the process that serves the flows, kept alive until told to stop."""

from __future__ import annotations

import argparse
import asyncio
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
from typing import TYPE_CHECKING

from medml.errors import ConfigError
from medml.records.home import Home
from medml.registry.relocate import follow_home
from pipelines.processes import POLL_SECONDS, Child, stop_on_signals
from pipelines.schedules import FLOWS, TAG, ScheduleConfig, deployments, load_flows, load_schedules
from pipelines.server import ServerHandle, bury_dead_runs, running_server, start_early
from pipelines.settings import child_environment, mlflow_environment, prepare

if TYPE_CHECKING:
    from prefect.client.schemas.filters import DeploymentFilter

logger = logging.getLogger(__name__)

READY_SECONDS = 180.0
RUNS_AT_ONCE = 2

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
    wanted = load_schedules(schedules)
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI", "")
    mlflow_url = elsewhere if elsewhere.startswith("http") else f"http://{host}:{mlflow_port}"
    with stop_on_signals() as stopped, ExitStack() as stack:
        stack.enter_context(_only_one(home))
        prefect = start_early(home, port=prefect_port, host=host)
        stack.callback(lambda: prefect.close())
        mlflow = None if mlflow_url == elsewhere else _mlflow(home, host, mlflow_port, stack)
        deployments(wanted, load_flows(flows))  # mistakes in the schedules are told before anything is served
        prefect.wait(READY_SECONDS)
        bury_dead_runs(prefect)
        stack.callback(lambda: _pause_schedules(prefect.api_url))
        ready = home.prefect / "serving.ready"
        server = _flows(home, schedules, flows, ready, stack)
        if mlflow:
            mlflow.wait_until(lambda: _answers(f"{mlflow_url}/health"), stopped, READY_SECONDS)
        server.wait_until(ready.exists, stopped, READY_SECONDS)
        if not stopped:
            _announce(home, prefect.ui_url, mlflow_url, wanted)
        while not stopped:
            for child in (mlflow, server):
                if child:
                    child.look_after()
            prefect = _keep_prefect(prefect, host)
            time.sleep(POLL_SECONDS)


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
        *("--allowed-hosts", f"{host}:{port},localhost:{port}"),
    ]
    child = Child("the MLflow server", command, home.logs / "mlflow.log", mlflow_environment())
    child.launch()
    stack.callback(child.stop)
    return child


def _flows(home: Home, schedules: Path, flows: Sequence[str], ready: Path, stack: ExitStack) -> Child:
    ready.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pipelines.serving", str(home.root), str(schedules.resolve()), str(ready)),
        *flows,
    ]
    child = Child("the process that serves the flows", command, home.logs / "serving.log", child_environment())
    child.launch()
    stack.callback(child.stop)
    return child


def _keep_prefect(handle: ServerHandle, host: str) -> ServerHandle:
    if handle.running():
        return handle
    logger.warning("the Prefect server ended; starting it again on its port")
    port = int(handle.ui_url.rpartition(":")[2])
    handle.close()
    fresh = start_early(handle.home, port=port, host=host)
    fresh.wait()
    return fresh


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


def _announce(home: Home, prefect_url: str, mlflow_url: str, schedules: Sequence[ScheduleConfig]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]Prefect[/]  {prefect_url}   flows, runs, schedules; start a flow by hand under Deployments")
    console.print(f"[bold]MLflow[/]   {mlflow_url}   trainings, figures, models")
    table = Table(
        "schedule", "flow", "cron", "time zone", "parameters", "enabled", title="Schedules", title_justify="left"
    )
    for item in schedules:
        given = ", ".join(f"{key}={value}" for key, value in item.parameters.items())
        table.add_row(item.name, item.flow, item.cron, item.timezone, given, "yes" if item.enabled else "no")
    console.print(table)
    console.print(f"Logs are in {home.logs}. Stop with Ctrl-C.")


async def _serve_flows(schedules: Path, places: Sequence[str], ready: Path) -> None:
    """Register the deployments, forget what is no longer wanted, and run what comes due."""
    from prefect.runner import Runner

    # `up` pauses the schedules itself: a runner that is told to stop does not always get to it.
    runner = Runner(name="medml", limit=RUNS_AT_ONCE, query_seconds=5, pause_on_shutdown=False)
    wanted = deployments(load_schedules(schedules), load_flows(places))
    await _forget_deployments({f"{deployment.flow_name}/{deployment.name}" for deployment in wanted})
    await _forget_missed_runs()
    for deployment in wanted:
        await runner.aadd_deployment(deployment)
    ready.touch()
    await runner.start()


async def _forget_deployments(wanted: set[str]) -> None:
    """Delete our deployments that the configuration no longer holds: it is the only source of schedules."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        for deployment in await client.read_deployments(deployment_filter=_ours()):
            flow = await client.read_flow(deployment.flow_id)
            if f"{flow.name}/{deployment.name}" not in wanted:
                await client.delete_deployment(deployment.id)


async def _forget_missed_runs() -> None:
    """Delete what the schedules had planned while nobody served: a week of missed nights is not run at once."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    planned = filters.FlowRunFilter(
        tags=filters.FlowRunFilterTags(all_=["auto-scheduled"]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    async with get_client() as client:
        while runs := await client.read_flow_runs(flow_run_filter=planned, limit=200):
            for run in runs:
                await client.delete_flow_run(run.id)


def _pause_schedules(api_url: str) -> None:
    """Plan no more runs: nobody serves them until the next `medml up`."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        for deployment in client.read_deployments(deployment_filter=_ours()):
            client.pause_deployment(deployment.id)


def _ours() -> DeploymentFilter:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    return DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))


def _main() -> None:
    parser = argparse.ArgumentParser(description="Serve the flows of one home; started by `medml up`.")
    parser.add_argument("home", type=Path)
    parser.add_argument("schedules", type=Path)
    parser.add_argument("ready", type=Path, help="a file to make when the deployments are registered")
    parser.add_argument("flows", nargs="+", help="module:function")
    arguments = parser.parse_args()
    prepare(Home(arguments.home))
    asyncio.run(_serve_flows(arguments.schedules, arguments.flows, arguments.ready))


if __name__ == "__main__":
    _main()
