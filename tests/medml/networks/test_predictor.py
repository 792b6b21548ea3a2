from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from medml.errors import ConfigError, MedmlError, Refusal
from medml.networks.build import build_network
from medml.networks.predictor import Predictor
from medml.networks.uncertainty import mean_entropy
from medml.records.plan import Plan
from medml.records.scan import Volume

NARROW = {"widen_factor": 0.125}
Trained = Callable[..., tuple[torch.nn.Module, Plan]]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * np.logical_and(one, other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("crop", [True, False])
def test_the_mask_lies_on_the_volumes_own_grid(
    trained: Trained, pack: Any, blob: Volume, precision: str, crop: bool
) -> None:
    found = Predictor(pack(*trained(crop_foreground=crop)), precision=precision).predict(blob)
    assert found.mask is not None
    assert found.mask.shape == (22, 20, 14)
    assert found.mask.dtype == np.uint8
    assert dice(found.mask == 1, blob.voxels[0] > 200) > 0.8
    assert 0 < found.uncertainty < 1
    assert set(found.seconds) == {"preprocess", "network", "restore"}


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_stages_in_threads_of_their_own_give_what_predict_gives(
    trained: Trained, make_plan: Callable[..., Plan], pack: Any, blob: Volume, task: str
) -> None:
    if task == "segment":
        network, plan = trained(crop_foreground=True, keep_largest=True, tta_flips=(1,))
    else:
        plan = make_plan(task="classify", network_options=NARROW, spacing_mm=(2.0, 2.0, 2.0))
        network = build_network(plan)
    predictor = Predictor(pack(network, plan), precision="fp32")
    expected = predictor.predict(blob)
    value: Any = blob
    threads = torch.get_num_threads()
    for stage in predictor.stages():
        with ThreadPoolExecutor(1) as thread:
            value = thread.submit(stage, value).result()
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(value.mask, expected.mask)
    np.testing.assert_array_equal(value.probabilities, expected.probabilities)
    assert (value.uncertainty, str(value.disagreement)) == (expected.uncertainty, str(expected.disagreement))
    assert set(value.seconds) == {"preprocess", "network", "restore"}


def test_an_answer_does_not_hold_on_to_the_image(trained: Trained, pack: Any, blob: Volume) -> None:
    predictor = Predictor(pack(*trained(skip_air=True)), precision="fp32")
    answer = predictor.infer(predictor.prepare(blob))
    assert answer.prepared.voxels.size == 0
    assert answer.prepared.body is None


@pytest.mark.parametrize("dims", [2, 3])
def test_where_air_is_skipped_the_body_keeps_its_labels(trained: Trained, pack: Any, blob: Volume, dims: int) -> None:
    network, plan = trained(dims=dims, patch=(8, 8, 8) if dims == 3 else (8, 8, 1), spacing_mm=None)
    wide = np.zeros((1, 60, 20, 14), dtype=np.float32)
    wide[:, :22] = blob.voxels
    volume = Volume(wide, blob.affine)
    asked: dict[bool, int] = {False: 0, True: 0}
    masks: dict[bool, np.ndarray] = {}
    for skip in asked:
        predictor = Predictor(pack(network, plan.model_copy(update={"skip_air": skip})), precision="fp32")

        def count(_: object, given: tuple[torch.Tensor], skip: bool = skip) -> None:
            asked[skip] += len(given[0])

        predictor.network.register_forward_pre_hook(count)
        mask = predictor.predict(volume).mask
        assert mask is not None
        masks[skip] = mask
    assert asked[True] < 0.6 * asked[False]
    body = wide[0] > 0
    np.testing.assert_array_equal(masks[True][body], masks[False][body])
    assert not masks[True][40:].any()


def test_a_2d_network_runs_slice_by_slice(trained: Trained, pack: Any, blob: Volume) -> None:
    predictor = Predictor(pack(*trained(dims=2, patch=(16, 16, 1))), precision="fp32")
    whole = predictor.predict(blob).mask
    assert whole is not None
    assert dice(whole == 1, blob.voxels[0] > 200) > 0.8
    one = predictor.predict(Volume(blob.voxels[..., 6:7], blob.affine)).mask
    assert one is not None
    assert one.shape == (22, 20, 1)


def test_flips_are_averaged_and_change_little(trained: Trained, pack: Any, blob: Volume) -> None:
    network, plan = trained()
    plain = Predictor(pack(network, plan), precision="fp32").predict(blob).mask
    turned = (
        Predictor(pack(network, plan.model_copy(update={"tta_flips": (0, 1)})), precision="fp32").predict(blob).mask
    )
    assert plain is not None
    assert turned is not None
    assert dice(plain == 1, turned == 1) > 0.8


def test_flips_of_a_symmetric_image_give_a_symmetric_mask(trained: Trained, pack: Any) -> None:
    network, plan = trained(tta_flips=(0,), patch=(16, 16, 16), spacing_mm=None, overlap=0.0)
    half = np.random.default_rng(0).normal(100, 100, (1, 8, 16, 16)).astype(np.float32)
    image = Volume(np.concatenate([half, half[:, ::-1]], axis=1), np.eye(4))
    mask = Predictor(pack(network, plan), precision="fp32").predict(image).mask
    assert mask is not None
    np.testing.assert_array_equal(mask, mask[::-1])


def test_only_the_largest_piece_stays_if_the_plan_says_so(trained: Trained, pack: Any, blob: Volume) -> None:
    twice = blob.voxels.copy()
    twice[0, 16:18, 15:18, 8:10] = 300
    volume = Volume(twice, blob.affine)
    network, plan = trained(spacing_mm=None)
    every = Predictor(pack(network, plan), precision="fp32").predict(volume).mask
    largest = Predictor(pack(network, plan.model_copy(update={"keep_largest": True})), precision="fp32").predict(volume)
    assert every is not None
    assert largest.mask is not None
    assert every[17, 16, 8] == 1
    assert largest.mask[17, 16, 8] == 0
    assert largest.mask[9, 10, 6] == 1


def test_short_of_memory_the_mask_is_the_same(
    trained: Trained, pack: Any, blob: Volume, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor(pack(*trained()), precision="fp32")
    expected = predictor.predict(blob).mask
    forward = predictor.network.forward
    seen: list[int] = []

    def short(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    monkeypatch.setattr(predictor.network, "forward", short)
    with caplog.at_level(logging.WARNING):
        found = predictor.predict(blob).mask
    assert seen[0] > 1
    assert "going on with 1 windows at a time" in caplog.text
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_with_no_memory_left_the_image_is_done_on_the_cpu(
    trained: Trained,
    make_plan: Callable[..., Plan],
    pack: Any,
    blob: Volume,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    task: str,
) -> None:
    if task == "segment":
        network, plan = trained()
    else:
        plan = make_plan(task="classify", network_options=NARROW, spacing_mm=(2.0, 2.0, 2.0))
        network = build_network(plan)
    predictor = Predictor(pack(network, plan), precision="fp32")
    expected = predictor.predict(blob)
    scores, calls = predictor._scores, []

    def full(batch: torch.Tensor, device: torch.device, *, with_entropy: bool) -> torch.Tensor:
        calls.append(device)
        if device is predictor.device:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scores(batch, device, with_entropy=with_entropy)

    monkeypatch.setattr(predictor, "_scores", full)
    with caplog.at_level(logging.WARNING):
        found = predictor.predict(blob)
    assert "this image is done on the CPU" in caplog.text
    if task == "segment":
        np.testing.assert_array_equal(found.mask, expected.mask)
    else:
        np.testing.assert_allclose(found.probabilities, expected.probabilities)


def test_a_classifier_gives_calibrated_probabilities(make_plan: Callable[..., Plan], pack: Any, blob: Volume) -> None:
    plan = make_plan(
        task="classify", network_options=NARROW, spacing_mm=(2.0, 2.0, 2.0), labels={0: "a", 1: "b", 2: "c"}
    )
    torch.manual_seed(0)
    network = build_network(plan)
    sharp = Predictor(pack(network, plan)).predict(blob)
    soft = Predictor(pack(network, plan, temperature=4.0)).predict(blob)
    assert sharp.mask is None
    assert sharp.probabilities is not None
    assert soft.probabilities is not None
    assert sharp.probabilities.sum() == pytest.approx(1)
    # Dividing logits by 4 divides the log of every ratio of probabilities by 4.
    ratio = np.log(sharp.probabilities[1:] / sharp.probabilities[0])
    np.testing.assert_allclose(np.log(soft.probabilities[1:] / soft.probabilities[0]), ratio / 4, atol=1e-9)
    assert 0 < sharp.uncertainty < soft.uncertainty < 1


def test_several_labels_may_hold_at_once(make_plan: Callable[..., Plan], pack: Any, blob: Volume) -> None:
    plan = make_plan(
        task="classify", labels={0: "a", 1: "b"}, multi_label=True, network_options=NARROW, spacing_mm=(2.0, 2.0, 2.0)
    )
    torch.manual_seed(0)
    network = build_network(plan)
    torch.nn.init.zeros_(network.fc.weight)
    torch.nn.init.zeros_(network.fc.bias)
    found = Predictor(pack(network, plan)).predict(blob)
    np.testing.assert_allclose(found.probabilities, [0.5, 0.5])
    assert found.uncertainty == pytest.approx(1)


def test_members_are_averaged_and_where_they_differ_is_mapped(trained: Trained, pack: Any, blob: Volume) -> None:
    network, plan = trained(crop_foreground=True, patch=(20, 20, 20))  # one window
    contrary = copy.deepcopy(network)
    with torch.no_grad():  # labels exchanged: sure of the opposite everywhere
        for value in contrary.parameters():
            if value.shape == (2,):
                value.copy_(value.flip(0))
            elif value.ndim > 1 and value.shape[1] == 2:  # the last, transposed convolution
                value.copy_(value.flip(1))
    alone = Predictor(pack(network, plan), precision="fp32").predict(blob, detailed=True)
    assert set(alone.uncertainty_maps) == {"entropy"}
    assert np.isnan(alone.disagreement)
    both = Predictor(pack([network, contrary], plan), precision="fp32").predict(blob, detailed=True)
    assert both.label_probabilities is not None
    inside = np.any(blob.voxels > 0, axis=0)
    np.testing.assert_allclose(both.label_probabilities[:, inside], 0.5, atol=2e-3)
    entropy, disagreement = both.uncertainty_maps["entropy"], both.uncertainty_maps["disagreement"]
    assert entropy.shape == disagreement.shape == (22, 20, 14)
    assert entropy.dtype == disagreement.dtype == np.float16
    np.testing.assert_allclose(entropy[inside], 1, atol=2e-3)
    # What one network is unsure of is no disagreement: both are as unsure there.
    own = alone.uncertainty_maps["entropy"].astype(float)
    np.testing.assert_allclose(disagreement[inside], 1 - own[inside], atol=4e-3)
    assert entropy[0, 0, 13] == disagreement[0, 0, 13] == 0  # outside the crop


def test_asking_for_details_changes_no_voxel(trained: Trained, pack: Any, blob: Volume) -> None:
    network, plan = trained(tta_flips=(1,))
    predictor = Predictor(pack([network, network], plan), precision="fp32")
    plain, detailed = predictor.predict(blob), predictor.predict(blob, detailed=True)
    np.testing.assert_array_equal(plain.mask, detailed.mask)
    assert plain.uncertainty_maps == {}
    assert detailed.disagreement >= 0


def test_a_classifiers_members_are_averaged(make_plan: Callable[..., Plan], pack: Any, blob: Volume) -> None:
    plan = make_plan(task="classify", network_options=NARROW, spacing_mm=(2.0, 2.0, 2.0))
    members = []
    for present in (0.9, 0.5):
        network = build_network(plan)
        torch.nn.init.zeros_(network.fc.weight)
        with torch.no_grad():
            network.fc.bias.copy_(torch.tensor([1 - present, present]).log())
        members.append(network)
    found = Predictor(pack(members, plan)).predict(blob)
    np.testing.assert_allclose(found.probabilities, [0.3, 0.7], atol=1e-6)
    # H(0.7) - (H(0.9) + H(0.5)) / 2 in bits: 0.8813 - (0.4690 + 1) / 2
    assert found.disagreement == pytest.approx(0.1468, abs=1e-4)
    assert np.isnan(Predictor(pack(members[0], plan)).predict(blob).disagreement)


def test_entropy_is_taken_over_the_box_of_the_foreground() -> None:
    logits = torch.zeros(2, 4, 4, 4)
    logits[0] = 50.0  # sure of background …
    logits[:, 1, 1, 1] = torch.tensor([0.0, 1e-3])  # … but for one voxel, where both are as likely
    assert mean_entropy(logits) == pytest.approx(1, abs=1e-4)
    logits[:, 2, 1, 1] = torch.tensor([0.0, 50.0])  # a sure one beside it: half of the box is unsure
    assert mean_entropy(logits) == pytest.approx(0.5, abs=1e-4)
    assert mean_entropy(torch.tensor([50.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 3, 3)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_scores_that_are_no_numbers_never_become_a_result(
    make_plan: Callable[..., Plan], pack: Any, blob: Volume, task: str
) -> None:
    plan = make_plan(task=task, network_options=NARROW if task == "classify" else {}, spacing_mm=(2.0, 2.0, 2.0))
    network = build_network(plan)
    last = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")][-1]
    torch.nn.init.constant_(last, float("nan"))
    with pytest.raises(MedmlError, match="the network gave NaN or infinite scores in fp32"):
        Predictor(pack(network, plan), precision="fp32").predict(blob)


def test_what_does_not_fit_is_refused(trained: Trained, pack: Any, blob: Volume) -> None:
    network, plan = trained()
    predictor = Predictor(pack(network, plan))
    with pytest.raises(Refusal, match="has 2 channels, the model expects 1"):
        predictor.predict(Volume(np.concatenate([blob.voxels] * 2), blob.affine))
    with pytest.raises(Refusal, match="no voxel spacing"):
        predictor.predict(Volume(blob.voxels, np.eye(4), "none"))
    with pytest.raises(Refusal, match="single slice"):
        predictor.predict(Volume(blob.voxels[..., :1], blob.affine))
    with pytest.raises(ConfigError, match="tta_flips name axis 3"):
        Predictor(pack(network, plan.model_copy(update={"tta_flips": (3,)})))
