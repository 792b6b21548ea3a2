"""Maps on phantoms whose answer is known: a classifier that looks for a bright lesion, a segmenter that finds it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from medml.errors import ConfigError, Refusal
from medml.explain.checks import Checks, check_map, randomised, rank_correlation
from medml.explain.layers import feature_maps
from medml.explain.maps import METHODS, cam_layer, explain_map
from medml.explain.page import checked_picture
from medml.explain.subject import Subject, subject_of
from medml.networks.build import build_network, run_network
from medml.networks.package import Package
from medml.networks.predictor import Predictor
from medml.records.calibration import Calibration
from medml.records.plan import Plan
from medml.records.scan import Volume

SIDE = 32


def _picture(rng: np.random.Generator, *, ill: bool) -> tuple[np.ndarray, np.ndarray]:
    """A noisy round body (1, I, J, 1); the ill ones have a bright spot somewhere in it."""
    i, j = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    body = (i - 15.5) ** 2 + (j - 15.5) ** 2 < 14**2
    image = body * (100 + rng.normal(0, 12, body.shape))
    centre = rng.integers(9, 23, 2)
    lesion = ((i - centre[0]) ** 2 + (j - centre[1]) ** 2 < 3.2**2) & ill
    return (image + 70 * lesion)[np.newaxis, ..., np.newaxis].astype(np.float32), lesion[..., np.newaxis]


def _predictor(network: torch.nn.Module, plan: Plan) -> Predictor:
    package = Package(Path(), "m", "1", plan, plan.labels, Calibration(), {}, {}, "", network)
    return Predictor(package, "cpu", precision="fp32")


@pytest.fixture(scope="module")
def classifier() -> tuple[Predictor, Plan]:
    from medml.records.plan import Normalisation

    plan = Plan(
        task="classify",
        dims=2,
        modality="MR",
        channels=("image",),
        labels={0: "healthy", 1: "ill"},
        size=(SIDE, SIDE, 1),
        normalisation=(Normalisation(kind="zscore"),),
        network="resnet18",
        network_options={"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True, "widen_factor": 0.25},
        batch=16,
        steps_per_epoch=1,
        epochs=1,
        minutes=1.0,
        patience=1,
        learning_rate=1e-3,
        loss="cross_entropy",
    )
    torch.manual_seed(0)
    rng, network = np.random.default_rng(0), build_network(plan).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(60):
        pictures = [_picture(rng, ill=bool(n % 2))[0] for n in range(16)]
        batch = torch.from_numpy(np.stack([(p - p.mean()) / p.std() for p in pictures]))
        loss = torch.nn.functional.cross_entropy(run_network(network, batch, plan), torch.arange(16) % 2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _predictor(network.eval(), plan), plan


def _subjects(classifier: tuple[Predictor, Plan], count: int = 4) -> list[tuple[Subject, np.ndarray, np.ndarray]]:
    rng, found = np.random.default_rng(99), []
    for _ in range(count):
        image, lesion = _picture(rng, ill=True)
        found.append((subject_of(classifier[0], Volume(image, np.eye(4), "none"), 1), lesion, image[0] > 40))
    return found


def _contrast(values: np.ndarray, lesion: np.ndarray, body: np.ndarray) -> float:
    near = binary_dilation(lesion, iterations=3)
    return float(values[near].mean() / max(values[body & ~near].mean(), 1e-9))


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_the_map_lies_on_the_lesion_and_not_on_the_body(classifier: tuple[Predictor, Plan], method: str) -> None:
    assert classifier[0].predict(Volume(_picture(np.random.default_rng(5), ill=True)[0], np.eye(4), "none"))
    contrasts = [_contrast(explain_map(s, method), lesion, body) for s, lesion, body in _subjects(classifier)]
    assert np.median(contrasts) >= 3


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_gives_a_map_between_0_and_1_on_the_image(classifier: tuple[Predictor, Plan], method: str) -> None:
    subject, _, _ = _subjects(classifier, 1)[0]
    values = explain_map(subject, method)
    assert values.shape == (SIDE, SIDE, 1)
    assert values.min() >= 0
    assert values.max() == pytest.approx(1.0)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_map_leaves_the_network_as_it_was(classifier: tuple[Predictor, Plan], method: str) -> None:
    subject, _, _ = _subjects(classifier, 1)[0]
    before, state = subject.probability(subject.image), copy.deepcopy(subject.network.state_dict())
    explain_map(subject, method)
    assert not any(module.training for module in subject.network.modules())
    assert all(torch.equal(value, state[name]) for name, value in subject.network.state_dict().items())
    assert torch.equal(subject.probability(subject.image), before)


def test_a_picture_for_a_report_carries_the_verdict(classifier: tuple[Predictor, Plan]) -> None:
    image = _picture(np.random.default_rng(99), ill=True)[0]
    picture = checked_picture("scan-1", Volume(image, np.eye(4), "none"), predictor=classifier[0])
    assert re.fullmatch(
        r"scan-1, ill [01]\.\d\d\. Grad-CAM: (passes its checks|do not rely on it: .+)\.", picture.caption
    )


def test_an_empty_map_is_no_reason_and_occlusion_takes_its_place(classifier: tuple[Predictor, Plan]) -> None:
    predictor, plan = classifier
    network = copy.deepcopy(predictor.network)
    with torch.no_grad():
        network.fc.weight.copy_(torch.stack([-network.fc.weight[1].abs(), network.fc.weight[1].abs()]))
        network.fc.bias.copy_(torch.tensor([100.0, 0.0]))
    inhibited = _predictor(network, plan)  # everything that it sees speaks against the class that it names
    volume = Volume(_picture(np.random.default_rng(99), ill=True)[0], np.eye(4), "none")
    subject = subject_of(inhibited, volume)
    values = explain_map(subject, "gradcam")
    checks = check_map(subject, "gradcam", values)
    assert values.max() == 0
    assert checks.flat
    assert not checks.believable
    assert re.match(r"scan-1, healthy .+ Occlusion: ", checked_picture("scan-1", volume, predictor=inhibited).caption)


def test_checks_believe_the_trained_model_and_not_one_with_shuffled_weights(
    classifier: tuple[Predictor, Plan],
) -> None:
    subject, lesion, body = _subjects(classifier, 1)[0]
    checks = check_map(subject, "occlusion", explain_map(subject, "occlusion"))
    assert checks.believable, checks
    assert checks.insertion > checks.random_insertion
    shuffled = randomised(subject, seed=3)
    values = explain_map(shuffled, "occlusion")
    assert _contrast(values, lesion, body) < 3
    assert abs(rank_correlation(values, explain_map(subject, "occlusion"))) < 0.5


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_the_randomisation_check_fails_a_map_that_shuffled_weights_gave(
    classifier: tuple[Predictor, Plan], method: str
) -> None:
    subject, lesion, body = _subjects(classifier, 1)[0]
    values = explain_map(randomised(subject, seed=0), method)
    checks = check_map(subject, method, values, seed=0)
    assert checks.alike == pytest.approx(1.0)
    assert not checks.depends_on_weights
    assert not checks.believable
    assert _contrast(values, lesion, body) < 3


def test_what_the_checks_say_follows_from_their_figures() -> None:
    good = Checks(alike=0.1, deletion=0.2, insertion=0.9, random_deletion=0.5, random_insertion=0.6)
    assert good.believable
    same = Checks(alike=0.8, deletion=0.2, insertion=0.9, random_deletion=0.5, random_insertion=0.6)
    assert not same.depends_on_weights
    assert not same.believable
    no_better = Checks(alike=0.1, deletion=0.5, insertion=0.6, random_deletion=0.4, random_insertion=0.6)
    assert not no_better.names_what_matters
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4)))


def test_layers_go_from_fine_to_coarse(classifier: tuple[Predictor, Plan]) -> None:
    subject, _, _ = _subjects(classifier, 1)[0]
    layers = feature_maps(subject)
    sides = [layer.maps.shape[1] for layer in layers]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == SIDE
    assert 2 <= len(layers) <= 4
    assert all(layer.voxels[0] == SIDE // side for layer, side in zip(layers, sides, strict=True))


def test_a_segmenter_is_explained_in_a_window_around_what_it_found(
    make_plan: Callable[..., Plan], blob: Volume
) -> None:
    """The network is worked by hand: bright voxels are organ, so the map must lie on the bright ellipsoid."""
    options = {"channels": (8, 16), "strides": (2,), "num_res_units": 0}
    plan = make_plan(network_options=options, patch=(16, 16, 8))
    torch.manual_seed(0)
    network = build_network(plan)
    image = torch.from_numpy((blob.voxels - blob.voxels.mean()) / blob.voxels.std())[None]
    target = torch.from_numpy((blob.voxels[0] > 200).astype(np.int64))[None]
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-2)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(image), target).backward()
        optimiser.step()
    predictor = _predictor(network.eval(), plan)
    subject = subject_of(predictor, blob)
    assert subject.target == 1
    assert tuple(subject.image.shape[2:]) == (16, 16, 8)
    values = subject.on_volume(explain_map(subject, "occlusion"))
    assert values.shape == blob.voxels.shape[1:]
    lesion, body = blob.voxels[0] > 200, blob.voxels[0] > 50
    assert values[lesion].mean() > 2 * values[body & ~lesion].mean()
    empty = Volume(np.zeros_like(blob.voxels), blob.affine)
    with pytest.raises(Refusal, match="finds nothing of it"):
        subject_of(predictor, empty)


def test_what_cannot_be_explained_is_said(classifier: tuple[Predictor, Plan]) -> None:
    predictor, _ = classifier
    volume = Volume(_picture(np.random.default_rng(1), ill=False)[0], np.eye(4), "none")
    with pytest.raises(ConfigError, match="class 7: the model has none such; it has 0 healthy, 1 ill"):
        subject_of(predictor, volume, 7)
    with pytest.raises(ConfigError, match="expected one of gradcam"):
        explain_map(subject_of(predictor, volume), "tea leaves")


def test_a_vision_transformer_has_no_layer_for_grad_cam(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(task="classify", network="vit", dims=2, size=(16, 16, 1), network_options={"patch_size": (4, 4)})
    torch.manual_seed(0)
    predictor = _predictor(build_network(plan).eval(), plan)
    volume = Volume(np.random.default_rng(0).normal(100, 10, (1, 16, 16, 1)).astype(np.float32), np.eye(4), "mm")
    subject = subject_of(predictor, volume, 1)
    with pytest.raises(ConfigError, match="use occlusion or integrated_gradients"):
        cam_layer(subject)
    assert explain_map(subject, "integrated_gradients").shape == (16, 16, 1)
