"""``medml pacs listen``: take images until told to stop, and hand whole series to the inbox."""

from __future__ import annotations

import logging
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING

from medml.records.home import Home
from pipelines.archives import load_listener, load_pacs, open_archive, open_landing
from pipelines.slots import batch_lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from medml.io.pacs.listener import Receiver
    from medml.io.pacs.listener_config import ListenerConfig

LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


def listen(home: Home, name: str, stop: Event | None = None) -> None:
    """Listen as ``configs/listeners/NAME.yaml`` says; see `medml.io.pacs.listener`.

    Parameters
    ----------
    stop : Event, optional
        Ends it; default: SIGTERM or Ctrl-C do.
    """
    from medml.io.pacs.listener import Receiver, receiving

    config = load_listener(name)
    landing, _ = open_landing(home, f"received-{name}")
    receiver = Receiver(config, landing, _counter(home, config))
    waiting = len(list(landing.incomplete()))
    with batch_lease(f"listen-{name}"), receiving(config, receiver):
        print(
            f"listening as {config.aet} on {config.host}:{config.port} for {', '.join(config.callers)}; "
            f"{waiting} series incomplete; whole ones go to {landing.folder}",
            file=sys.stderr,
            flush=True,
        )
        _hand_over(receiver, stop or _told_to_stop())


def _hand_over(receiver: Receiver, stop: Event) -> None:
    while not stop.wait(LOOK_SECONDS):
        for place in receiver.hand_over():
            print(f"received {place.name}: {len(place.files())} images", file=sys.stderr, flush=True)


def _counter(home: Home, config: ListenerConfig) -> Callable[[str, str], int | None] | None:
    """Return what asks the PACS how many images a series has; None where no PACS is configured."""
    if not config.pacs:
        return None
    from medml.io.pacs.archive import Query

    archive = open_archive(home, load_pacs(config.pacs))

    def count(study_uid: str, series_uid: str) -> int | None:
        found = archive.find(Query(study_uid=study_uid))
        return next((series.instances for series in found if series.series_uid == series_uid), None)

    return count


def _told_to_stop() -> Event:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
