"""Whether a dataset asks what a model answers."""

from __future__ import annotations

from medml.errors import ConfigError
from medml.records.dataset import Dataset
from medml.records.plan import Plan


def check_question(plan: Plan, dataset: Dataset) -> tuple[str, ...]:
    """Prove that figures of a model on a dataset mean something; return what a reader must know.

    Raises
    ------
    ConfigError
        If task, channels or label values differ, or a name stands at another value.
    """
    for what, ours, theirs in (
        ("task", plan.task, dataset.task),
        ("number of channels", len(plan.channels), len(dataset.channels)),
        ("several classes at once", plan.multi_label, dataset.multi_label),
        ("label values", sorted(plan.labels), sorted(dataset.labels)),
    ):
        if ours != theirs:
            raise ConfigError(
                f"the model cannot be evaluated on dataset {dataset.name}: {what} of the model: {ours}, of the "
                f"dataset: {theirs}; freeze a dataset that asks what the model answers"
            )
    values = {_plain(name): value for value, name in plan.labels.items()}
    moved = [name for value, name in dataset.labels.items() if values.get(_plain(name), value) != value]
    if moved:
        raise ConfigError(
            f"the model cannot be evaluated on dataset {dataset.name}: {len(moved)} labels stand at another value, "
            f"first {moved[0]}; the model's are {plan.labels}, the dataset's {dataset.labels}"
        )
    return (*_renamed(plan, dataset), *_other_images(plan, dataset))


def _renamed(plan: Plan, dataset: Dataset) -> tuple[str, ...]:
    pairs = [
        f"{plan.labels[value]} / {name}"
        for value, name in sorted(dataset.labels.items())
        if _plain(name) != _plain(plan.labels[value])
    ]
    if not pairs:
        return ()
    return (
        f"Labels are named differently by the model / the dataset, and taken to mean the same: {'; '.join(pairs)}.",
    )


def _other_images(plan: Plan, dataset: Dataset) -> tuple[str, ...]:
    if plan.modality == dataset.modality:
        return ()
    return (f"The model is for {plan.modality} images, the dataset holds {dataset.modality} images.",)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
