"""DICOM in: ours, dcm2niix, SimpleITK, dicom2nifti and MONAI in turn on the same series, every voxel compared."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.ct_series import SLICES, build_series
from benchmarks.peers import CACHE, Peers, find_peers

ROOT = Path(__file__).resolve().parent.parent
CHILD = Path(__file__).with_name("ingest_child.py")
ROUNDS = 5
# Two processes that take this much longer together than one alone do not have a core each.
TWO_CORES = 1.3
VOXELS = SLICES * 512 * 512


@dataclass(frozen=True, slots=True)
class Tool:
    """One way to convert; ``options`` go to the child."""

    name: str
    kind: str
    python: Path
    options: tuple[str, ...] = ()
    suffix: str = ".nii"


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the rounds, inside the process; what it took to start stands apart."""

    cpu: float
    wall: float
    start: float
    rss: float
    megabytes: float


class Targets:
    """Lines of the acceptance, each with what was found."""

    def __init__(self) -> None:
        self.failed = 0

    def check(self, what: str, found: float, limit: float, *, least: bool = False, judged: str = "") -> None:
        good = found >= limit if least else found <= limit
        sign = "at least" if least else "at most"
        verdict = judged or ("pass" if good else "FAIL")
        self.failed += verdict == "FAIL"
        print(f"| {what} | {sign} {limit:g} | {found:.2f} | {verdict} |", flush=True)


def main() -> int:
    """Run everything, print the costs and then the targets; the number of targets that were missed."""
    peers = find_peers()
    for line in peers.missing:
        print(f"not compared: {line}")
    cores = _free_cores()
    print(
        f"two processes take {cores:.2f} x the time of one: {'two cores' if cores < TWO_CORES else 'cores are busy'}\n"
    )
    python = Path(sys.executable)
    ours = Tool("medml", "ours", python)
    first = [_niix(peers, place, "-z", "n") for place in peers.dcm2niix]
    toolboxes = [Tool("SimpleITK", "simpleitk", peers.python)] if peers.python else []
    slow = [Tool("MONAI", "monai", python)]
    slow += [Tool("dicom2nifti", "dicom2nifti", peers.python)] if peers.python else []
    packed = [Tool("medml", "ours", python, suffix=".nii.gz")]
    packed += [_niix(peers, place, "-z", *flags) for place in peers.dcm2niix for flags in (("o", "-1"), ("i", "-6"))]
    print("| input | tool | CPU s | wall s | start, CPU s | peak MB | file MB | against medml |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    costs = {
        "raw": _measure("raw", [ours, *first, *toolboxes], ROUNDS),
        "slow": _measure("raw", [ours, *slow], 3),
        "gz": _measure("raw", packed, ROUNDS),
        "jls": _measure("jls", [ours, *first, *toolboxes], ROUNDS),
        "j2k": _measure("j2k", [ours, *first, *toolboxes], 3),
        "ingest": _measure("raw", [Tool("medml ingest", "ours_ingest", python, suffix=".home"), *packed[2:3]], ROUNDS),
        "files": _measure("raw", [Tool("medml deidentify", "ours_deidentify", python, suffix=".dicom")], ROUNDS),
    }
    print("\n| target | limit | found | |\n| --- | --- | --- | --- |")
    targets = Targets()
    judge(costs, targets, cores)
    _reference(peers, ours)
    return targets.failed


