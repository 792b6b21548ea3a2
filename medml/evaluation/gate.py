"""The gate: may a challenger become champion? Arithmetic over two tables of cases on the same test set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from pydantic import Field, NonNegativeFloat, PositiveInt

from medml.config import Config
from medml.evaluation.card import missing_sections
from medml.evaluation.classes import class_scores
from medml.evaluation.summary import scored
from medml.metrics.intervals import MIN_PATIENTS, Interval, Resamples, Spread, weighted_auroc
from medml.records.report import Decision, Evaluation, Signature

Rule = dict[str, str | float | bool | None]
_OTHER_TASK = {"segment": {"auroc", "average_precision", "ece", "brier"}, "classify": {"dice_mean"}}


class GateConfig(Config):
    """What a challenger must show.

    Attributes
    ----------
    margins : dict
        Metric to how much worse than the champion's the challenger's may be: the lower end of the paired 95 % interval
        of the difference must stay above minus the margin. ``dice_mean`` and ``auroc`` are compared case by case.
    floors, ceilings : dict
        Metric to the smallest or largest value accepted, with or without a champion; ``ece`` bounds the calibration,
        ``seconds_per_case`` the time, ``peak_memory_mb`` the memory.
    subgroup_floors : dict
        Metric to the smallest value accepted in any subgroup with enough patients.
    subgroup_drop : float
        How far below the champion's a subgroup's value may fall, in subgroups with enough patients.
    min_cases : int
        Fewest test cases a decision may rest on.
    max_failed : float
        Largest share of test cases that could not be scored.
    require_card : bool
        Whether every section of the model card must say something, the intended use and the limits among them.
    """

    margins: dict[str, NonNegativeFloat] = Field({"dice_mean": 0.01, "auroc": 0.02})
    floors: dict[str, float] = Field({})
    ceilings: dict[str, float] = Field({"ece": 0.2})
    subgroup_floors: dict[str, float] = Field({"dice_mean": 0.5, "auroc": 0.6})
    subgroup_drop: float = Field(0.05, ge=0)
    min_cases: PositiveInt = 10
    max_failed: float = Field(0.05, ge=0, le=1)
    require_card: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """An evaluation on a test set and the table of cases behind it.

    Attributes
    ----------
    seen : int or None
        How many of the test cases the model learned from; None: nobody knows, as of a model trained elsewhere.
    """

    evaluation: Evaluation
    table: pd.DataFrame
    seen: int | None = None


def decide(
    new: Judged,
    old: Judged | None,
    gate: GateConfig,
    /,
    *,
    challenger: str,
    champion: str | None = None,
    card: str | None = None,
    seed: int = 0,
) -> Decision:
    """Apply every rule of a gate; the challenger is promoted if all of them pass.

    Parameters
    ----------
    new, old : Judged
        The challenger's and the champion's results on the test set; no champion: only the absolute rules apply.
    challenger, champion : str
        How the decision names them, e.g. ``name/version``.
    card : str
        The challenger's model card; None: there is none.

    Notes
    -----
    In the paired comparison a case that could not be scored, or a structure that one side lacks, counts as worst: Dice
    and NSD 0, distances the diagonal of the image, probabilities all wrong. Nothing to find and nothing found is 1.
    """
    rules = [_enough(new, gate), _failures(new, gate), _unseen(new), *_floors(new, gate)]
    if old is not None:
        same = _same_test(new, old)
        rules.append(same)
        rules += _comparisons(new, old, gate, seed) if same["passed"] else []
    rules += _subgroups(new, old, gate)
    rules += [_card(card)] if gate.require_card else []
    lost = [str(rule["reason"]) for rule in rules if not rule["passed"]]
    against = f" against {champion}" if champion and old is not None else "; there is no champion to compare with"
    return Decision(
        promoted=not lost,
        model=challenger.split("/")[0],
        challenger=challenger,
        champion=champion,
        test_digest=new.evaluation.summary.test_digest,
        rules=tuple(rules),
        reason=("not promoted: " + "; ".join(lost) if lost else f"promoted: all {len(rules)} rules pass{against}")
        + _favoured(old),
        decided=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def answered(decision: Decision, signature: Signature | None, *, minutes: float) -> Decision:
    """Return a decision with a person's answer; a rejection, or none within ``minutes``, stops the promotion."""
    if signature is None:
        reason = f"not promoted: nobody answered within {minutes:g} minutes; the gate itself said: {decision.reason}"
        return decision.model_copy(update={"promoted": False, "reason": reason})
    verb = "approved" if signature.approved else "rejected"
    start = decision.reason if signature.approved else f"not promoted, although the gate said: {decision.reason}"
    reason = f"{start}; {verb} by {signature.name}: {signature.reason}"
    return decision.model_copy(update={"promoted": signature.approved, "reason": reason, "signature": signature})


