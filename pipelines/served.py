"""Until when the flows of a home were served, which schedules an operator has paused, and what was missed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medml.io.files import read_record, write_record
from medml.records.home import Home
from medml.records.record import Record
from pipelines.schedules import ScheduleConfig, fire_times

CATCH_UP = timedelta(minutes=15)  # what became due in a shorter gap is run late; of a longer one it counts as missed
MOST_GAPS = 50


class Gap(Record):
    """A time in which nobody served the flows; UTC, ISO 8601."""

    start: str
    end: str

    @property
    def long(self) -> bool:
        """Whether what became due in it was missed, not caught up."""
        return datetime.fromisoformat(self.end) - datetime.fromisoformat(self.start) > CATCH_UP

    def due(self, schedule: ScheduleConfig) -> list[datetime]:
        """Return when a schedule was due in it."""
        return fire_times(schedule, datetime.fromisoformat(self.start), datetime.fromisoformat(self.end))


class Served(Record):
    """What ``prefect/served.json`` holds.

    Attributes
    ----------
    until : str
        When the flows were last known to be served; empty before the first time.
    schedules : str
        The absolute path of the file of schedules in use.
    gaps : tuple of Gap
        The last ones, oldest first.
    """

    until: str = ""
    schedules: str = ""
    gaps: tuple[Gap, ...] = ()


class Paused(Record):
    """What ``prefect/paused.json`` holds: names of schedules and triggers."""

    names: tuple[str, ...] = ()


def read_served(home: Home) -> Served:
    """Return what is known; an empty record before the first `medml up`."""
    path = _served_file(home)
    return read_record(path, Served) if path.exists() else Served()


def begin_serving(home: Home, schedules: Path, now: datetime) -> Gap | None:
    """Note that the flows are served from now on; return the gap since they last were."""
    before = read_served(home)
    gap = Gap(start=before.until, end=_iso(now)) if before.until and before.until < _iso(now) else None
    gaps = (*before.gaps, gap) if gap and gap.long else before.gaps
    write_record(_served_file(home), Served(until=_iso(now), schedules=str(schedules), gaps=gaps[-MOST_GAPS:]))
    return gap


def note_served(home: Home, now: datetime) -> None:
    """Note that the flows are still served."""
    write_record(_served_file(home), read_served(home).model_copy(update={"until": _iso(now)}))


def missed(
    home: Home, schedules: Iterable[ScheduleConfig], now: datetime, *, days: float = 30
) -> list[tuple[str, str]]:
    """Return name and time (UTC) of what was due while nobody served, the newest first.

    Parameters
    ----------
    now : datetime
        The gap that has not ended counts up to here; give the last sign of life of a server that runs.
    days : float
        How far back to look.
    """
    served = read_served(home)
    open_gap = (Gap(start=served.until, end=_iso(now)),) if served.until and served.until < _iso(now) else ()
    oldest = _iso(now - timedelta(days=days))
    paused = paused_names(home)
    found = [
        (schedule.name, _iso(due))
        for schedule in schedules
        if schedule.enabled and schedule.name not in paused
        for gap in (*served.gaps, *open_gap)
        if gap.long and gap.end > oldest
        for due in gap.due(schedule)
    ]
    return sorted((item for item in found if item[1] > oldest), key=lambda item: item[1], reverse=True)


def paused_names(home: Home) -> frozenset[str]:
    """Return the schedules and triggers that an operator has paused."""
    path = _paused_file(home)
    return frozenset(read_record(path, Paused).names) if path.exists() else frozenset()


def set_paused(home: Home, name: str, paused: bool) -> None:
    """Remember that a schedule or trigger is paused, or no longer; it stays so when `medml up` starts again."""
    names = paused_names(home) | {name} if paused else paused_names(home) - {name}
    home.prefect.mkdir(parents=True, exist_ok=True)
    write_record(_paused_file(home), Paused(names=tuple(sorted(names))))


def _served_file(home: Home) -> Path:
    return home.prefect / "served.json"


def _paused_file(home: Home) -> Path:
    return home.prefect / "paused.json"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