def judge(costs: dict[str, dict[str, Cost]], targets: Targets, cores: float) -> None:
    """Compare the costs with the acceptance of conversion, ingest and de-identification."""
    raw, slow, gz = costs["raw"], costs["slow"], costs["gz"]
    for name, cost in raw.items():
        if name.startswith("dcm2niix"):
            targets.check(f".nii: CPU against {name}", raw["medml"].cpu / cost.cpu, 1.6)
    for name, limit in (("dicom2nifti", 0.25), ("MONAI", 0.1)):
        if name in slow:
            targets.check(f".nii: CPU against {name}", slow["medml"].cpu / slow[name].cpu, limit)
    for kind, words in (("jls", "JPEG-LS"), ("j2k", "JPEG 2000")):
        peers = {name: cost for name, cost in costs[kind].items() if name != "medml"}
        if peers:
            mine, best = costs[kind]["medml"], min(peers, key=lambda name: peers[name].cpu)
            targets.check(f"{words}: CPU against {best}", mine.cpu / peers[best].cpu, 1.1)
            judged = "" if cores < TWO_CORES else "not judged: cores are busy"
            wall = min(cost.wall for cost in peers.values())
            targets.check(f"{words}: wall against the faster", mine.wall / wall, 0.7, judged=judged)
    for name, cost in gz.items():
        if name.endswith("-z o -1"):
            targets.check(f".nii.gz: wall against {name}", gz["medml"].wall / cost.wall, 0.8)
            targets.check(f".nii.gz: CPU against {name}", gz["medml"].cpu / cost.cpu, 0.5)
        elif name.endswith("-z i -6"):
            targets.check(f".nii.gz: CPU against {name}", gz["medml"].cpu / cost.cpu, 0.15)
            targets.check(f".nii.gz: size against {name}", gz["medml"].megabytes / cost.megabytes, 1.1)
    if "medml ingest" in costs["ingest"]:
        mine = costs["ingest"]["medml ingest"]
        for name, cost in costs["ingest"].items():
            if name.startswith("dcm2niix"):
                targets.check(f"whole ingest: wall against {name}", mine.wall / cost.wall, 0.35)
        targets.check("whole ingest: peak MB", mine.rss, 600 + 6 * VOXELS * 4 / 1e6)
    if "medml deidentify" in costs["files"]:
        rate = SLICES / costs["files"]["medml deidentify"].cpu
        targets.check("de-identification: files per CPU second", rate, 500, least=True)


def _niix(peers: Peers, place: str, *flags: str) -> Tool:
    suffix = ".nii" if "n" in flags else ".nii.gz"
    options = (str(peers.dcm2niix[place]), *flags)
    return Tool(f"dcm2niix ({place}) {' '.join(flags)}", "dcm2niix", Path(sys.executable), options, suffix)


def _measure(kind: str, tools: list[Tool], rounds: int) -> dict[str, Cost]:
    """Run the tools in turn; one round does not count. Outputs of that round are compared with ours."""
    source = build_series(CACHE / "data", kind)
    found: dict[str, list[Cost]] = {tool.name: [] for tool in tools}
    reference: Path | None = None
    alike: dict[str, str] = {}
    for n in range(rounds + 1):
        for tool in tools:
            if tool.name not in found:
                continue
            folder = CACHE / "out" / f"{tool.kind}-{len(alike)}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            cost = _run(tool, source, folder / f"o{tool.suffix}")
            if isinstance(cost, str):
                print(f"| {kind} | {tool.name} | {cost} | | | | | |")
                del found[tool.name]
                continue
            if n == 0:
                image = _image(folder)
                reference = reference or (
                    image.rename(CACHE / "out" / f"reference{''.join(image.suffixes)}") if image else None
                )
                kept = image if image and image.exists() else reference
                alike[tool.name] = _alike(kept, reference) if kept and reference else "no image"
            else:
                found[tool.name].append(cost)
            shutil.rmtree(folder, ignore_errors=True)
    medians = {name: _median(costs) for name, costs in found.items()}
    for name, cost in medians.items():
        print(
            f"| {kind} | {name} | {cost.cpu:.2f} | {cost.wall:.2f} | {cost.start:.2f} | {cost.rss:.0f} "
            f"| {cost.megabytes:.1f} | {alike[name]} |",
            flush=True,
        )
    return medians