def _rule(name: str, passed: bool, value: float | None, limit: float | None, reason: str) -> Rule:
    return {"rule": name, "passed": bool(passed), "value": value, "limit": limit, "reason": reason}


def _enough(new: Judged, gate: GateConfig) -> Rule:
    found = new.evaluation.summary.n
    text = f"{found} test cases were scored, at least {gate.min_cases} are needed"
    return _rule("test cases", found >= gate.min_cases, float(found), float(gate.min_cases), text)


def _failures(new: Judged, gate: GateConfig) -> Rule:
    total = len(new.table)
    share = (total - len(scored(new.table))) / total if total else 1.0
    text = f"{share:.1%} of {total} test cases could not be scored, at most {gate.max_failed:.1%} may"
    return _rule("failed cases", share <= gate.max_failed, share, gate.max_failed, text)


def _unseen(new: Judged) -> Rule:
    seen, total = new.seen, len(new.table)
    known = "nobody knows which of the test cases the challenger learned from"
    text = known if seen is None else f"the challenger learned from {seen} of the {total} test cases, none is allowed"
    return _rule("unseen test cases", not seen, None if seen is None else float(seen), 0.0, text)


def _favoured(old: Judged | None) -> str:
    """Return a remark on a champion that learned from test cases: it wins more than it should, never less."""
    if old is None or not old.seen:
        return ""
    return (
        f" (the champion learned from {old.seen} of the {len(old.table)} test cases, which favours it: compare both on "
        "a dataset that neither has seen, with --on)"
    )


def _floors(new: Judged, gate: GateConfig) -> list[Rule]:
    """Return one rule per absolute bound; what the other task's models have is no bound for this one."""
    rules = []
    metrics, foreign = new.evaluation.summary.metrics, _OTHER_TASK[new.evaluation.task]
    for metric, floor in gate.floors.items():
        value = metrics.get(metric)
        text = f"{metric} is {_text(value)}, at least {floor:.3f} is needed"
        rules.append(_rule(f"floor {metric}", value is not None and value >= floor, value, floor, text))
    for metric, ceiling in gate.ceilings.items():
        if metric in foreign:
            continue
        value = metrics.get(metric)
        text = f"{metric} is {_text(value)}, at most {ceiling:.3f} is accepted"
        rules.append(_rule(f"ceiling {metric}", value is not None and value <= ceiling, value, ceiling, text))
    return rules


def _card(card: str | None) -> Rule:
    missing = missing_sections(card or "")
    text = "the model card is complete"
    if missing:
        text = f"the model card says nothing under {', '.join(missing)}: fill in card: in the experiment's YAML"
    return _rule("model card", not missing, float(len(missing)), 0.0, text)


def _same_test(new: Judged, old: Judged) -> Rule:
    digests = [judged.evaluation.summary.test_digest for judged in (new, old)]
    cases = [set(judged.table["case_id"]) for judged in (new, old)]
    same = digests[0] == digests[1] and cases[0] == cases[1]
    if digests[0] != digests[1]:
        text = (
            f"the challenger was tested on {digests[0][:12]}, the champion on {digests[1][:12]}: evaluate both on one "
            "(medml promote MODEL --on DATASET)"
        )
    elif not same:
        text = f"the two tables share {len(cases[0] & cases[1])} of {len(cases[0] | cases[1])} test cases"
    else:
        text = f"both were tested on {digests[0][:12]}, {len(cases[0])} cases"
    return _rule("same test set", same, None, None, text)


