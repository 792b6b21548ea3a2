"""What is held back because its pixels may show a name, and who let it through. Private: kept among the secrets."""

from __future__ import annotations

from medml.records.record import Record


class Held(Record):
    """Files that were not taken.

    Attributes
    ----------
    id : str
        ``q-`` and 16 hex digits; says nothing about the files to others.
    code : str
        Reason code, e.g. ``secondary_capture``.
    files : tuple of str
        sha256 of each file's bytes.
    held : str
        When, UTC, ISO 8601.
    """

    id: str
    code: str
    files: tuple[str, ...]
    held: str


class Release(Record):
    """A person's word that the files of an entry show no name.

    Attributes
    ----------
    by : str
        Who looked at them.
    note : str
        In that person's words.
    released : str
        When, UTC, ISO 8601.
    """

    id: str
    code: str
    files: tuple[str, ...]
    by: str
    note: str = ""
    released: str
