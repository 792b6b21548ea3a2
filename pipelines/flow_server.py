"""The process that serves the flows of one home: deployments, what comes due, and what is looked after meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

import httpx

from medml.errors import ConfigError
from medml.interpreter import run_quickly
from medml.io.files import write_text
from medml.records.home import Home
from pipelines.schedules import SchedulesConfig, deployments, load_flows, load_schedules
from pipelines.settings import prepare

logger = logging.getLogger(__name__)

RUNS_AT_ONCE = 2
QUERY_SECONDS = 5
MIND_SECONDS = 5.0


async def serve(home: Home, schedules: Path, places: Sequence[str], ready: Path) -> None:
    """Register the deployments, forget what is no longer wanted, and run what comes due.

    Parameters
    ----------
    schedules : Path
        ``configs/schedules.yaml``.
    places : sequence of str
        ``module:function`` of the flows.
    ready : Path
        A file to make when everything is registered.
    """
    from prefect.runner import Runner

    from pipelines.minding import end_orphans, take_over
    from pipelines.served import paused_names

    wanted = load_schedules(schedules)
    registered = deployments(wanted, load_flows(places), paused=paused_names(home))
    while not go_file(home).exists():  # all this was read while the servers started
        await asyncio.sleep(0.2)
    end_orphans(home)
    # `up` pauses the schedules itself: a runner that is told to stop does not always get to it.
    runner = Runner(name="medml", limit=RUNS_AT_ONCE, query_seconds=QUERY_SECONDS, pause_on_shutdown=False)
    await asyncio.to_thread(_forget_deployments, {f"{item.flow_name}/{item.name}" for item in registered})
    for deployment in registered:
        await runner.aadd_deployment(deployment)
    await asyncio.to_thread(take_over, home, schedules, wanted)
    ready.touch()
    minder = asyncio.create_task(_keep_minding(home, wanted))
    try:
        await runner.start()
    finally:
        minder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await minder


def go_file(home: Home) -> Path:
    """Return the file that `medml up` makes when the Prefect server answers and runs of the past have their state."""
    return home.prefect / "serving.go"


def error_file(home: Home) -> Path:
    """Return the file that says what is wrong with the schedules, if something is."""
    return home.prefect / "serving.error"


async def _keep_minding(home: Home, wanted: SchedulesConfig) -> None:
    """Look after everything every few seconds; a server that is away is waited for."""
    from pipelines.alerts import load_alerts
    from pipelines.minding import mind

    alerts = load_alerts(home)
    while True:
        try:
            await asyncio.to_thread(mind, home, wanted, alerts)
        except httpx.HTTPError as error:
            logger.warning("the Prefect server does not answer (%s); trying again", type(error).__name__)
        await asyncio.sleep(MIND_SECONDS)


def _forget_deployments(wanted: set[str]) -> None:
    """Delete our deployments that the configuration no longer holds: it is the only source of schedules."""
    from prefect.client.orchestration import get_client

    from pipelines.planned import our_deployments

    with get_client(sync_client=True) as client:
        for deployment in our_deployments(client):
            if f"{client.read_flow(deployment.flow_id).name}/{deployment.name}" not in wanted:
                client.delete_deployment(deployment.id)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Serve the flows of one home; started by `medml up`.")
    parser.add_argument("home", type=Path)
    parser.add_argument("schedules", type=Path)
    parser.add_argument("ready", type=Path, help="a file to make when the deployments are registered")
    parser.add_argument("flows", nargs="+", help="module:function")
    arguments = parser.parse_args()
    home = Home(arguments.home)
    prepare(home)
    try:
        asyncio.run(serve(home, arguments.schedules, arguments.flows, arguments.ready))
    except ConfigError as error:
        write_text(error_file(home), str(error))
        raise SystemExit(2) from None


if __name__ == "__main__":
    run_quickly(_main)
