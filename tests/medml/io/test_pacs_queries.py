"""Words for dates become what DICOM matches, and a query names nobody."""

from __future__ import annotations

from datetime import date

import pytest

from medml.config import validate
from medml.errors import ConfigError
from medml.io.pacs.archive import Query
from medml.io.pacs.queries import QueryConfig, study_dates

TODAY = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("today", "20260301"),
        ("yesterday", "20260228"),
        ("last-1-days", "20260301-20260301"),
        ("last-7-days", "20260223-20260301"),
        ("2026-01-31", "20260131"),
        ("20260131", "20260131"),
        ("20260101-20260131", "20260101-20260131"),
        ("20260101-", "20260101-"),
        ("-20260131", "-20260131"),
        ("any", ""),
    ],
)
def test_words_for_dates_become_study_dates(text: str, expected: str) -> None:
    assert study_dates(text, TODAY) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tomorrow", "expected today, yesterday, last-7-days"),
        ("-", "expected today, yesterday"),
        ("", "expected today, yesterday"),
        ("last-0-days", "expected today"),
        ("20260230", "there is no such day"),
        ("20260131-20260101", "the range ends before it begins"),
    ],
)
def test_a_date_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        study_dates(text, TODAY)


def test_a_query_of_a_yaml_is_asked_on_a_day() -> None:
    asked = QueryConfig(modality="CT", dates="last-2-days", body_part="ABDOMEN", description="*venous*")
    assert asked.query(TODAY) == Query(
        modality="CT", dates="20260228-20260301", body_part="ABDOMEN", description="*venous*"
    )
    with pytest.raises(ConfigError, match=r"dates: .*expected today, yesterday"):
        validate({"dates": "never"}, QueryConfig, name="query")
    with pytest.raises(ConfigError, match="there is no such key"):
        validate({"patient": "1"}, QueryConfig, name="query")
