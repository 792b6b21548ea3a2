"""Nothing phones home: a flow with its Prefect server and MLflow asks for no address but this machine's.

The work runs where no network is, and every process of it writes down the addresses that it asks for: a library that
tried and gave up would be seen too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WATCH = ROOT / "tests" / "network"
WORK = """
import sys
from pathlib import Path
from medml.records.home import Home
from pipelines.server import prefect_server
home = Home(Path(sys.argv[1]))
with prefect_server(home):
    from prefect import flow
    from medml.registry.tracking import Tracker
    from pipelines.tasks import step

    @step("work")
    def work():
        tracker = Tracker.of(home)
        run = tracker.start_or_resume(experiment="e", run_name="r", run_key="k")
        tracker.log_metrics(run, {"a": 1.0})
        tracker.finish(run)

    @flow(persist_result=False)
    def outer():
        work()

    outer()
print("done")
"""


def environment(log: Path) -> dict[str, str]:
    """Return an environment in which a caller has asked for no quiet, as a user's shell has not."""
    left = {"DO_NOT_TRACK", "CI", "MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_API_URL"}
    own = {name: value for name, value in os.environ.items() if name not in left}
    return {**own, "PYTHONPATH": f"{WATCH}{os.pathsep}{ROOT}", "MEDML_TEST_NETWORK_LOG": str(log)}


def without_network() -> list[str]:
    """Return the beginning of a command that runs where only loopback is; empty where that is not permitted."""
    alone = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        allowed = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return alone if allowed else []


def test_a_flow_with_its_servers_needs_no_network_and_asks_for_none(tmp_path: Path) -> None:
    log = tmp_path / "addresses.log"
    command = [*without_network(), sys.executable, "-c", WORK, str(tmp_path / "home")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment(log), check=False, timeout=300
    )
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr
    assert not log.exists(), log.read_text()


def test_an_address_elsewhere_would_be_seen(tmp_path: Path) -> None:
    log = tmp_path / "addresses.log"
    code = "import socket\ntry:\n socket.getaddrinfo('telemetry.example.invalid', 443)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=environment(log), check=True)
    assert "socket.getaddrinfo telemetry.example.invalid" in log.read_text()


def test_this_machine_is_no_address_elsewhere(tmp_path: Path) -> None:
    log = tmp_path / "addresses.log"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port})).close()"
        subprocess.run([sys.executable, "-c", code], env=environment(log), check=True)
    assert not log.exists()
