"""One side of a benchmark in a process of its own: batches from files to masks, or one volume by windows.

``python -m benchmarks.inference_child PART JOB.json`` does the job once for every line that comes in, and answers with
what it took; the part ``memory`` goes through its scans once and says what the process holds.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medml.catalogue.walk import find_scans
from medml.inference.batch import Stages, run_batch
from medml.interpreter import run_quickly
from medml.networks.package import load_package
from medml.networks.predictor import Predictor
from medml.records.batch import Job, LedgerRow, Prediction, Written
from medml.records.candidate import Candidate
from medml.records.plan import Plan
from medml.results.masks import write_mask

FIRST = 100  # scans after which memory should not grow


def main() -> None:
    part, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    if part == "memory":
        print(json.dumps(hold(job)), flush=True)
        return
    work = PARTS[part](job)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        shutil.rmtree(job["out"], ignore_errors=True)
        Path(job["out"]).mkdir(parents=True)
        if job.get("warm"):  # while the others had their turn, the system took some of this process's memory
            work()
        start, cpu = time.perf_counter(), cpu_seconds()
        note = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - cpu}
        print(json.dumps(took | note), flush=True)


def ours(job: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Return our batch: its stages overlap. On a GPU it also says which share of the time the network waited."""
    predictor = Predictor(Path(job["package"]), job["device"])

    def work() -> dict[str, float]:
        asked = 0.0
        stages = batch_stages(predictor, Path(job["out"]))

        def infer(ready: Any) -> Any:
            nonlocal asked
            start = time.perf_counter()
            answer = stages.infer(ready)
            asked += time.perf_counter() - start
            return answer

        timed = Stages(stages.read, stages.prepare, infer, stages.restore, stages.write)
        start = time.perf_counter()
        run(timed, Path(job["source"]))
        return {"idle_share": 1 - asked / (time.perf_counter() - start)}

    return work


def batch_stages(predictor: Predictor, out: Path) -> Stages:
    """Return the stages that `medml predict` has, with masks alone for results."""
    prepare, infer, restore = predictor.stages()

    def read(candidate: Candidate) -> Job:
        name = Path(candidate.source).name.split(".")[0].removesuffix("_0000")
        return Job(name, candidate.source, candidate.read())

    def write(read: Job, prediction: Prediction) -> Written:
        if prediction.mask is None:
            raise SystemExit(f"{read.scan_id}: the predictor gave no mask")
        write_mask(out, read.scan_id, prediction.mask, read.reading.grid)
        return Written()

    return Stages(read, lambda found: prepare(found.reading.volume), infer, restore, write)


def run(stages: Stages, source: Path, on_row: Callable[[LedgerRow], object] | None = None) -> None:
    """Take every scan of a folder through the stages; all must be done."""
    rows: list[LedgerRow] = []
    counts = run_batch(find_scans(source), stages, done={}, record=rows.append, on_row=on_row)
    if counts["done"] != len(rows) or not rows:
        raise SystemExit(f"{counts}: {[row.reason for row in rows if row.status != 'done'][:3]}")


