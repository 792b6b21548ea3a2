"""Inference beside MONAI and nnU-Net v2: one volume by windows, batches from files to written masks, memory.

Every side has the same network, weights, windows and threads, and no mirrored views. Sides live in processes of their
own that take turns; weights are loaded before the clock starts. ``python -m benchmarks inference``, or
``python -m benchmarks.inference windows hippocampus ct memory`` for single parts; figures of the others are kept in
``benchmarks/results/inference.json``. On a GPU it also says scans per hour, and how long the network waited.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.hippocampus import RESULTS, ROOT
from benchmarks.inference_inputs import CHILD, WORK, Input, ct_series, hippocampi
from benchmarks.peers import find_peers, nnunet_python
from benchmarks.time_to_dice import THREADS, about
from medml.io.nifti_write import save_nifti
from medml.metrics.overlap import dice
from medml.networks.build import build_network
from medml.networks.package import write_package
from medml.networks.precision import choose_device, choose_precision
from medml.records.calibration import Calibration
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume

RESULT = RESULTS / "inference.json"
VOLUME, WINDOW = (160, 160, 128), (96, 96, 96)
TARGETS = {"best fp32": 0.5, "default": 0.33, "nnU-Net": 0.5, "MONAI loop": 0.67}
AGREEMENT, DICE, GROWTH_MB = 0.999, 0.995, 50.0
SCANS = 1000
TEACHING = 60  # steps
Took = dict[str, float]


def main(parts: Sequence[str] = (), rounds: int = 3) -> int:
    """Run the parts that are asked for, or all; 0 if every target that could be judged is met."""
    parts = parts or tuple(PARTS)
    torch.set_num_threads(2)
    record: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for part in parts:
        note = {name: value for name, value in about(0, os.getloadavg()[0]).items() if name != "minutes"}
        record[part] = {"about": note, **PARTS[part](rounds)}
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({part: record[part]}, indent=1), flush=True)
    missed = [miss for part in parts for miss in record[part]["missed"]]
    print(f"missed: {', '.join(missed)}" if missed else "every target that could be judged is met")
    return int(bool(missed))


def windows(rounds: int) -> dict[str, Any]:
    """MONAI's UNet of 16 to 256 channels on one volume: ours and each setting of MONAI."""
    torch.manual_seed(0)
    plan = _unet_plan(WINDOW, (16, 32, 64, 128, 256), Normalisation(kind="zscore"))
    image, labels = _blobs(VOLUME)
    network = build_network(plan)
    _teach(network, image, labels)
    folder = WORK / "unet"
    job: dict[str, Any] = {"package": str(_packed(folder / "package", network, plan)), "warm": True}
    job["source"] = str(folder / "image.npy")
    np.save(job["source"], image.numpy())
    settings = {"default": (1, "constant"), **{f"fp32, {batch} at a time": (batch, "gaussian") for batch in (1, 2, 4)}}
    with ExitStack() as stack:
        sides = {}
        for number, name in enumerate(("ours", *settings)):
            own = job | {"labels": str(folder / f"{number}.npy"), "out": str(folder / str(number))}
            Path(own["labels"]).unlink(missing_ok=True)
            if name in settings:
                own["windows"], own["mode"] = settings[name]
            part = "monai_windows" if name in settings else "windows"
            sides[name] = stack.enter_context(_side([*_child(part), str(_job(f"windows-{number}", own))]))
        took = _in_turn(sides, rounds)
    best = min((name for name in took if name.startswith("fp32")), key=lambda name: _median(took[name], "cpu_seconds"))
    same = float((np.load(folder / "0.npy") == np.load(folder / f"{len(settings)}.npy")).mean())
    ratios = {"best fp32": _ratios(took, best), "default": _ratios(took, "default")}
    missed = [f"windows: {name}" for name in ratios if ratios[name]["cpu"] > TARGETS[name]]
    missed += ["windows: agreement"] if same < AGREEMENT else []
    return {
        "precision": choose_precision(choose_device("auto"), plan.precision),
        "took": took,
        "best": best,
        "ratios": ratios,
        "agreement": round(same, 5),
        "missed": missed,
    }


