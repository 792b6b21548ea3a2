"""docs/quality.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from medml.catalogue.quality_rules import RULES, QualityLimits

PAGE = (Path(__file__).parents[1] / "docs" / "quality.md").read_text(encoding="utf-8")


def test_the_table_of_codes_is_that_of_the_code() -> None:
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in PAGE.splitlines() if "| `" in line]
    told = {row[0].strip("` "): row[1:] for row in rows}
    assert told == {code: (rule.severity, rule.meaning, rule.threshold, rule.advice) for code, rule in RULES.items()}


def test_thresholds_name_keys_that_exist() -> None:
    named = {key for rule in RULES.values() for key in re.findall(r"`([a-z_]+)`", rule.threshold)}
    assert named < set(QualityLimits.model_fields)
    assert set(QualityLimits.model_fields) - named == {"shown_scans"}
