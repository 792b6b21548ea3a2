"""Put the scans of a source on the ledger's list, a page at a time; what was done before is left as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medml.errors import ConfigError
from medml.records.batch import LedgerRow
from medml.records.candidate import Candidate
from medml.records.scan import Outcome
from medml.records.selection import SeriesRule
from pipelines.worker import Work, patiently, still_finished

if TYPE_CHECKING:
    from medml.inference.listing import Listing
    from medml.store.ledger import Ledger, Listed


def selection_rule(selection: str | None, model: str) -> SeriesRule | None:
    """Return which series a model is for, as a YAML of ``configs/selection`` says; None without a selection.

    Raises
    ------
    ConfigError
        If there is no such file, or it does not name the model.
    """
    if selection is None:
        return None
    from pipelines.selections import load_selection

    choices = load_selection(selection).models
    rules = {choice.model.partition("@")[0].partition("/")[0]: choice.rule for choice in choices}
    if model not in rules:
        raise ConfigError(f"selection {selection} does not name the model {model}, found {', '.join(sorted(rules))}")
    return rules[model]


class Enlisting:
    """What one run of a batch finds in its sources.

    Attributes
    ----------
    listed : int
        Scans that have a row, those included that were done before and are skipped.
    waiting, ignored : int
        Files that are still being copied; files that are no scans.
    """

    def __init__(
        self, ledger: Ledger, work: Work, listing: Listing, selection: str | None, quiet_seconds: float
    ) -> None:
        self.ledger, self.work, self.listing = ledger, work, listing
        self.selection, self.quiet_seconds = selection, quiet_seconds
        self.listed = self.waiting = self.ignored = 0
        self._keys: set[int] = set()

    def pages(self, sources: list[Path], channels: int) -> Iterator[int]:
        """List everything, and yield the number of each page that is on the list and can be worked on."""
        from medml.inference.listing import PAGE

        found = self._found(sources, channels)
        page = 0
        while items := list(islice(found, PAGE)):
            self._enlist(page, items)
            yield page
            page += 1

    def _found(self, sources: list[Path], channels: int) -> Iterator[tuple[int, Candidate | Outcome]]:
        """Yield what is to have a row, with the number of its source; count the rest."""
        from medml.catalogue.config import IngestConfig
        from medml.catalogue.walk import find_scans
        from medml.inference.selection import NOT_SELECTED, select
        from medml.inference.settling import WAITING, settled

        rule = selection_rule(self.selection, self.work.meta.model)
        for number, source in enumerate(sources):
            found: Iterable[Candidate | Outcome] = find_scans(source, IngestConfig())
            found = settled(source, found, self.quiet_seconds)
            if channels > 1:
                from medml.inference.channels import join_channels  # it loads torch

                found = join_channels(found, channels)
            for item in select(found, rule) if rule else found:
                if isinstance(item, Candidate) or item.outcome == "refused" or item.code == NOT_SELECTED:
                    yield number, item
                elif item.code == WAITING:
                    self.waiting += item.files
                else:
                    self.ignored += item.files

    def _enlist(self, page: int, items: list[tuple[int, Candidate | Outcome]]) -> None:
        from medml.inference.listing import PAGE
        from medml.store.ledger import Listed

        stamps = [item.stamp for _, item in items if isinstance(item, Candidate)]
        earlier = still_finished(self.ledger.finished(self.work.batch_id, stamps=stamps), self.work)
        self.listed += len(items)
        listed: list[Listed] = []
        for place, (source, item) in enumerate(items):
            row = self._row(item, earlier)
            key = self._key(source, item.source)
            if row is not None:
                listed.append(Listed(key=key, number=page * PAGE + place, row=row))
        self.listing.write(page, [item if isinstance(item, Candidate) else None for _, item in items])
        patiently(lambda: self.ledger.enlist(self.work.batch_id, listed, lease=self.work.run))

    def _row(self, item: Candidate | Outcome, earlier: dict[str, LedgerRow]) -> LedgerRow | None:
        """Return the row of an item as it is listed; None if it has one that says what it should."""
        if isinstance(item, Outcome):
            from medml.store.database import utc_now

            status = "refused" if item.outcome == "refused" else "not_selected"
            return self._blank(item.source, "").model_copy(
                update={"status": status, "code": item.code, "reason": item.reason, "finished": utc_now()}
            )
        if item.stamp not in earlier:
            return self._blank(item.source, item.stamp)
        found = earlier[item.stamp]
        return None if found.source == item.source else found.model_copy(update={"source": item.source})

    def _blank(self, source: str, stamp: str) -> LedgerRow:
        meta = self.work.meta
        return LedgerRow(
            source=source,
            scan_id="",
            status="queued",
            stamp=stamp,
            model=f"{meta.model}/{meta.version}",
            model_digest=meta.digest,
            options=self.work.options.model_dump_json(),
        )

    def _key(self, source: int, name: str) -> str:
        """Return a key that nothing else in this batch has, and that the same walk gives again."""
        base = name if source == 0 else f"{source}:{name}"
        key, again = base, 1
        while hash(key) in self._keys:
            again += 1
            key = f"{base} ({again})"
        self._keys.add(hash(key))
        return key
