"""A home with two batches of six phantoms that wait for a look: four CT series from DICOM, two NIfTI files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from corpus.dicom import Stack
from corpus.phantom import AXIAL, even, make_grid, organ_mask
from corpus.source import Source

from medml.catalogue.walk import find_scans
from medml.io.files import content_digest
from medml.networks.build import build_network
from medml.networks.predictor import Predictor
from medml.records.batch import Job, LedgerRow
from medml.records.candidate import Candidate
from medml.records.home import Home
from medml.records.labels import Author
from medml.registry import models
from medml.registry.tracking import Tracker
from medml.results.dicom_objects import DicomResults
from medml.results.outputs import write_outputs
from medml.store.crosswalk import Origin
from medml.store.ledger import Ledger
from pipelines.configs import read_plan_file
from pipelines.register import register_weights
from pipelines.requests import write_request
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms

PLAN = """
task: segment
dims: 3
modality: CT
channels: [CT]
labels: {0: background, 1: liver, 2: lesion}
patch: [16, 16, 8]
normalisation: [{kind: range, low: -100, high: 300}]
network: unet
network_options: {channels: [4, 8], strides: [2], num_res_units: 0}
"""
TILTED = make_grid(shear=(0.0, 1.2))


@dataclass
class Bench:
    """The home, where the batch wrote to, and scan ids by what the sources are called."""

    home: Home
    source: Path
    out: Path
    batch: str
    scans: dict[str, str]

    def mask_of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The phantom's own organ on the grid of its source's mask file, and that file's affine."""
        image = nib.load(self.out / "masks" / f"{self.scans[name]}.nii.gz")
        return organ_mask(image.affine, image.shape).astype(np.uint8), image.affine

    def save_mask(self, name: str, path: Path) -> np.ndarray:
        """Write that organ as a person's corrected mask would come; return its voxels."""
        mask, affine = self.mask_of(name)
        nib.save(nib.Nifti1Image(mask, affine), path)
        return mask


@contextmanager
def environment(home: Home) -> Iterator[None]:
    """Let this home be the one that flows work in."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MEDML_CATALOGUE_URL", "MEDML_CROSSWALK_URL", "MEDML_KEY_FILE"):
            patch.delenv(name, raising=False)
        patch.setenv("MEDML_HOME", str(home.root))
        yield


def make_benches(place: Path) -> dict[str, Bench]:
    """Register a tiny network, let it predict, and put what it says on the worklist, once for each batch."""
    home = Home(place / "home")
    home.root.mkdir()
    with environment(home):
        predictor = _predictor(home, place)
        return {name: _predicted(home, predictor, place / name) for name in ("batch-1", "batch-2")}


def _predictor(home: Home, place: Path) -> Predictor:
    (place / "plan.yaml").write_text(PLAN)
    plan = read_plan_file(place / "plan.yaml")
    torch.manual_seed(0)
    torch.save(build_network(plan).state_dict(), place / "w.pt")
    asked = {"weights": str(place / "w.pt"), "plan": plan.model_dump(mode="json"), "axes": None}
    register_weights.fn("organs", write_request(home, "register", **asked))
    return Predictor(models.resolve(Tracker.of(home), "organs").package_path, device="cpu")


def _predicted(home: Home, predictor: Predictor, place: Path) -> Bench:
    _write_sources(place / "src", 10 * int(place.name[-1]))
    request = write_request(home, "predict", sources=[str(place / "src")], output=str(place / "out"))
    pseudonyms, crosswalk, ledger = open_pseudonyms(home), open_crosswalk(home), Ledger(open_catalogue(home))
    ledger.open_batch(place.name, "organs/1", predictor.package.digest, request)
    objects = DicomResults(Author(name="organs", version="1", digest=predictor.package.digest), pseudonyms.uid)
    scans = {}
    found = [item for item in find_scans(place / "src") if isinstance(item, Candidate)]
    for number, candidate in enumerate(sorted(found, key=lambda item: item.source)):
        reading = candidate.read()
        digest = content_digest(reading.volume)
        scan_id = pseudonyms.scan_id(candidate.identity, digest)
        crosswalk.put([Origin(scan_id, candidate.stamp, candidate.locator)])
        job = Job(scan_id, candidate.source, reading, digest, candidate.locator)
        written = write_outputs(place / "out", job, predictor.predict(reading.volume), predictor.plan, dicom=objects)
        reason = f"Unlike the training data: {number + 2:.1f}."
        doubt = {"review_codes": "unlike", "review": reason, "ood_score": number}
        row = LedgerRow(
            source=candidate.source,
            scan_id=scan_id,
            status="needs_review",
            mask=written.mask,
            input_digest=digest,
            model="organs/1",
            model_digest=predictor.package.digest,
            outputs=written.outputs,
            result={**written.result, **doubt},
            finished="2026-01-02T03:04:05+00:00",
            stamp=candidate.stamp,
        )
        ledger.record(place.name, row)
        scans[candidate.source.split(".")[0]] = scan_id
    return Bench(home, place / "src", place / "out", place.name, scans)


def _write_sources(folder: Path, seed: int) -> None:
    """Write the phantoms, each with stripes of its own, so that no two show one picture."""
    for number, name in enumerate(("ct1", "ct2", "ct3", "tilted")):
        grid = TILTED if name == "tilted" else AXIAL
        stack = Stack(Source(folder, name), grid, change=partial(_striped, number + seed), study=number + seed)
        for data in stack.slices:
            data.PatientID = f"case {number + seed}"
        stack.write(name)
    affine = np.diag([-2.0, -2.5, 4.0, 1.0])
    affine[:3, 3] = [36.0, -5.0, 25.0]
    for number, name in enumerate(("n1", "n2")):
        image = np.random.default_rng(number + seed).normal(50, 40, (24, 20, 12)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, affine), folder / f"{name}.nii.gz")


def _striped(number: int, values: np.ndarray) -> np.ndarray:
    axis = number % 3
    shape = [-1 if n == axis else 1 for n in range(3)]
    stripes = np.random.default_rng(number).integers(-150, 150, values.shape[axis])
    return np.asarray(even(values) + 2 * stripes.reshape(shape))