def _comparisons(new: Judged, old: Judged, gate: GateConfig, seed: int) -> list[Rule]:
    """Return one non-inferiority rule per metric of the task, over the same resamples of patients."""
    after, before = (judged.table.sort_values("case_id").reset_index(drop=True) for judged in (new, old))
    draws = Resamples(after["patient"].to_numpy(), seed=seed)
    rules = []
    for metric, margin in gate.margins.items():
        if metric in _OTHER_TASK[new.evaluation.task]:
            continue
        spreads = [_measure(table, new.evaluation, metric, draws) for table in (after, before)]
        if spreads[0] is None or spreads[1] is None:
            text = f"{metric} is in the gate but not in both tables of cases"
            rules.append(_rule(f"non-inferior {metric}", False, None, -margin, text))
            continue
        gap = spreads[0].minus(spreads[1])
        rules.append(_non_inferior(metric, gap.turned() if metric.startswith(("hd95", "assd")) else gap, margin))
    if not rules:
        text = (
            f"the gate compares {', '.join(gate.margins) or 'nothing'}: nothing that a {new.evaluation.task} model has"
        )
        rules.append(_rule("non-inferior", False, None, None, text))
    return rules


def _non_inferior(metric: str, gap: Spread, margin: float) -> Rule:
    interval: Interval = gap.interval()
    if interval.too_few:
        text = f"{metric} cannot be compared: {gap.events} patients count, at least {MIN_PATIENTS} are needed"
        return _rule(f"non-inferior {metric}", False, _finite(interval.value), -margin, text)
    text = (
        f"{metric} differs by {interval.value:+.4f} (95 % {interval.low:+.4f} to {interval.high:+.4f}; positive is "
        f"better), the lower end must stay above {-margin:+.4f}"
    )
    return _rule(f"non-inferior {metric}", interval.low > -margin, interval.low, -margin, text)


def _measure(table: pd.DataFrame, evaluation: Evaluation, metric: str, draws: Resamples) -> Spread | None:
    """Return a metric with its resamples over every case of the table, the failed ones as worst."""
    if metric == "auroc":
        if "truth" not in table:
            return None
        multi_label = any(str(column).startswith("truth_") for column in table)
        scores = class_scores(table, evaluation.labels, multi_label=multi_label)
        unknown = np.isnan(scores.probabilities)
        wrong = np.where(unknown, ~scores.truth, scores.probabilities)
        return replace(scores, probabilities=wrong).ranking(weighted_auroc, draws)
    column = "dice" if metric == "dice_mean" else metric
    if column not in table:
        return None
    return draws.mean(_complete(table, column))


def _complete(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column without NaN: what both sides lack is perfect, what one side lacks or what failed is worst."""
    kind, _, key = column.partition("_")
    distance = kind in ("hd95", "assd")
    diagonal = table.get("diagonal_mm", pd.Series(np.nan, index=table.index)).astype(float)
    worst = diagonal.fillna(diagonal.max()) if distance else pd.Series(0.0, index=table.index)
    one_sided = sum((table.get(f"{side}_{key}", 0) for side in ("missed", "false")), pd.Series(0.0, index=table.index))
    lost = (table["status"] != "done") | (one_sided > 0)
    filled = table[column].where(~lost | table[column].notna(), worst).fillna(0.0 if distance else 1.0)
    return filled.to_numpy(dtype=float)


def _subgroups(new: Judged, old: Judged | None, gate: GateConfig) -> list[Rule]:
    """Return one rule per subgroup with enough patients: above its floor, not far below the champion's value."""
    champion = {(g.column, g.level, g.metric): g.value for g in old.evaluation.subgroups} if old else {}
    rules = []
    for group in new.evaluation.subgroups:
        if group.metric not in gate.subgroup_floors or group.value is None or group.low is None:
            continue
        floor, before = gate.subgroup_floors[group.metric], champion.get((group.column, group.level, group.metric))
        limit = floor if before is None else max(floor, before - gate.subgroup_drop)
        text = (
            f"{group.metric} is {group.value:.3f} where {group.column} is {group.level} ({group.patients} patients), "
            f"at least {limit:.3f} is needed" + ("" if before is None else f" (the champion has {before:.3f})")
        )
        name = f"subgroup {group.column}={group.level} {group.metric}"
        rules.append(_rule(name, group.value >= limit, group.value, limit, text))
    return rules


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
