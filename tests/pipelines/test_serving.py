"""`medml up`: both pages behind one login on ports of our choice, schedules and triggers that fire, a clean end."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from up_running import ROOT, SAID_WHEN_READY, UP, Running, ask, free_port, quiet_environment, seen

from medml.errors import ConfigError
from pipelines.health import health
from pipelines.schedule_looks import backfill, list_schedules, pause, run_now
from pipelines.server import running_server

FLOW = """
from prefect import flow, task

@task(name="say")
def say(word):
    return word

@flow(name="trivial")
def trivial(word: str, source: str = "") -> str:
    return say(word)
"""
SCHEDULES = """
schedules:
  - {name: every-minute, flow: trivial, cron: "* * * * *", parameters: {word: hello}}
triggers:
  - {name: dropped, flow: trivial, quiet_seconds: 1, parameters: {word: arrived}}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "trivial_flow.py").write_text(FLOW)
    (folder / "schedules.yaml").write_text(SCHEDULES)
    instance = Running(folder, "trivial_flow:trivial")
    try:
        yield instance
    finally:
        instance.end()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.timeout(900)
def test_a_cron_deployment_is_scheduled_and_fires_by_itself(running: Running) -> None:
    assert seen(lambda: running.said(SAID_WHEN_READY), within=600)
    assert running.said(running.prefect)
    assert running.said(running.mlflow)
    assert running.said("every-minute")
    assert running.said("secrets/login")
    assert not running.said(running.login.partition(":")[2])
    done = seen(lambda: [run for run in running.runs("COMPLETED") if run["auto_scheduled"]], within=180)
    assert done
    assert done[0]["parameters"] == {"word": "hello"}
    assert {"medml", "trivial", "schedule"} <= set(done[0]["tags"])


def test_both_pages_ask_for_the_login_and_refuse_other_sites(running: Running) -> None:
    assert ask(f"{running.prefect}/ui-settings")["api_url"] == f"{running.prefect}/api"
    searched = f"{running.mlflow}/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    asked = f"{running.prefect}/api/admin/version"
    for page in (searched, asked):
        assert ask(page, login=running.login)
        for login in ("", "medml:wrong-password"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(page, login=login)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(searched, login=running.login, Host="evil")
    with pytest.raises(urllib.error.HTTPError, match="403"):  # a form of another site has no token
        ask(f"{running.prefect}/api/flow_runs/filter", {}, login=running.login)
    create = f"{running.mlflow}/ajax-api/2.0/mlflow/experiments/create"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(create, {"name": "x"}, login=running.login, Origin="http://evil.example")


@pytest.mark.timeout(600)
def test_a_folder_in_the_inbox_starts_a_run_that_sees_a_request_and_no_name(running: Running) -> None:
    (running.home.inbox / "DOE^JANE").mkdir(parents=True)
    (running.home.inbox / "DOE^JANE" / "1.dcm").write_text("pixels")
    done = seen(lambda: [run for run in running.runs("COMPLETED") if "trigger" in run["tags"]], within=300)
    assert done
    assert done[0]["parameters"]["source"].startswith("req-")
    assert "DOE" not in str(running.runs())


@pytest.mark.timeout(600)
def test_every_flow_can_be_started_by_hand_with_checked_parameters(running: Running) -> None:
    deployment = running.api("deployments/name/trivial/on-demand")
    assert list(deployment["parameter_openapi_schema"]["properties"]) == ["word", "source"]
    create = f"deployments/{deployment['id']}/create_flow_run"
    with pytest.raises(urllib.error.HTTPError, match=r"409|422"):
        running.api(create, {"parameters": {"word": {"no": "text"}}})
    run = running.api(create, {"parameters": {"word": "by hand"}})
    assert seen(lambda: run["id"] in [done["id"] for done in running.runs("COMPLETED")], within=300)


@pytest.mark.timeout(600)
def test_a_schedule_is_listed_paused_resumed_run_now_and_filled_in(running: Running) -> None:
    home = running.home
    assert list_schedules(home).counts == {"schedules": 1, "triggers": 1, "missed": 0}
    assert pause(home, "every-minute", paused=True).summary["state"] == "paused"
    found = running.api("deployments/name/trivial/every-minute")
    assert [schedule["active"] for schedule in found["schedules"]] == [False]
    assert pause(home, "every-minute", paused=False).summary["state"] == "active"
    assert run_now(home, "every-minute").ok
    with pytest.raises(ConfigError, match="dropped is a trigger: it starts when something has arrived"):
        run_now(home, "dropped")
    end = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=2)
    start = end - timedelta(minutes=3)
    assert backfill(home, "every-minute", start, end).counts == {"due": 3, "had run": 0, "planned": 3}
    assert backfill(home, "every-minute", start, end).counts == {"due": 3, "had run": 3, "planned": 0}


def test_the_status_names_every_part_and_where_it_answers(running: Running) -> None:
    lines, worries = health(running.home)
    assert lines["Prefect server"].startswith(f"runs at {running.prefect}, since ")
    assert lines["MLflow server"].startswith(f"runs at {running.mlflow}, since ")
    assert lines["process that serves the flows"].startswith("runs, since ")
    assert "Completed" in lines["runs of the last day"]
    assert [worry for worry in worries if "log is in" in worry] == []


@pytest.mark.timeout(600)
def test_the_end_is_clean_and_a_second_one_is_refused_before_it(running: Running) -> None:
    second = subprocess.run(
        [
            sys.executable,
            "-c",
            UP,
            str(running.home.root),
            str(free_port()),
            str(free_port()),
            *running.arguments()[3:],
        ],
        capture_output=True,
        text=True,
        env=quiet_environment(ROOT, running.folder),
        timeout=300,
    )
    assert "`medml up` runs for this home already" in second.stderr
    assert running.stop() == 0
    assert running_server(running.home) is None
    with pytest.raises(urllib.error.URLError):
        ask(f"{running.mlflow}/health")
    assert health(running.home)[0]["medml up"].startswith("not running; flows were last served 20")
    with pytest.raises(ConfigError, match="nobody serves the flows of this home"):
        run_now(running.home, "every-minute")
