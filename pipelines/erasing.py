"""Everything in a home that mentions one patient: counted, removed, marked, and looked for again."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from medml.io.mentions import Mentions, files_below, pruned, remove, states, strike
from medml.records.erasure import Erasure
from medml.records.home import Home
from pipelines.stores import open_catalogue, open_crosswalk

# Numbers and weights: nobody is named in them, and they are known by the files beside them.
NUMBERS = {".pt", ".npy", ".npz", ".gz", ".onnx", ".safetensors"}
DATABASES = (".db", ".db-wal", ".db-shm", ".lock")
HELD = re.compile(r"q-[0-9a-f]{16}")
PICTURES = ("images/*", "pictures/*")


class Erasing:
    """What has to go for one patient. Each step may be done twice."""

    def __init__(self, home: Home, erasure: Erasure) -> None:
        self.home = home
        self.erasure = erasure
        self.mentions = Mentions([erasure.patient, *erasure.scan_ids, *erasure.names])
        self._alone = {*erasure.scan_ids, *erasure.names}

    def count(self) -> dict[str, int]:
        """Return how much there is of each kind, and how many bytes of files go."""
        counts: Counter[str] = Counter()
        for kind, path in self._removed():
            counts[kind] += 1
            counts["bytes"] += sum(state.st_size for state in states(path))
        counts["files shortened"] = len(self._shortened())
        counts["rows"] = self._rows()
        counts["datasets marked"] = len(self.erasure.datasets)
        counts["models marked"] = len(self.used.versions) if self.used else 0
        return {kind: count for kind, count in counts.items() if count}

    def do(self, said: str) -> None:
        """Mark, remove files, shorten files, remove rows, in this order.

        Parameters
        ----------
        said : str
            What the marks say.
        """
        from medml.datasets.erasure import datasets_of_patient, erase_cases
        from medml.registry.erasure import mark

        for path in datasets_of_patient(self.home, self._alone, self.erasure.patient):
            erase_cases(path, self._alone, self.erasure.patient)
        if self.used:
            mark(self._tracker(), self.used, said)
        self._clear_reports(said)
        pages = self._batch_pages()
        for folder in pages:  # before the ledger forgets whom they show
            for page in folder.glob("*.html"):
                remove(page)
        for _, path in self._removed():
            remove(path)
            _remove_empty(path.parent, self.home.root)
        for path in self._shortened():
            strike(path, self.mentions)
        for folder in pages:
            _report_again(self.home, folder)
        self._erase_rows()

    @cached_property
    def used(self) -> Any:
        """What used the datasets of the patient; None where nothing is tracked."""
        from medml.io.files import read_record
        from medml.records.dataset import Dataset
        from medml.registry.erasure import used_in

        if not self.erasure.datasets or not (self.home.root / "mlflow.db").exists():
            return None
        paths = [path for digest in self.erasure.datasets for path in self.home.datasets.glob(f"*/{digest}.json")]
        tests = {read_record(path, Dataset).test_digest for path in paths}
        return used_in(self._tracker(), self.erasure.datasets, tests)

    def _removed(self) -> list[tuple[str, Path]]:
        """Return what is removed as a whole: kind and path."""
        home, erasure = self.home, self.erasure
        found = [("scan folders", home.scan_folder(scan_id)) for scan_id in erasure.scan_ids]
        found += [("cached datasets", home.cache / digest) for digest in erasure.datasets]
        found += [("unfinished trainings", folder) for folder in self._trainings()]
        found += [("training pictures", path) for path in self._training_pictures()]
        found += [("source files in the home", Path(source)) for source in erasure.sources if _inside(source, home)]
        found += [("requests", path) for path in self._requests()]
        found += [("quarantine entries", path) for path in self._held()]
        found += [("errors", path) for path in self._searched(home.logs / "errors")]
        found += [("pages", path) for path in self._quality_pages()]
        for folder in self._outputs():
            found += [("results of batches", path) for path in _named(folder, self.mentions)]
        once = {path: kind for kind, path in found}
        return [(kind, path) for path, kind in once.items() if path.exists()]

    def _shortened(self) -> list[Path]:
        """Return files that mention the patient beside others."""
        home = self.home
        apart = {home.scans, home.cache, home.datasets, home.secrets, home.logs / "errors", home.runs}
        removed = [path for _, path in self._removed()]
        found = [
            path
            for place in (home.root, *map(Path, self.erasure.outputs))
            for path in files_below(place)
            if not any(path.is_relative_to(part) for part in (*apart, *removed))
            and not path.name.endswith(DATABASES)
            and self._mentioned(path)
        ]
        return list(dict.fromkeys(found))

    def _tracker(self) -> Any:
        from medml.registry.tracking import Tracker

        return Tracker.of(self.home)

    def _rows(self) -> int:
        from medml.store.erasure import count_rows

        return sum(count_rows(open_catalogue(self.home), self.erasure.scan_ids, self.erasure.patient).values())

    def _erase_rows(self) -> None:
        from medml.store.erasure import compact, erase_rows, erase_sources

        catalogue, crosswalk = open_catalogue(self.home), open_crosswalk(self.home)
        erase_rows(catalogue, self.erasure.scan_ids, self.erasure.patient, self._refused_beside())
        erase_sources(crosswalk, self.erasure.scan_ids, self.erasure.patient)
        for database in (catalogue, crosswalk.database):
            compact(database)

    def _refused_beside(self) -> dict[str, list[str]]:
        """Return by batch the sources that were refused in the folder of a scan of the patient: they have no id."""
        from medml.store.ledger import Ledger

        ledger = Ledger(open_catalogue(self.home))
        found: dict[str, list[str]] = {}
        for batch in ledger.batches():
            rows = [row.model_dump(mode="json") for row in ledger.rows(batch.batch_id)]
            left = {row["source"] for row in pruned(rows, self.mentions.in_text) or ()}
            gone = [row["source"] for row in rows if row["source"] and row["source"] not in left]
            if gone:
                found[batch.batch_id] = gone
        return found

    def _trainings(self) -> Iterator[Path]:
        """Yield folders of trainings on a dataset of the patient, and of others that name them."""
        named = Mentions([*self.mentions.names, *self.erasure.datasets])
        for folder in sorted(path for path in self.home.runs.glob("*") if path.is_dir()):
            if any(named.in_file(path) for path in files_below(folder) if path.suffix in {".json", ".jsonl", ".log"}):
                yield folder

    def _training_pictures(self) -> Iterator[Path]:
        """Yield pictures of the runs that used a dataset of the patient: they do not say whom they show."""
        for folder in (self.used.runs if self.used else {}).values():
            for pattern in PICTURES if folder else ():
                yield from sorted(folder.glob(pattern))

    def _clear_reports(self, said: str) -> None:
        from medml.evaluation.erasure import clear_report, reports_showing

        for root in (self.home.reports, self.home.mlartifacts):
            for folder in list(reports_showing(root, self.mentions)):
                clear_report(folder, self.mentions, said)

    def _requests(self) -> Iterator[Path]:
        """Yield requests whose sources are files of the patient alone, or folders with nobody else's."""
        mine = set(self.erasure.sources)
        others: set[str] | None = None
        for path in sorted(self.home.requests.glob("req-*.json")):
            text = path.read_text(encoding="utf-8")
            asked = json.loads(text).get("sources") or []
            own = [source for source in asked if source in mine or any(_below(file, source) for file in mine)]
            if own and others is None:
                others = self._other_sources()
            alone = [source for source in own if not any(_below(file, source) for file in others or ())]
            if alone or self.mentions.in_text(text):
                yield path

    def _other_sources(self) -> set[str]:
        from medml.store.crosswalk import paths_in

        gone = set(self.erasure.scan_ids)
        return {
            path
            for scan_id, _, locator in open_crosswalk(self.home).locators()
            if scan_id not in gone and not scan_id.startswith("annotation-")
            for path in paths_in(locator)
        }

    def _held(self) -> Iterator[Path]:
        """Yield quarantine entries of files beside the patient's, which reports of ingests name."""
        for report in sorted(self.home.reports.glob("ingest-*.json")):
            text = report.read_text(encoding="utf-8")
            if not self.mentions.in_text(text):
                continue
            value = json.loads(text)
            left = set(HELD.findall(json.dumps(pruned(value, self.mentions.in_text))))
            for name in sorted(set(HELD.findall(text)) - left):
                yield from sorted(self.home.quarantine.glob(f"{name}*.json"))

    def _quality_pages(self) -> Iterator[Path]:
        """Yield quality pages of ingests that brought the patient's scans: their contact sheets may show them."""
        for report in self._searched(self.home.reports, "ingest-*.json"):
            yield report.with_name(report.name.replace("ingest-", "qc-")).with_suffix(".html")

    def _outputs(self) -> list[Path]:
        """Return every folder that a batch wrote to, in the home and where requests say."""
        inside = sorted(path for path in self.home.batches.glob("*") if path.is_dir())
        return [*inside, *map(Path, self.erasure.outputs)]

    def _batch_pages(self) -> list[Path]:
        """Return the folders of batches whose ledger names the patient."""
        return [
            folder
            for folder in self._outputs()
            if (folder / "ledger.json").is_file() and self.mentions.in_file(folder / "ledger.json")
        ]

    def _searched(self, folder: Path, pattern: str = "*") -> list[Path]:
        return [path for path in sorted(folder.glob(pattern)) if path.is_file() and self._mentioned(path)]

    def _mentioned(self, path: Path) -> bool:
        if path.suffix in NUMBERS:
            return self.mentions.in_text(path.name)
        return self.mentions.in_file(path)


