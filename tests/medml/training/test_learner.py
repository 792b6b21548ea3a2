"""One step of training: accumulation, memory, compilation, heads that only training needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medml.errors import MedmlError
from medml.records.plan import Augmentation
from medml.training import compilation
from medml.training.changes import Lesson
from medml.training.compilation import Compilation
from medml.training.learner import Learner, MemoryShortError
from medml.training.processes import Processes

CPU = torch.device("cpu")
MakePlan = Callable[..., Any]
SMALL = {
    "patch": (8, 8, 8),
    "batch": 4,
    "network_options": {"channels": (4, 8), "strides": (2,), "num_res_units": 1},
    "augmentation": Augmentation(flip_axes=()),
}


@pytest.fixture
def lesson() -> Lesson:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 8, 8, 8, generator=draw)
    return Lesson(images, [(1.0, (images > 0).to(torch.uint8))], None, ("a", "b", "c", "a"))


def make_learner(plan: Any) -> Learner:
    return Learner(plan, device=CPU, precision="fp32", processes=Processes())


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_a_step_follows_its_gradient_as_far_as_it_may(make_plan: MakePlan, lesson: Lesson, clip: float) -> None:
    learner = make_learner(make_plan(**SMALL, gradient_clip=clip, optimiser="sgd", weight_decay=0.0))
    before = [value.detach().clone() for value in learner.network.parameters()]
    learned = learner.learn(lesson, step=0, rate=1.0)
    moved = [
        float((new.detach() - old).square().sum())
        for new, old in zip(learner.network.parameters(), before, strict=True)
    ]
    assert 1e-3 < learned.gradient < 1e6
    # Nesterov's first step is 1 + momentum times the gradient, here of length 1e-3 or as it is.
    assert sum(moved) ** 0.5 == pytest.approx(1.99 * min(clip, learned.gradient), rel=1e-3)


def test_pieces_add_up_to_the_gradient_of_the_whole_batch(make_plan: MakePlan, lesson: Lesson) -> None:
    # Cross-entropy is a mean over images, so that pieces change nothing but the order of sums.
    plan = make_plan(
        task="classify", batch=4, size=(8, 8, 8), network="resnet18", network_options={"widen_factor": 0.1}
    )
    lesson = Lesson(lesson.images, [(0.7, torch.tensor([0, 1, 1, 0])), (0.3, torch.tensor([1, 1, 0, 0]))], None, ())
    gradients = []
    for pieces in (1, 3):
        learner = make_learner(plan)
        learner.trained.eval()  # batch normalisation would see other batches
        learner.pieces = pieces
        learner.backward(lesson)
        gradients.append(torch.cat([value.grad.flatten() for value in learner.trained.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_memory_short_in_one_of_several_processes_ends_all_with_the_pieces_to_go_on_with(
    make_plan: MakePlan, lesson: Lesson
) -> None:
    learner = make_learner(make_plan(**SMALL))
    learner.processes = Processes(0, 2)
    with pytest.raises(MemoryShortError, match="goes on from its checkpoint with batches in 2 pieces"):
        learner._go_smaller(lesson)


def test_heads_of_deep_supervision_are_for_training_only(make_plan: MakePlan, lesson: Lesson) -> None:
    options = {"filters": (4, 8, 8), "deep_supervision": True, "deep_supr_num": 1}
    learner = make_learner(make_plan(**{**SMALL, "network": "dynunet", "network_options": options}))
    assert learner.network(lesson.images).shape == (4, 2, 2, 8, 8, 8)
    first = learner.learn(lesson, step=0, rate=1e-2).loss
    assert learner.learn(lesson, step=1, rate=1e-2).loss < first
    assert learner.network.eval()(lesson.images).shape == (4, 2, 8, 8, 8)


@pytest.mark.parametrize(("fast", "decided"), [(0.9, "kept"), (0.99, "dropped")])
def test_compiled_code_is_kept_if_it_is_faster(
    make_plan: MakePlan, lesson: Lesson, monkeypatch: pytest.MonkeyPatch, fast: float, decided: str
) -> None:
    learner = make_learner(make_plan(**SMALL))
    times = iter([1.0, 60.0, fast])
    monkeypatch.setattr(compilation, "_seconds", lambda *_, **__: next(times))
    trial = Compilation(learner)
    trial.consider(lesson, step=9, seconds_left=1e6)
    trial.consider(lesson, step=10, seconds_left=2699.0)
    assert trial.decided == "open"
    trial.consider(lesson, step=10, seconds_left=2700.0)
    assert trial.decided == decided
    assert (learner.runner is learner.trained) == (decided == "dropped")


@pytest.mark.parametrize("keys", [{"compile": "never"}, {"deterministic": True}])
def test_compiled_code_is_not_tried_where_it_is_not_wanted(make_plan: MakePlan, keys: dict[str, Any]) -> None:
    trial = Compilation(make_learner(make_plan(**SMALL, **keys)))
    assert trial.decided == "dropped"
    trial.take_over("kept")
    assert trial.decided == "dropped"


@pytest.mark.slow
def test_the_compiler_leaves_weights_and_counters_alone(make_plan: MakePlan, lesson: Lesson) -> None:
    learner = make_learner(make_plan(**SMALL, compile="always"))
    before = {name: value.clone() for name, value in learner.trained.state_dict().items()}
    trial = Compilation(learner)
    trial.consider(lesson, step=10, seconds_left=0.0)
    assert trial.decided in ("kept", "dropped")
    assert all(torch.equal(before[name], value) for name, value in learner.trained.state_dict().items())
    assert learner.learn(lesson, step=10, rate=1e-3).gradient > 0


@pytest.mark.slow
def test_without_a_compiler_training_goes_on_as_it_was(
    make_plan: MakePlan, lesson: Lesson, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(config, "fx_graph_cache", False)
    torch._dynamo.reset()  # or what another test compiled would be used
    learner = make_learner(make_plan(**SMALL, compile="always"))
    with caplog.at_level("INFO"):
        Compilation(learner).consider(lesson, step=10, seconds_left=0.0)
    assert "torch.compile cannot be used here" in caplog.text
    assert learner.learn(lesson, step=10, rate=1e-3).gradient > 0


def test_a_single_case_too_large_is_said_with_what_to_change(make_plan: MakePlan, lesson: Lesson) -> None:
    learner = make_learner(make_plan(**SMALL))
    learner.pieces = 4
    with pytest.raises(MedmlError, match=r"out of memory with 1 cases of \(8, 8, 8\) voxels at a time"):
        learner._go_smaller(lesson)
