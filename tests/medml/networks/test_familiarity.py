"""A model says how unlike its training data a scan is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medml.errors import Refusal
from medml.networks.build import build_network
from medml.networks.familiarity import FeatureTap, compare, deepest_layer, learn_aspects, measure
from medml.networks.package import copy_package, load_package, package_digest, write_package
from medml.networks.predictor import Predictor
from medml.records.calibration import Calibration
from medml.records.norms import Aspect, Norms
from medml.records.plan import Plan
from medml.records.scan import Volume

PlanMaker = Callable[..., Plan]
SMALL = {"channels": (4, 8), "strides": (2,), "num_res_units": 0}
PLAN = {
    "task": "segment",
    "dims": 3,
    "modality": "MR",
    "channels": ["image"],
    "labels": {0: "background", 1: "organ"},
    "patch": [16, 16, 16],
    "normalisation": [{"kind": "zscore"}],
    "network": "unet",
    "network_options": SMALL,
    "batch": 1,
    "steps_per_epoch": 1,
    "epochs": 1,
    "minutes": 1.0,
    "patience": 1,
    "learning_rate": 1e-3,
    "loss": "dice_ce",
}
DOT = Aspect(centre=(0.0,), scale=(1.0,), axes=(), variances=(), rest=1.0, reach=2.0)


def head(seed: int, *, shift: int = 0) -> Volume:
    """A bright body with a dark lesion, at about the same place in every scan."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.arange(16)] * 3, indexing="ij")
    centre = 8 + rng.normal(0, 0.4, 3)
    inside = ((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2) < 30 + rng.normal(0, 2)
    voxels = np.roll(100.0 * inside * (1 - 0.6 * (i > 8)), shift, axis=0) + rng.normal(0, 5, inside.shape)
    return Volume(voxels[np.newaxis].astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose norms are of sixty such scans."""
    tmp_path = tmp_path_factory.mktemp("model")
    plan = Plan.model_validate(PLAN)
    torch.manual_seed(0)
    network = build_network(plan).eval()
    layer = deepest_layer(plan)
    bare = Predictor(write_package(tmp_path / "bare", network, plan, plan.labels, Calibration(), "", {}), "cpu")
    seen = []
    with FeatureTap(bare.package.network, layer) as tap:
        for seed in range(60):
            ready = bare.prepare(head(seed))
            bare.infer(ready)
            image = torch.from_numpy(ready.prepared.voxels)
            features = tap.take()
            assert features is not None
            seen.append(measure(image, (16, 16, 16), (1.0, 1.0, 2.0), 3) | {"features": features})
    aspects, scores = learn_aspects(seen[:40], seen[40:])
    norms = Norms(learned=40, judged=20, layer=layer, aspects=aspects, scores=tuple(scores))
    return write_package(tmp_path / "p", network, plan, plan.labels, Calibration(), "", {}, norms=norms)


def test_held_out_scans_are_familiar_and_strange_ones_are_not(model: Path) -> None:
    predictor = Predictor(model, "cpu")

    def farthest(volume: Volume) -> tuple[str, float]:
        unlike = predictor.predict(volume).unlike
        return max(unlike.items(), key=lambda item: item[1])

    assert set(predictor.predict(head(50)).unlike) == {"geometry", "intensity", "layout", "features"}
    usual = [farthest(head(seed))[1] for seed in range(50, 60)]
    assert max(usual) < 1.5
    plain = head(50)
    strange = {
        "inverted": Volume(plain.voxels.max() - plain.voxels, plain.affine),
        "noise": Volume(np.random.default_rng(1).normal(0, 1, plain.voxels.shape).astype(np.float32), plain.affine),
        "shifted": head(50, shift=6),
        "coarse": Volume(plain.voxels, np.diag([3.0, 3.0, 6.0, 1.0])),
    }
    scores = {name: farthest(volume) for name, volume in strange.items()}
    assert all(score > 2 * max(usual) for _, score in scores.values()), scores
    assert scores["coarse"][0] == "geometry"
    assert predictor.predict(strange["noise"]).unlike_share == 1.0


def test_a_package_without_norms_says_nothing(model: Path) -> None:
    found = Predictor(model.parent / "bare", "cpu").predict(head(50))
    assert found.unlike == {}
    assert np.isnan(found.unlike_share)


def test_norms_belong_to_what_a_model_does_and_are_sealed(model: Path, tmp_path: Path) -> None:
    assert package_digest(model) != package_digest(model.parent / "bare")
    package = load_package(model)
    assert package.norms is not None
    assert package.norms.learned == 40
    model = copy_package(model, tmp_path / "copy")
    (model / "norms.json").write_text((model / "norms.json").read_text().replace('"learned": 40', '"learned": 41'))
    with pytest.raises(Refusal, match="the file changed after the model was packaged"):
        load_package(model)


def test_the_share_is_of_validation_scans_that_are_nearer() -> None:
    norms = Norms(learned=6, judged=4, aspects={"layout": DOT}, scores=(0.2, 0.4, 0.6, 1.0))
    assert compare(norms, {"layout": np.array([1.0])}) == ({"layout": 0.5}, 0.5)
    unlike, share = compare(norms.model_copy(update={"scores": ()}), {"layout": np.array([5.0])})
    assert unlike == {"layout": 2.5}
    assert np.isnan(share)


def test_geometry_is_spacing_and_field_of_view() -> None:
    found = measure(torch.zeros(1, 8, 8, 4), (80, 40, 20), (0.5, 0.5, 2.0), 3)
    np.testing.assert_allclose(np.exp(found["geometry"]), [0.5, 0.5, 2.0, 40.0, 20.0, 40.0])
    flat = measure(torch.zeros(1, 8, 8, 1), (80, 40, 1), None, 2)
    np.testing.assert_allclose(np.exp(flat["geometry"]), [80.0, 40.0])
    assert (len(found["layout"]), len(flat["layout"])) == (64, 64)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"network": "unet", "network_options": SMALL}, 8),
        ({"task": "classify", "network_options": {"widen_factor": 0.0625}}, 32),
        ({"task": "classify", "dims": 2, "size": (32, 32, 1), "network_options": {"widen_factor": 0.0625}}, 32),
    ],
)
def test_the_deepest_layer_is_heard_in_the_first_view_alone(
    make_plan: PlanMaker, changes: dict[str, Any], size: int
) -> None:
    plan = make_plan(**changes)
    network = build_network(plan).eval()
    shape = plan.patch or plan.size or (1,)
    image = torch.rand(1, 1, *shape[: plan.dims])
    with FeatureTap(network, deepest_layer(plan), views=2) as tap, torch.no_grad():
        network(image)
        network(image.flip(2) * 100)
        network(image)
        network(image.flip(2) * 100)
        found = tap.take()
        network(image)
        once = tap.take()
        assert tap.take() is None
    assert found is not None
    assert once is not None
    assert found.shape == (size,)
    np.testing.assert_allclose(found, once, rtol=1e-5, atol=1e-6)
    network(image)
    assert tap.take() is None  # it listens no more
