"""Whether everything that should run does: processes, ports, runs, what is late or was missed, queue, slots, disk."""

from __future__ import annotations

import shutil
import socket
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from medml.records.home import Home
from pipelines.parts import Part, read_parts
from pipelines.schedule_looks import schedules_of, serving_client
from pipelines.served import missed, read_served
from pipelines.stores import open_catalogue

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

GB = 1e9
LEAST_FREE_GB = 5.0
CONNECT_SECONDS = 2.0


def health(home: Home) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return lines for `medml status`, and what a person should look at.

    Nothing is started; what does not answer is said not to.
    """
    lines: dict[str, str] = {}
    worries: list[str] = []
    parts = read_parts(home)
    for part in parts:
        lines[part.name], ill = _part(part)
        worries += [f"{part.name} {lines[part.name]}; its log is in {home.logs}"] if ill else []
    if not parts:
        served = read_served(home).until
        lines["medml up"] = f"not running; flows were last served {served}" if served else "not running"
    lines |= _runs(home, worries)
    lines |= _missed(home, worries)
    lines |= _stored(home, worries)
    return lines, tuple(worries)


def _part(part: Part) -> tuple[str, bool]:
    again = f", started again {part.restarts} times" if part.restarts else ""
    if not part.alive:
        return f"ended (process {part.pid}){again}", True
    since = datetime.fromtimestamp(part.started, UTC).isoformat(timespec="seconds")
    answers = not part.address or _listens(part.address)
    where = f" at {part.address}" if part.address else ""
    return f"{'runs' if answers else 'runs but does not answer'}{where}, since {since}{again}", not answers


def _listens(address: str) -> bool:
    place = urlparse(address)
    try:
        with socket.create_connection((place.hostname or "", place.port or 80), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _runs(home: Home, worries: list[str]) -> dict[str, str]:
    """Count the flow runs of the last day by state, and name what is late or waits for a person."""
    with serving_client(home) as client:
        return _counted(client, worries) if client else {}


def _counted(client: SyncPrefectClient, worries: list[str]) -> dict[str, str]:
    from prefect.client.schemas.objects import StateType

    from pipelines.planned import runs

    now = datetime.now(UTC)
    lately = runs(client, None, between=(now - timedelta(days=1), now))
    states = Counter(str(run.state_name) for run in lately)
    waiting = [run for run in lately if run.state_type == StateType.SCHEDULED]
    late = [run for run in waiting if run.state_name == "Late"]
    worries += [f"{run.name} is late: it was due at {_minute(run.expected_start_time)}" for run in late[:5]]
    asked = runs(client, None, StateType.PAUSED)
    worries += [f"{run.name} waits for a person: Resume on its page in Prefect" for run in asked[:5]]
    found = {"runs of the last day": ", ".join(f"{count} {name}" for name, count in states.most_common()) or "none"}
    if waiting:
        found["runs in the queue"] = f"{len(waiting)}, {len(late)} of them late"
    if ended := [run for run in lately if run.state and run.state.is_final()][:1]:
        found["last run"] = f"{ended[0].name}: {ended[0].state_name}, {_minute(ended[0].end_time)}"
    return found


def _missed(home: Home, worries: list[str]) -> dict[str, str]:
    served = read_served(home)
    gone = missed(home, schedules_of(home).schedules, datetime.now(UTC)) if served.until else []
    if not gone:
        return {}
    names = Counter(name for name, _ in gone)
    told = ", ".join(f"{name} {count} times" for name, count in names.items())
    worries.append(f"schedules were missed while nobody served the flows: {told}; see medml schedule list, backfill")
    return {"missed in 30 days": told}


def _stored(home: Home, worries: list[str]) -> dict[str, str]:
    """Say who holds slots, how much lies in batches' queues, and how full the disk is."""
    from medml.store.leases import Leases

    lines = {}
    held = Leases(open_catalogue(home)).held()
    if held:
        lines["slots taken"] = ", ".join(lease.name for lease in held)
    free = shutil.disk_usage(home.root).free / GB
    lines["disk"] = f"{free:.1f} GB free, {_size(home)}"
    if free < LEAST_FREE_GB:
        worries.append(f"{free:.1f} GB are free on the disk of {home.root}; at least {LEAST_FREE_GB:g} are advised")
    return lines


def _size(home: Home) -> str:
    databases = {name: home.root / name for name in ("catalogue.db", "mlflow.db", "prefect/prefect.db")}
    sizes = {name: path.stat().st_size / 1e6 for name, path in databases.items() if path.exists()}
    return ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items()) or "no database yet"


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "unknown"
