"""The voxels of the few scans that need a look most, kept small for the viewer of the batch report.

The worst scans are known at the end only, when their voxels are gone: so each scan is put on the shelf as it is
written, if it is worse than the best of those that lie there, which goes. Several workers share the shelf without a
lock: at worst a scan too many lies on it for a moment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medml.io.files import write_text
from medml.io.nifti_write import nifti_bytes
from medml.pages.viewed import viewer_case
from medml.pages.viewer import ViewerCase, pack_case, unpack_case
from medml.records.batch import Job, Prediction
from medml.records.plan import Plan
from medml.results.masks import SCAN_ID

FOLDER = "viewer"
MODE = 0o600
NAME = re.compile(r"(\d{6})-([0-9A-Za-z_-]{1,64})\.json")
MOST_DOUBTS = 9
Result = Mapping[str, str | int | float | None]


def worry(result: Result) -> float:
    """Return how much a result needs a look: the number of doubts, and between equals the uncertainty (0 to 1)."""
    codes = str(result.get("review_codes") or "").split()
    uncertainty = float(result.get("uncertainty") or 0.0)
    return min(len(codes), MOST_DOUBTS) + min(max(uncertainty, 0.0), 0.9999)


def keep_if_among_worst(out: Path, job: Job, prediction: Prediction, plan: Plan, result: Result, *, most: int) -> bool:
    """Put a scan on the shelf of ``out`` if fewer than ``most`` lie there or one of them needs a look less."""
    if not SCAN_ID.fullmatch(job.scan_id):
        raise ValueError(f"scan id {job.scan_id!r} cannot name a file; expected letters and digits")
    name = f"{round(worry(result) * 10_000):06d}-{job.scan_id}.json"
    others = [path for path in _lying(out) if not path.name.endswith(f"-{job.scan_id}.json")]
    for path in set(_lying(out)) - set(others):
        path.unlink(missing_ok=True)
    if len(others) >= most and name < others[most - 1].name:
        return False
    case = viewed_scan(job, prediction, plan, result)
    write_text(out / FOLDER / name, json.dumps(pack_case(case)), MODE)
    for path in _lying(out)[most:]:
        path.unlink(missing_ok=True)
    return True


def viewed_scan(job: Job, prediction: Prediction, plan: Plan, result: Result) -> ViewerCase:
    """Return a scan and its mask for the viewer, a copy for looking."""
    doubts = str(result.get("review") or "").replace("\n", " ")
    predicted = result.get("predicted")
    words = [f"Predicted: {predicted}." if predicted else "", doubts]
    case = viewer_case(
        job.reading.volume,
        prediction.mask,
        None,
        name=job.source,
        caption=" ".join(word for word in words if word) or "Nothing speaks against this result.",
        labels=plan.labels,
        pack=nifti_bytes,
        modality=plan.modality,
    )
    return replace(case, key=job.scan_id)


def shelved(out: Path) -> list[ViewerCase]:
    """Return the scans on the shelf, those that need a look most first."""
    return [unpack_case(json.loads(path.read_text(encoding="utf-8"))) for path in _lying(out)]


def drop_others(out: Path, scan_ids: set[str]) -> None:
    """Take from the shelf what belongs to none of the scans named."""
    for path in _lying(out):
        if path.name[7:].removesuffix(".json") not in scan_ids:
            path.unlink(missing_ok=True)


def _lying(out: Path) -> list[Path]:
    """Return the files on the shelf, those that need a look most first."""
    folder = out / FOLDER
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.name, reverse=True)
