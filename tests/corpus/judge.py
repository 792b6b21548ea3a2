"""Compares what an ingest left behind with what the standard says the source holds; independent of medml's readers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
from corpus.phantom import Truth
from corpus.planted import leaks, leaks_below
from corpus.source import Expected, Source

EXACT_VOXELS = 0.51
RESAMPLED_MM, RESAMPLED_VOXELS = 0.35, 0.1


@dataclass(frozen=True)
class Kept:
    """One scan as it lies in the home.

    Attributes
    ----------
    voxels : ndarray of shape (I, J, K, C)
    masks : list of ndarray of shape (I, J, K)
    """

    folder: Path
    facts: dict[str, Any]
    voxels: np.ndarray
    affine: np.ndarray
    masks: tuple[np.ndarray, ...]


def judge(source: Source, expected: Expected, home: Path, report: Any, told: str) -> list[str]:
    """Return what is wrong with an ingest; nothing if all is as it must be."""
    kept = [read_kept(folder) for folder in scan_folders(home, report)]
    complaints = list(_accounting(source, expected, report))
    complaints += _outcomes(expected, report, kept)
    complaints += _volumes(expected, kept) if not expected.free else ()
    complaints += [f"secret on stdout, stderr or in the log: {leak}" for leak in leaks(told.encode(), paths=False)]
    complaints += [f"secret in {leak}" for leak in leaks_below(home)]
    complaints += [
        f"{path.name} may be read by others" for path in home.glob("reports/*") if path.stat().st_mode & 0o77
    ]
    if expected.patients is not None and kept:
        found = len({scan.facts["patient"] for scan in kept})
        if found != expected.patients:
            complaints.append(f"{found} patients, expected {expected.patients}")
    if expected.check is not None:
        complaints += expected.check(home, report, kept)
    return complaints


def judge_part(source: Source, expected: Expected, home: Path, report: Any) -> list[str]:
    """Return what is wrong with the part of a larger ingest that lies below one case's folder."""
    named = re.compile(rf"(?<![\w-]){re.escape(source.name)}(?![\w-])")
    mine = [outcome for outcome in report.outcomes if named.search(outcome.source)]
    part = SimpleNamespace(outcomes=mine, beside_others=report.beside_others)
    kept = [read_kept(folder) for folder in scan_folders(home, part)]
    return [*_outcomes(expected, part, kept), *(_volumes(expected, kept) if not expected.free else ())]


def scan_folders(home: Path, report: Any) -> list[Path]:
    """Return the folders of the scans that a report names, once each."""
    ids = dict.fromkeys(scan_id for outcome in report.outcomes for scan_id in outcome.scan_ids)
    return [home / "scans" / scan_id[:2] / scan_id for scan_id in ids]


def read_kept(folder: Path) -> Kept:
    """Read a scan's folder with nibabel alone."""
    image = nibabel.load(folder / "image.nii.gz")
    voxels = np.asarray(image.dataobj)
    voxels = voxels.reshape(*voxels.shape[:3], -1) if voxels.ndim > 3 else voxels.reshape(*voxels.shape, 1)
    others = sorted(path for path in folder.glob("*.nii.gz") if path.name != "image.nii.gz")
    masks = tuple(np.asarray(nibabel.load(path).dataobj) for path in others)
    return Kept(folder, json.loads((folder / "scan.json").read_text()), voxels, image.affine, masks)


def mismatch(truth: Truth, voxels: np.ndarray, affine: np.ndarray, *, exact: float = EXACT_VOXELS) -> str:
    """Return how a volume (I, J, K) differs from a truth; empty if it does not."""
    if truth.flat:
        affine = np.eye(4)
    wrong = misplaced(truth, voxels, affine, exact=exact)
    if not wrong and truth.values is not None and truth.affine is not None and not truth.resampled:
        wrong = _lattice(truth.values, truth.affine, voxels, affine, truth.tolerance)
    return wrong


