"""What one de-identification did: the record behind ``reports/deidentify-<UTC time>.json``."""

from __future__ import annotations

from medml.records.record import Record
from medml.records.scan import Outcome


class DeidentifyCounts(Record):
    """How many files were seen; files = written + known + duplicate + held + refused + ignored.

    Attributes
    ----------
    written : int
        De-identified and written now.
    known : int
        Written by an earlier run and unchanged since.
    duplicate : int
        Exact copies of files that were written.
    held : int
        In quarantine, because the pixels may show a name.
    """

    files: int = 0
    written: int = 0
    known: int = 0
    duplicate: int = 0
    held: int = 0
    refused: int = 0
    ignored: int = 0
    patients: int = 0


class DeidentifyReport(Record):
    """Every file with its outcome, and what was done to which attribute; names sources, so it is kept 0600.

    Attributes
    ----------
    edition : str
        Of PS3.15.
    options : tuple of str
        The options that were on.
    actions : dict
        ``"<keywords of the path> <action>"`` to number of files in which the attribute was so treated; no values.
        ``X item`` is a content item that was left out.
    audit : str
        Where the lines per file are.
    """

    edition: str
    options: tuple[str, ...]
    counts: DeidentifyCounts
    codes: dict[str, int]
    actions: dict[str, int]
    outcomes: tuple[Outcome, ...]
    audit: str
    started: str
    finished: str
