"""Series from a PACS to the inbox: what is there is left alone, what was begun goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from medml.io.pacs.archive import Archive, PacsError, RemoteSeries
from medml.io.pacs.journal import Journal
from medml.io.pacs.landing import Landing, Place
from medml.io.pacs.web import uid_of

# What lies beside images in a study: no image comes of it, and our own results are among it.
NO_IMAGES = frozenset({"SEG", "SR", "PR", "KO", "DOC", "RTSTRUCT", "RTPLAN", "RTRECORD", "REG", "FID", "RWV", "M3D"})


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of one series.

    Attributes
    ----------
    series : str
        Its private name.
    status : "pulled", "known", "growing" or "failed"
        Growing: the PACS itself was still receiving it; the next pull goes on.
    images : int
        How many were fetched.
    reason : str
        Why it failed; names nobody.
    """

    series: str
    status: Literal["pulled", "known", "growing", "failed"]
    images: int = 0
    reason: str = ""


def pull(
    archive: Archive,
    found: Iterable[RemoteSeries],
    landing: Landing,
    journal: Journal,
    on_series: Callable[[Pulled], object] | None = None,
) -> list[Pulled]:
    """Fetch every series that is not there yet; one that fails is left for the next time.

    Parameters
    ----------
    found : iterable
        What a search gave.
    journal : Journal
        Which series were handed over, and with how many images: what was deleted since is not fetched again.
    on_series : callable, optional
        Told of each, as it ends.
    """
    ended = []
    for series in found:
        if series.modality in NO_IMAGES:
            continue
        place = landing.place(series.study_uid, series.series_uid)
        try:
            outcome = _pull_one(archive, series, place, journal)
        except PacsError as error:
            outcome = Pulled(place.name, "failed", reason=str(error))
        ended.append(outcome)
        if on_series is not None:
            on_series(outcome)
    return ended


def _pull_one(archive: Archive, series: RemoteSeries, place: Place, journal: Journal) -> Pulled:
    before = int(journal.read().get(place.name, "0"))
    begun = place.part.exists()
    if series.instances is not None and series.instances <= before and not begun:
        return Pulled(place.name, "known")
    wanted = archive.instances(series)
    if len(wanted) <= before and not begun:
        return Pulled(place.name, "known")
    there = {uid_of(path) for path in place.whole.glob("*.dcm")} if place.whole.exists() else set()
    place.part.mkdir(mode=0o700, parents=True, exist_ok=True)
    count = archive.fetch(series, place.part, there)
    if archive.instances(series) != wanted:
        return Pulled(place.name, "growing", count)
    for path in [path for path in place.part.glob("*.dcm") if uid_of(path) in there]:
        path.unlink()  # handed over already, by a pull that was killed
    place.hand_over()
    journal.add(place.name, str(len(wanted)))
    return Pulled(place.name, "pulled", count)
