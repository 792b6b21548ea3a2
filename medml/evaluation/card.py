"""The model card: what a model is for, what it learned from, how well it does and for whom, and where it stops."""

from __future__ import annotations

import re

from medml.records.experiment import CardText
from medml.records.report import Evaluation, Subgroup

NOT_STATED = "Not stated."
REQUIRED = ("Intended use", "Limits", "Data", "Model", "Test results", "Subgroups")
_HEADLINES = (
    "dice_mean", "auroc", "average_precision", "sensitivity", "specificity", "accuracy", "ece", "seconds_per_case",
)  # fmt: skip
_OWN = "\n## Intended use\n"


def complete_card(card: str, text: CardText, evaluation: Evaluation) -> str:
    """Return the card that training wrote, with its use and limits in words and the figures of the test set.

    What an earlier call added is replaced.
    """
    trained = card.partition(_OWN)[0].rstrip()
    limits = [text.limits.strip() or NOT_STATED, *[f"- {note}" for note in evaluation.notes]]
    sections = {
        "Intended use": [text.intended_use.strip() or NOT_STATED],
        "Limits": limits,
        "Test results": _results(evaluation),
        "Subgroups": _subgroups(evaluation.subgroups),
    }
    added = [line for title, lines in sections.items() for line in (f"## {title}", *lines, "")]
    return "\n".join([trained, "", *added])


def missing_sections(card: str) -> list[str]:
    """Return the required sections of which a card says nothing."""
    found = dict(re.findall(r"^## (.+?)\s*\n(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL))
    return [title for title in REQUIRED if _empty(found.get(title, ""))]


def _empty(body: str) -> bool:
    return not body.strip() or body.strip().startswith(NOT_STATED)


def _results(evaluation: Evaluation) -> list[str]:
    summary = evaluation.summary
    lines = [
        f"On {summary.n} cases of the {summary.split} set `{summary.test_digest[:16]}` of {summary.dataset}:",
        "",
        "| figure | value | 95 % interval |",
        "| --- | --- | --- |",
    ]
    per_label = [key for key in summary.metrics if re.fullmatch(r"(dice|hd95|nsd)_(?!mean).*(?<!_low)(?<!_high)", key)]
    for key in (*_HEADLINES, *per_label):
        value = summary.metrics.get(key)
        if value is not None:
            low, high = summary.metrics.get(f"{key}_low"), summary.metrics.get(f"{key}_high")
            interval = "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"
            lines.append(f"| {key} | {value:.3f} | {interval} |")
    return lines


def _subgroups(groups: tuple[Subgroup, ...]) -> list[str]:
    """Return the audit as a table; that nothing could be audited is said, and is an answer."""
    if not groups:
        return ["None could be audited: the data record none of the columns asked for."]
    lines = ["| group | patients | figure | value | 95 % interval |", "| --- | --- | --- | --- | --- |"]
    for group in groups:
        value = "–" if group.value is None else f"{group.value:.3f}"
        interval = "too few" if group.low is None or group.high is None else f"{group.low:.3f} to {group.high:.3f}"
        lines.append(f"| {group.column} {group.level} | {group.patients} | {group.metric} | {value} | {interval} |")
    return lines