def _blobs(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a noisy image (1, I, J, K) of smooth bodies, and where they are (I, J, K)."""
    draw = np.random.default_rng(0)
    bodies = gaussian_filter(draw.normal(size=shape), 8) > 0.01
    image = bodies + 0.5 * draw.normal(size=shape)
    return torch.from_numpy(image[None].astype(np.float32)), torch.from_numpy(bodies.astype(np.int64))


def _teach(network: torch.nn.Module, image: torch.Tensor, labels: torch.Tensor) -> None:
    """Learn for a few seconds: of random weights every rounding would turn labels."""
    optimiser, draw = torch.optim.AdamW(network.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(TEACHING):
        place = tuple(slice(start, start + 64) for start in (int(draw.integers(0, n - 63)) for n in labels.shape))
        optimiser.zero_grad()
        scores = network(image[(slice(None), *place)][None])
        torch.nn.functional.cross_entropy(scores, labels[place][None]).backward()
        optimiser.step()
    network.eval()


def hippocampus(rounds: int) -> dict[str, Any]:
    """A folder of small MR volumes as NIfTI."""
    return _batch(hippocampi(), rounds)


def ct(rounds: int) -> dict[str, Any]:
    """Folders of DICOM slices; nnU-Net gets what dcm2niix makes of them, whose time counts."""
    return _batch(ct_series(), rounds)


def memory(_: int) -> dict[str, Any]:
    """A thousand small scans in one process."""
    source = WORK / "small"
    if len(list(source.glob("*.nii.gz"))) != SCANS:
        source.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(0)
        for number in range(SCANS):
            shape = tuple(int(side) for side in draw.integers(32, 48, 3))
            voxels = draw.normal(100, 20, (1, *shape)).astype(np.int16)
            save_nifti(source / f"small-{number:04d}.nii.gz", Volume(voxels, np.eye(4)))
    plan = _unet_plan((32, 32, 32), (8, 16, 32), Normalisation(kind="zscore"))
    package = _packed(WORK / "small-unet", build_network(plan), plan)
    job = {"package": str(package), "source": str(source), "out": str(WORK / "small-masks")}
    shutil.rmtree(job["out"], ignore_errors=True)
    done = subprocess.run(
        [*_child("memory"), str(_job("memory", job))], cwd=ROOT, env=_environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    grown = found["mb_at_the_end"] - found["mb_after_100"]
    missed = ["memory: growth"] if grown >= GROWTH_MB else []
    missed += ["memory: open files"] if found["files_at_the_end"] > found["files_after_100"] else []
    return {**found, "grown_mb": round(grown, 1), "missed": missed}


def _batch(given: Input | str, rounds: int) -> dict[str, Any]:
    """Folder of scans to folder of masks; a text says why it is not there."""
    if isinstance(given, str):
        return {"skipped": given, "missed": []}
    folder = WORK / "masks" / given.package.parent.name
    job: dict[str, Any] = {"source": str(given.source), "package": str(given.package), "nnunet": str(given.nnunet)}
    job |= {"dicom": given.dicom, "windows": 4}
    if given.dicom:
        job["dcm2niix"] = str(next(iter(find_peers().dcm2niix.values())))
    commands = {
        "ours": _child("ours"),
        "nnU-Net": [str(nnunet_python()), str(CHILD), "answer"],
        "MONAI loop": _child("monai"),
    }
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(_side([*command, str(_job(name, job | {"out": str(folder / name)}))]))
            for name, command in commands.items()
        }
        took = _in_turn(sides, rounds, uncounted=0)
    ratios = {name: _ratios(took, name) for name in commands if name != "ours"}
    overlap = {name: _overlap(folder / "ours", folder / name) for name in ratios}
    missed = [name for name in ratios if ratios[name]["cpu"] > TARGETS[name] or ratios[name]["wall"] > TARGETS[name]]
    missed += [f"Dice with {name}" for name in overlap if overlap[name]["mean"] < DICE]
    scans = len(list(given.source.iterdir()))
    found = {"name": given.name, "scans": scans, "took": took, "ratios": ratios, "dice": overlap, "missed": missed}
    if torch.cuda.is_available():
        found["scans_per_hour"] = round(3600 * scans / _median(took["ours"], "seconds"))
        found["gpu_idle_share"] = round(_median(took["ours"], "idle_share"), 3)
    return found


def _overlap(ours: Path, theirs: Path) -> dict[str, float]:
    """Return Dice of every label of every scan between two folders of masks: mean and lowest."""
    found = []
    for path in sorted((ours / "masks").glob("*.nii.gz")):
        other = next(theirs.glob(f"{path.name.removesuffix('.nii.gz')}*.nii.gz"))
        one, two = (nibabel.as_closest_canonical(nibabel.load(name)) for name in (path, other))
        if one.shape != two.shape or not np.allclose(one.affine, two.affine, atol=1e-2):
            raise SystemExit(f"{path.name} and {other.name} lie on different grids")
        mine, other_one = (np.asarray(image.dataobj).squeeze() for image in (one, two))
        found += [dice(mine == label, other_one == label) for label in np.unique(other_one) if label]
    return {"mean": round(float(np.nanmean(found)), 5), "lowest": round(float(np.nanmin(found)), 5), "of": len(found)}


def _in_turn(sides: dict[str, Callable[[], Took]], rounds: int, *, uncounted: int = 1) -> dict[str, list[Took]]:
    """Ask the sides one after the other, round by round; the first ones do not count."""
    took: dict[str, list[Took]] = {name: [] for name in sides}
    for number in range(rounds + uncounted):
        for name, ask in sides.items():
            found = {key: round(value, 3) for key, value in ask().items()}
            print(number, name, found, file=sys.stderr, flush=True)
            if number >= uncounted:
                took[name].append(found)
    return took


def _ratios(took: dict[str, list[Took]], peer: str) -> dict[str, float]:
    keys = {"cpu": "cpu_seconds", "wall": "seconds"}
    return {name: round(_median(took["ours"], key) / _median(took[peer], key), 3) for name, key in keys.items()}


def _median(took: list[Took], key: str) -> float:
    return statistics.median(one[key] for one in took)


@contextmanager
def _side(command: list[str]) -> Iterator[Callable[[], Took]]:
    """Start a process that does its work for every line it is sent; what it says beside its answers goes to a log."""
    with (WORK / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    if child.stdin is None or child.stdout is None:
        raise SystemExit("a side has no pipes")
    asked, answers = child.stdin, child.stdout

    def answer() -> Took:
        for line in answers:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"{' '.join(command[:4])} ended with {child.wait()}; see {WORK / 'log.txt'}")

    def ask() -> Took:
        asked.write("\n")
        asked.flush()
        return answer()

    try:
        answer()
        yield ask
    finally:
        asked.close()
        child.wait()


def _job(name: str, values: dict[str, Any]) -> Path:
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{name}.json"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path.write_text(json.dumps({"device": device, "threads": 2, **values}), encoding="utf-8")
    return path


def _child(part: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.inference_child", part]


def _environment() -> dict[str, str]:
    return {**os.environ, **THREADS, **{f"nnUNet_{name}": str(WORK) for name in ("raw", "preprocessed", "results")}}


def _packed(folder: Path, network: torch.nn.Module, plan: Plan) -> Path:
    return write_package(folder, network, plan, plan.labels, Calibration(), "# Benchmark\n", {})


def _unet_plan(window: tuple[int, int, int], channels: tuple[int, ...], rule: Normalisation) -> Plan:
    return Plan(
        task="segment",
        dims=3,
        modality="MR",
        channels=("image",),
        labels={0: "background", 1: "organ"},
        patch=window,
        normalisation=(rule,),
        network="unet",
        network_options={"channels": channels, "strides": (2,) * (len(channels) - 1), "num_res_units": 2},
        batch=1,
        steps_per_epoch=1,
        epochs=1,
        minutes=1,
        patience=1,
        learning_rate=1e-3,
        loss="dice_ce",
    )


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "windows": windows,
    "hippocampus": hippocampus,
    "ct": ct,
    "memory": memory,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], rounds=int(os.environ.get("MEDML_BENCH_ROUNDS", "3"))))
