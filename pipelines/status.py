"""What is where, and whether the digests still hold; read-only looks that need no flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medml.records.home import Home
from medml.records.scan import Scan
from pipelines.stores import open_catalogue
from pipelines.verb import VerbResult


def status(home: Home) -> VerbResult:
    """Count scans by collection, name datasets and models, and say whether everything that should run does."""
    from medml.store.catalogue import Catalogue
    from medml.store.ledger import Ledger
    from pipelines.health import health

    database = open_catalogue(home)
    catalogue = Catalogue(database)
    collections = {c.name: catalogue.scans(collection=c.name) for c in catalogue.collections()}
    batches = Ledger(database).batches()
    datasets = sorted(home.datasets.glob("*/*.json"))
    summary: dict[str, str] = {
        f"collection {name}": f"{len(scans)} scans{_findings(scans)}" for name, scans in collections.items()
    }
    summary |= {f"dataset {path.parent.name}": path.stem[:12] for path in datasets}
    summary |= {f"model {name}": aliases for name, aliases in _models(home).items()}
    lines, worries = health(home)
    return VerbResult(
        verb="status",
        ok=True,
        counts={"scans": sum(map(len, collections.values())), "datasets": len(datasets), "batches": len(batches)},
        outputs=_places(home),
        summary=summary | lines,
        notes=worries,
    )


def verify(home: Home) -> VerbResult:
    """Recompute the digest of every scan, mask, dataset and model package and name what differs."""
    from medml.datasets.freeze import verify_datasets
    from medml.io.scans import verify_scan
    from medml.registry import models
    from medml.registry.tracking import Tracker
    from medml.store.catalogue import Catalogue

    catalogue = Catalogue(open_catalogue(home))
    scans = catalogue.scans()
    wrong = []
    for start in range(0, len(scans), 500):
        part = scans[start : start + 500]
        annotations = catalogue.annotations([scan.scan_id for scan in part])
        for scan in part:
            mine = [annotation for annotation in annotations if annotation.scan_id == scan.scan_id]
            wrong += verify_scan(home.scans, scan, mine)
    wrong += verify_datasets(home)
    versions = models.all_versions(Tracker.of(home)) if (home.root / "mlflow.db").exists() else []
    wrong += models.verify(versions)
    datasets = len(list(home.datasets.glob("*/*.json")))
    return VerbResult(
        verb="verify",
        ok=not wrong,
        counts={"scans": len(scans), "datasets": datasets, "models": len(versions), "wrong": len(wrong)},
        summary=_quality(scans),
        notes=tuple(wrong),
    )


def _quality(scans: Sequence[Scan]) -> dict[str, Any]:
    """Count all findings, with those that only show beside other scans, and the pictures that patients share."""
    from medml.catalogue.quality_collection import collection_findings, same_pictures

    pictures = same_pictures(scans)
    beside = collection_findings(scans, pictures)
    codes = Counter(item.code for scan in scans for item in (*scan.findings, *beside.get(scan.scan_id, ())))
    serious = {
        item.code
        for scan in scans
        for item in (*scan.findings, *beside.get(scan.scan_id, ()))
        if item.severity != "info"
    }
    told = {f"finding {code}": f"{number} scans" for code, number in codes.most_common() if code in serious}
    shared = {"pictures shared by patients": str(len(pictures))} if pictures else {}
    return {**told, **shared, "findings": dict(sorted(codes.items()))}


def _findings(scans: Sequence[Scan]) -> str:
    """Count the serious findings stored with scans, the commonest first."""
    codes = Counter(item.code for scan in scans for item in scan.findings if item.severity != "info")
    told = ", ".join(f"{code} {number}" for code, number in codes.most_common(4))
    return f"; findings: {told}{', …' if len(codes) > 4 else ''}" if codes else ""


def _models(home: Home) -> dict[str, str]:
    if not (home.root / "mlflow.db").exists():
        return {}
    from medml.registry import models
    from medml.registry.tracking import Tracker

    shown: dict[str, list[str]] = {}
    for version in models.all_versions(Tracker.of(home)):
        alias = f" @{version.alias}" if version.alias else ""
        shown.setdefault(version.name, []).append(f"version {version.version}{alias}")
    return {name: ", ".join(versions) for name, versions in shown.items()}


def _places(home: Home) -> dict[str, str]:
    places: dict[str, Path] = {"home": home.root, "reports": home.reports, "batches": home.batches}
    return {name: str(path) for name, path in places.items() if path.exists()}