def outputs_outside(home: Home) -> list[Path]:
    """Return the folders of results that requests name, those among the home's own batches apart."""
    found = set()
    for path in home.requests.glob("req-*.json"):
        output = json.loads(path.read_text(encoding="utf-8")).get("output")
        if output and (Path(output) / "ledger.json").is_file() and not _inside(output, home, "batches"):
            found.add(Path(output))
    return sorted(found)


def busy(home: Home) -> list[str]:
    """Return what is at work in a home: leases that are held, and ingests that are reading."""
    from medml.io.files import sweep_temporary
    from medml.store.erasure import at_work

    for folder in (home.scans, home.secrets):
        sweep_temporary(folder)  # what killed ingests and batches had read
    reading = ["ingest"] if any(home.scans.glob(".work*.tmp")) else []
    return [*at_work(open_catalogue(home)), *reading]


def traces(home: Home, mentions: Mentions, *, skip: Path) -> list[Path]:
    """Return every file of a home, databases and names of files included, that still mentions a patient."""
    return [
        path.relative_to(home.root)
        for path in files_below(home.root)
        if path != skip and (mentions.in_text(path.as_posix()) if path.suffix in NUMBERS else mentions.in_file(path))
    ]


def _report_again(home: Home, folder: Path) -> None:
    """Write a batch's tables and page anew from its shortened ledger; without rows, or the model, it has no page."""
    from medml.errors import MedmlError
    from medml.io.files import read_record
    from medml.records.batch import BatchMeta, LedgerRow
    from medml.records.plan import Plan
    from medml.registry import models
    from medml.registry.tracking import Tracker
    from medml.results.report import write_batch_report
    from medml.results.tables import write_results

    rows = [LedgerRow.model_validate(row) for row in json.loads((folder / "ledger.json").read_text(encoding="utf-8"))]
    model = next((row.model for row in rows if row.model), "")
    if not model:
        return
    try:
        version = models.resolve(Tracker.of(home), model)
    except MedmlError:
        return  # a model that is gone cannot say what its labels mean; the tables are whole without the page
    plan = read_record(version.package_path / "plan.json", Plan)
    digest = next(row.model_digest for row in rows if row.model)
    named = {"model": version.name, "version": version.version, "digest": digest}
    meta = BatchMeta(**named, task=plan.task, labels=plan.labels)
    write_results(folder, rows, meta)
    write_batch_report(folder, rows, meta)


def _named(folder: Path, mentions: Mentions) -> Iterator[Path]:
    """Yield what lies below a folder under the patient's names, folders included; of a named folder only itself."""
    for path in sorted(folder.iterdir()):
        if mentions.in_text(path.name):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _named(path, mentions)


def _below(file: str, place: str) -> bool:
    return file == place or file.startswith(f"{place.rstrip('/')}/")


def _inside(path: str, home: Home, part: str = "") -> bool:
    return Path(path).is_relative_to(home.root / part)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove folders that are left with nothing in them; they may be named after the patient."""
    while folder != root and folder.is_relative_to(root) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
