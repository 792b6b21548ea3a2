"""Results to a PACS: what it acknowledged is written down and not sent again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medml.io.files import sha256_file
from medml.io.pacs.archive import Archive, PacsError
from medml.io.pacs.journal import Journal

AT_ONCE = 50  # files that go in one association


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of the objects of one batch.

    Attributes
    ----------
    sent, known : int
        Acknowledged now, and before.
    failed : dict
        Why, by relative path; those of a group after a failed one were not tried.
    """

    sent: int
    known: int
    failed: Mapping[str, str]


def push(
    archive: Archive,
    folder: Path,
    wanted: Mapping[str, str],
    journal: Journal,
    on_file: Callable[[], object] | None = None,
) -> Pushed:
    """Send files that the journal does not know as acknowledged with the content they have.

    Parameters
    ----------
    folder : Path
        Of the batch.
    wanted : mapping
        Relative path of each file to its sha256, as the ledger has them; a file that changed since is not sent.
    on_file : callable, optional
        Told of each that is acknowledged.
    """
    acknowledged = journal.read()
    new = {name: digest for name, digest in wanted.items() if acknowledged.get(name) != digest}
    changed = {name for name in new if not _is(folder / name, new[name])}
    failed = dict.fromkeys(changed, "it is not the file that the ledger knows; run the batch again")
    names = sorted(new.keys() - changed)
    sent: list[str] = []

    def note(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        journal.add(name, new[name])
        sent.append(name)
        if on_file is not None:
            on_file()

    for start in range(0, len(names), AT_ONCE):
        group = names[start : start + AT_ONCE]
        try:
            archive.send([folder / name for name in group], note)
        except PacsError as error:
            failed |= {name: str(error) for name in group if name not in sent}
    return Pushed(len(sent), len(wanted) - len(new), failed)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest
