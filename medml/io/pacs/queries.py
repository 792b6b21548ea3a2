"""What is asked of a PACS, in words that do not age: ``today`` and ``last-7-days`` beside dates."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from pydantic import Field, field_validator

from medml.config import Config
from medml.errors import ConfigError
from medml.io.pacs.archive import Query

CODE = r"^[A-Z0-9_ ]{0,16}$"
_DAYS = re.compile(r"last-([1-9][0-9]{0,3})-days")
_SINGLE = re.compile(r"\d{8}|\d{4}-\d{2}-\d{2}")
_RANGE = re.compile(r"(\d{8})?-(\d{8})?")


class QueryConfig(Config):
    """Which series are wanted. It names no patient: a flow may be given its name.

    Attributes
    ----------
    modality, body_part : str
        As DICOM writes them, such as CT and ABDOMEN; empty for any.
    dates : str
        Of the study: see `study_dates`.
    description : str
        SeriesDescription; ``*`` and ``?`` stand for anything.
    """

    modality: str = Field("", pattern=CODE)
    dates: str = "today"
    body_part: str = Field("", pattern=CODE)
    description: str = Field("", max_length=64)

    @field_validator("dates")
    @classmethod
    def _says_a_date(cls, text: str) -> str:
        try:
            study_dates(text, date.today())
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return text

    def query(self, today: date) -> Query:
        """Return what is asked on a day."""
        return Query(
            modality=self.modality,
            dates=study_dates(self.dates, today),
            body_part=self.body_part,
            description=self.description,
        )


def study_dates(text: str, today: date) -> str:
    """Return StudyDate as DICOM matches it.

    Parameters
    ----------
    text : str
        ``today``, ``yesterday``, ``last-7-days`` (today and the six days before), ``2026-01-31``, ``20260131``, a
        range ``20260101-20260131`` with one end perhaps open, or ``any``.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    if text == "any":
        return ""
    if text in ("today", "yesterday"):
        return f"{today - timedelta(days=text == 'yesterday'):%Y%m%d}"
    if days := _DAYS.fullmatch(text):
        return f"{today - timedelta(days=int(days[1]) - 1):%Y%m%d}-{today:%Y%m%d}"
    if _SINGLE.fullmatch(text):
        return _day(text)
    ends = _RANGE.fullmatch(text)
    if ends is None or not any(ends.groups()):
        raise ConfigError(
            f"date {text!r}: expected today, yesterday, last-7-days, 2026-01-31, 20260101-20260131 or any"
        )
    first, last = (end and _day(end) for end in ends.groups())
    if first and last and first > last:
        raise ConfigError(f"date {text!r}: the range ends before it begins")
    return f"{first or ''}-{last or ''}"


def _day(text: str) -> str:
    try:
        return f"{datetime.strptime(text.replace('-', ''), '%Y%m%d'):%Y%m%d}"
    except ValueError:
        raise ConfigError(f"date {text!r}: there is no such day") from None
