"""From scans to arrays and a plan: nnU-Net's plan_and_preprocess and ours, of the same cases, whole processes.

The cases are all of `benchmarks.hippocampus`: nothing is learned from them here. nnU-Net makes its full-resolution
configuration only, with two processes. Ours takes a fingerprint of the training cases of one fold, plans, and makes the
arrays of every case. The start of the interpreter and all imports count on both sides.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.hippocampus import Hippocampus, prepare
from benchmarks.pairs import Pair, whole_process
from benchmarks.peers import nnunet_python

ROUNDS = 3


def run() -> list[Pair]:
    """Skip with a reason where the data or nnU-Net is not there."""
    try:
        data, peer = prepare(), nnunet_python()
    except SystemExit as reason:
        print(f"preparation: skipped, {reason}", file=sys.stderr)
        return []
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            _lay_out(data.raw, Path(folder) / "raw" / data.raw.name)
            times["ours"].append(_ours(data, Path(folder)))
            times["peer"].append(_nnunet(data, peer, Path(folder)))
    own, other = ([statistics.median(column) for column in zip(*times[name], strict=True)] for name in ("ours", "peer"))
    count = len(data.dataset.cases)
    return [
        Pair(
            f"plan and preprocess {count} hippocampi",
            "nnU-Net v2 plan_and_preprocess",
            own[0],
            other[0],
            own[1],
            other[1],
            f"{count} cases each",
        )
    ]


def _lay_out(exported: Path, raw: Path) -> None:
    """Offer all cases of an export to nnU-Net as its training cases."""
    for kind in ("images", "labels"):
        (raw / f"{kind}Tr").mkdir(parents=True)
        for path in [*(exported / f"{kind}Tr").iterdir(), *(exported / f"{kind}Ts").iterdir()]:
            (raw / f"{kind}Tr" / path.name).symlink_to(path)
    described = json.loads((exported / "dataset.json").read_text(encoding="utf-8"))
    described["numTraining"] = len(list((raw / "labelsTr").iterdir()))
    (raw / "dataset.json").write_text(json.dumps(described), encoding="utf-8")


def _ours(data: Hippocampus, folder: Path) -> tuple[float, float]:
    manifest = next((data.home.datasets / "hippocampus").glob("*.json"))
    command = [
        sys.executable,
        "-m",
        "benchmarks.preparation_child",
        str(manifest),
        str(data.home.scans),
        str(folder / "cache"),
    ]
    taken = whole_process(command, dict(os.environ))
    if not any((folder / "cache").rglob("*.npy")):
        raise SystemExit("ours made no arrays, so its time says nothing")
    return taken


def _nnunet(data: Hippocampus, python: Path, folder: Path) -> tuple[float, float]:
    program = python.with_name("nnUNetv2_plan_and_preprocess")
    command = [str(program), "-d", "4", "-c", "3d_fullres", "-npfp", "2", "-np", "2"]
    places = data.nnunet | {f"nnUNet_{kind}": str(folder / kind) for kind in ("raw", "preprocessed")}
    return whole_process(command, {**os.environ, **places})