def _run(tool: Tool, source: Path, out: Path) -> Cost | str:
    """Return what one conversion cost, or why it failed."""
    command = [str(tool.python), str(CHILD), tool.kind, str(source), str(out), *tool.options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=CACHE)
    lines = [line for line in done.stdout.splitlines() if line.startswith("@@")]
    if not lines:
        return f"failed: {(done.stderr.strip().splitlines() or ['no output'])[-1][:80]}"
    values = json.loads(lines[-1][2:])
    files = [path for path in out.parent.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files if ".nii" in path.name) / 1e6
    return Cost(megabytes=megabytes, **values)


def _median(costs: list[Cost]) -> Cost:
    names = ("cpu", "wall", "start", "rss", "megabytes")
    return Cost(**{name: statistics.median(getattr(cost, name) for cost in costs) for name in names})


def _image(folder: Path) -> Path | None:
    return next((path for path in sorted(folder.rglob("*")) if path.is_file() and ".nii" in path.name), None)


def _alike(path: Path, reference: Path) -> str:
    """Compare two images in the orientation closest to RAS+, every voxel and the affine."""
    one, other = (nibabel.as_closest_canonical(nibabel.load(name)) for name in (path, reference))
    if one.shape != other.shape or not np.allclose(one.affine, other.affine, atol=1e-3):
        return "OTHER GRID"
    wrong = sum(
        int(np.count_nonzero(np.asarray(one.dataobj[..., k]) != np.asarray(other.dataobj[..., k])))
        for k in range(one.shape[2])
    )
    return "same voxels, same affine" if not wrong else f"{wrong} VOXELS DIFFER"


def _free_cores() -> float:
    """Return how much longer two busy processes take together than one alone; 1 on two free cores, 2 on one."""
    spin = [sys.executable, "-c", "sum(i * i for i in range(12_000_000))"]

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        for process in [subprocess.Popen(spin) for _ in range(count)]:
            process.wait()
        return time.perf_counter() - begin

    return statistics.median(seconds(2) / seconds(1) for _ in range(3))


def _reference(peers: Peers, ours: Tool) -> None:
    """Convert whole folders of real scanners' files, where they are: times, and how many images agree."""
    data = Path(os.environ.get("MEDML_DATA", ROOT.parent / "shared" / "data")) / "dicom_reference"
    if not data.is_dir() or not peers.dcm2niix:
        print(f"\nnot compared: {data.name} is not there (MEDML_DATA), or dcm2niix is missing")
        return
    print("\n| folder | tool | CPU s | wall s | images | of them the same as one of dcm2niix |")
    print("| --- | --- | --- | --- | --- | --- |")
    place = next(iter(peers.dcm2niix))
    theirs = Tool(
        f"dcm2niix ({place})", "dcm2niix", ours.python, (str(peers.dcm2niix[place]), "-z", "n", "-f", "%s_%d_%p")
    )
    for folder in sorted(path for path in data.iterdir() if (path / "In").is_dir()):
        images = {}
        for tool in (theirs, Tool("medml", "ours_folder", ours.python)):
            out = CACHE / "out" / tool.kind
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            cost = _run(tool, folder / "In", out / "images" if tool.kind == "ours_folder" else out / "o.nii")
            images[tool.kind] = sorted(out.rglob("*.nii"))
            if isinstance(cost, str):
                print(f"| {folder.name} | {tool.name} | {cost} | | | |")
                continue
            same = sum(any(_equal(path, other) for other in images["dcm2niix"]) for path in images[tool.kind])
            count = len(images[tool.kind])
            print(f"| {folder.name} | {tool.name} | {cost.cpu:.2f} | {cost.wall:.2f} | {count} | {same} |")


def _equal(path: Path, other: Path) -> bool:
    one, two = (nibabel.as_closest_canonical(nibabel.load(name)) for name in (path, other))
    if one.shape != two.shape or not np.allclose(one.affine, two.affine, atol=1e-2):
        return False
    return bool(np.allclose(np.asarray(one.dataobj, float), np.asarray(two.dataobj, float), rtol=1e-5, atol=1e-3))


if __name__ == "__main__":
    sys.exit(min(1, main()))
