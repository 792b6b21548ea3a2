from __future__ import annotations

import pytest

from medml.catalogue.columns import clean, clean_text, columns_left, keep_columns, meaning_of, split_of


@pytest.mark.parametrize(("text", "sex"), [("male", "M"), ("F", "F"), ("Other", "O"), ("", None), ("unknown", None)])
def test_sex_has_one_form(text: str, sex: str | None) -> None:
    assert clean("sex", text) == sex


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("63", 63),
        ("063Y", 63),
        ("6M", 0.5),
        ("89", 89),
        ("90", 90),
        ("89.5", 90),
        ("101", 90),
        ("999", None),
        ("x", None),
    ],
)
def test_age_is_in_years_and_capped_at_90(text: str, age: float | None) -> None:
    assert clean("age", text) == age


def test_only_allow_listed_columns_are_kept() -> None:
    facts = {"Patient Age": "41", "Gender": "f", "patient_name": "Doe^Jane", "StudyDate": "20200101", "view": "PA"}
    assert keep_columns(facts) == {"age": 41, "sex": "F", "view": "PA"}


def test_text_is_short_and_printable() -> None:
    assert clean_text("a\x1b[31m\nb") == "a [31m b"
    assert len(clean_text("x" * 200)) == 64


def test_headers_without_known_meaning_are_told() -> None:
    assert columns_left(("image", "sex", "finding"), ("image",)) == ("finding",)


def test_words_for_splits_have_one_form() -> None:
    assert [split_of(word) for word in ("Training", "valid", "TEST", "lung")] == ["train", "val", "test", None]


def test_header_meaning_ignores_case_and_separators() -> None:
    assert meaning_of("Patient's Sex") is None
    assert meaning_of("PATIENT_SEX") == "sex"