def misplaced(truth: Truth, voxels: np.ndarray, affine: np.ndarray, *, exact: float = EXACT_VOXELS) -> str:
    """Return which landmark is not where it must be, to ``exact`` voxels; empty if each is."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        return "the affine is singular"
    inverse = np.linalg.inv(affine)
    for value, place in truth.points.items():
        expected = inverse[:3, :3] @ place + inverse[:3, 3]
        if truth.resampled:
            found = _centroid(voxels, expected)
            off = np.linalg.norm(affine[:3, :3] @ (found - expected)) if found is not None else np.inf
            allowed = RESAMPLED_MM + RESAMPLED_VOXELS * spacing.max()
            if off > allowed:
                return (
                    f"landmark {value:g} lies {off:.2f} mm off"
                    if np.isfinite(off)
                    else f"landmark {value:g} was not found"
                )
            continue
        hits = np.argwhere(np.abs(voxels - value) <= max(truth.tolerance, 1e-4 * abs(value)))
        if len(hits) != 1:
            return f"landmark {value:g} was found {len(hits)} times, expected once"
        off = np.abs(hits[0] - expected).max()
        if off > exact:
            return f"landmark {value:g} lies {off:.2f} voxels off"
    return ""


def _centroid(voxels: np.ndarray, near: np.ndarray) -> np.ndarray | None:
    """Return the centre of mass of what stands out around an index, before an even background."""
    middle = np.rint(near).astype(int)
    low, high = np.maximum(middle - 2, 0), np.minimum(middle + 3, voxels.shape)
    if (high <= low).any():
        return None
    box = voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(float)
    weight = np.maximum(box - np.median(box), 0)
    if weight.max() < 300:
        return None
    index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    return np.asarray((index * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum())


def _lattice(values: np.ndarray, affine: np.ndarray, voxels: np.ndarray, found: np.ndarray, tolerance: float) -> str:
    """Compare every voxel: the two lattices must be one, up to order and direction of the axes."""
    between = np.linalg.inv(affine) @ found
    whole = np.rint(between[:3, :3])
    if np.abs(np.abs(whole).sum(axis=0) - 1).max() > 0 or np.abs(np.abs(whole).sum(axis=1) - 1).max() > 0:
        return "the axes are not those of the source"
    index = np.stack(np.meshgrid(*(np.arange(n) for n in voxels.shape), indexing="ij"), axis=-1)
    exact = index @ between[:3, :3].T + between[:3, 3]
    nearest = np.rint(exact).astype(int)
    if np.abs(exact - nearest).max() > EXACT_VOXELS:
        return "voxels lie between those of the source"
    if voxels.size != values.size or nearest.min() < 0 or (nearest.reshape(-1, 3).max(axis=0) >= values.shape).any():
        return f"the shape {voxels.shape} does not cover the source's {values.shape}"
    expected = values[tuple(np.moveaxis(nearest, -1, 0))]
    wrong = np.abs(voxels - expected) > np.maximum(tolerance, 1e-4 * np.abs(expected))
    if wrong.any():
        at = tuple(int(n) for n in np.argwhere(wrong)[0])
        return f"{int(wrong.sum())} of {wrong.size} voxels differ, first {voxels[at]:g}, expected {expected[at]:g}"
    return ""


def _accounting(source: Source, expected: Expected, report: Any) -> Iterator[str]:
    counts = report.counts
    entries = sum(1 for path in source.folder.rglob("*") if path.is_symlink() or not path.is_dir())
    wanted = entries if expected.files is None else expected.files
    if counts.files != wanted:
        yield f"{counts.files} files accounted for, expected {wanted}"
    if counts.files != counts.accepted + counts.refused + counts.ignored:
        yield "files are not accepted + refused + ignored"
    for outcome in report.outcomes:
        if outcome.outcome == "refused" and not outcome.reason:
            yield f"{outcome.code} gives no reason"


def _outcomes(expected: Expected, report: Any, kept: Sequence[Kept]) -> Iterator[str]:
    codes = {kind: Counter(o.code for o in report.outcomes if o.outcome == kind) for kind in ("refused", "ignored")}
    if expected.either and not kept:
        if not codes["refused"] and not codes["ignored"]:
            yield "nothing was accepted and nothing refused"
        return
    least, most = len(expected.scans), len(expected.scans) + len(expected.maybe)
    if not expected.free and not least <= len(kept) <= most:
        refused = ", ".join(sorted(codes["refused"])) or "nothing"
        yield f"{len(kept)} scans, expected {least}{f' to {most}' if most > least else ''} (refused: {refused})"
    for kind, patterns in (("refused", expected.refused), ("ignored", expected.ignored)):
        for pattern in patterns:
            if pattern[0] != "?" and not any(re.fullmatch(pattern, code) for code in codes[kind]):
                yield f"nothing was {kind} as {pattern}; there is {sorted(codes[kind])}"
        for code in codes[kind]:
            free = expected.either or expected.maybe
            if not free and not any(re.fullmatch(pattern.lstrip("?"), code) for pattern in patterns):
                yield f"{kind} as {code}, which was not expected"
    found = {finding.code for outcome in report.outcomes for finding in outcome.findings}
    found |= {finding.code for findings in report.beside_others.values() for finding in findings}
    for pattern in expected.findings:
        if not any(re.fullmatch(pattern, code) for code in found):
            yield f"no finding {pattern}; there is {sorted(found)}"


def _volumes(expected: Expected, kept: Sequence[Kept]) -> Iterator[str]:
    """Match scans and truths one to one, and look at masks and facts."""
    left = [*expected.scans, *expected.maybe]
    for number, scan in enumerate(kept):
        reasons = []
        for truth in left:
            if truth.component < scan.voxels.shape[3]:
                reason = mismatch(truth, scan.voxels[..., truth.component], scan.affine)
            else:
                reason = f"{scan.voxels.shape[3]} components"
            if not reason:
                left.remove(truth)
                yield from _with_truth(number, truth, scan)
                break
            reasons.append(reason)
        else:
            why = "; or ".join(reasons) or "not expected"
            yield f"SILENTLY WRONG: scan {number} of shape {scan.voxels.shape}: {why}"
    for truth in left:
        if any(truth is scan for scan in expected.scans) and len(kept) >= len(expected.scans):
            yield "a scan that must be there is not"


def _with_truth(number: int, truth: Truth, scan: Kept) -> Iterator[str]:
    for name, value in truth.columns.items():
        if scan.facts["columns"].get(name) != value:
            yield f"scan {number}: {name} is {scan.facts['columns'].get(name)!r}, expected {value!r}"
    if scan.facts["affine"] and not np.allclose(scan.facts["affine"], scan.affine, atol=1e-3):
        yield f"scan {number}: scan.json and image.nii.gz have different affines"
    if truth.resampled:
        return
    if truth.mask is None:
        if scan.masks:
            yield f"scan {number}: {len(scan.masks)} masks, expected none"
        return
    if not scan.masks:
        yield f"scan {number}: there is no mask"
        return
    assert truth.affine is not None
    reasons = []
    for mask in scan.masks:
        index = np.argwhere(np.ones(mask.shape, dtype=bool))
        between = np.linalg.inv(truth.affine) @ scan.affine
        nearest = np.rint(index @ between[:3, :3].T + between[:3, 3]).astype(int)
        expected = truth.mask[tuple(nearest.T)].reshape(mask.shape)
        same = 2 * np.sum((mask == expected) & (expected > 0)) / max(1, np.sum(mask > 0) + np.sum(expected > 0))
        if same >= truth.agreement:
            return
        reasons.append(f"{same:.3f}")
    yield f"SILENTLY WRONG: scan {number}: the mask agrees to {', '.join(reasons)}, expected {truth.agreement}"