def monai_loop(job: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Return what a script would do: load, transform, infer in fp32, invert, save, one scan after the other."""
    from monai.data.meta_tensor import MetaTensor
    from monai.inferers.inferer import SlidingWindowInferer
    from monai.transforms.compose import Compose
    from monai.transforms.io.array import SaveImage
    from monai.transforms.post.dictionary import AsDiscreted, Invertd

    package = load_package(Path(job["package"]))
    plan, device = package.plan, torch.device(job["device"])
    network = package.network.to(device)
    read = _reading(plan, dicom=job["dicom"])
    inferer = SlidingWindowInferer(plan.patch, sw_batch_size=job["windows"], overlap=plan.overlap, mode="gaussian")
    save = SaveImage(output_dtype="uint8", resample=False, print_log=False)
    names = sorted(Path(job["source"]).iterdir())

    def work() -> dict[str, float]:
        for path in names:
            data = read({"image": str(path)})
            before = Compose([*read.transforms, *_preprocessing(plan, data["image"])])
            data = before(data, start=len(read.transforms))
            with torch.inference_mode():
                scores = inferer(data["image"][None].to(device), network)[0].cpu()
            data["pred"] = MetaTensor(scores, meta=data["image"].meta)
            invert = Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True)
            mask = AsDiscreted("pred", argmax=True)(invert(data))["pred"]
            save(mask, filename=str(Path(job["out"]) / path.name.split(".")[0].removesuffix("_0000")))
        return {}

    return work


def _reading(plan: Plan, *, dicom: bool) -> Any:
    from monai.transforms.compose import Compose
    from monai.transforms.io.dictionary import LoadImaged
    from monai.transforms.spatial.dictionary import Orientationd

    reader = "PydicomReader" if dicom else "NibabelReader"
    load = LoadImaged("image", reader=reader, ensure_channel_first=True)
    return Compose([load, Orientationd("image", axcodes=plan.orientation)])


def _preprocessing(plan: Plan, image: Any) -> list[Any]:
    """Return the rest of the steps for an image; between its edges, to nnU-Net's shape."""
    from monai.transforms.intensity.dictionary import NormalizeIntensityd, ScaleIntensityRanged
    from monai.transforms.spatial.dictionary import Resized

    own, wanted = image.pixdim.tolist(), plan.spacing_mm or ()
    shape = [round(n * mm / goal) for n, mm, goal in zip(image.shape[1:], own, wanted, strict=True)]
    steps: list[Any] = [Resized("image", shape, mode="trilinear", align_corners=False)]
    rule = plan.normalisation[0]
    if rule.kind == "zscore":
        return [*steps, NormalizeIntensityd("image", channel_wise=True)]
    clip = ScaleIntensityRanged("image", rule.low, rule.high, rule.low, rule.high, clip=True)
    return [*steps, clip, NormalizeIntensityd("image", subtrahend=rule.mean, divisor=rule.std)]


def windows(job: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Return our scores of one volume that is in memory."""
    predictor, image = Predictor(Path(job["package"]), job["device"]), _image(job)
    return _labelled(lambda: predictor.logits(image), job)


def monai_windows(job: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Return MONAI's scores of it, with one of its settings."""
    from monai.inferers.utils import sliding_window_inference

    package, device, image = load_package(Path(job["package"])), torch.device(job["device"]), _image(job)[None]
    network, plan = package.network.to(device), package.plan

    @torch.inference_mode()
    def scores() -> torch.Tensor:
        found = sliding_window_inference(
            image.to(device), plan.patch or (), job["windows"], network, overlap=plan.overlap, mode=job["mode"]
        )
        return torch.as_tensor(found)[0]

    return _labelled(scores, job)


def _image(job: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(np.load(job["source"]))


def _labelled(scores: Callable[[], torch.Tensor], job: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Write the labels of the first round, which does not count."""
    labels = Path(job["labels"])

    def work() -> dict[str, float]:
        found = scores()
        if not labels.exists():
            np.save(labels, found.argmax(0).cpu().numpy().astype(np.uint8))
        return {}

    return work


def hold(job: dict[str, Any]) -> dict[str, float]:
    """Return memory in MB and open files after the first hundred scans and after all."""
    predictor = Predictor(Path(job["package"]), job["device"])
    seen: list[tuple[float, int]] = []

    def look(_: LedgerRow) -> None:
        if len(seen) + 1 == FIRST:
            gc.collect()
        seen.append((resident_mb(), len(os.listdir("/proc/self/fd"))))

    start = time.perf_counter()
    run(batch_stages(predictor, Path(job["out"])), Path(job["source"]), look)
    (then, files), (now, files_now) = seen[FIRST - 1], seen[-1]
    return {
        "scans": len(seen),
        "mb_after_100": round(then, 1),
        "mb_at_the_end": round(now, 1),
        "files_after_100": files,
        "files_at_the_end": files_now,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 1e6


def cpu_seconds() -> float:
    """Return what this process and its finished children used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


PARTS = {"ours": ours, "monai": monai_loop, "windows": windows, "monai_windows": monai_windows}

if __name__ == "__main__":
    run_quickly(main)  # as a worker does: how seldom it looks for garbage shows in what it holds
