"""The list of a batch's scans on disk, a page a file, so that any worker that sees the home can read any of them.

Candidates name patients' files, so the list is its owner's alone, among the home's secrets, and goes when the run ends;
what a killed run leaves is swept by the next.
"""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medml.errors import MedmlError
from medml.io.files import sweep_temporary, temporary_path, write_atomic
from medml.records.candidate import Candidate
from medml.records.home import Home

PAGE = 64
MODE = 0o600
_NAME = re.compile(r"\.lists\.[0-9a-f]{8}-[0-9]+-[0-9]+-[0-9a-f]{8}\.tmp")


@contextmanager
def new_listing(home: Home) -> Iterator[Listing]:
    """Give an empty list that only its owner may open; removed at the end."""
    home.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep_temporary(home.secrets)
    folder = temporary_path(home.secrets / "lists")
    folder.mkdir(mode=0o700)
    try:
        yield Listing(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_listing(home: Home, name: str) -> Listing:
    """Return the list of this name.

    Raises
    ------
    MedmlError
        If there is none, or this is no name of one.
    """
    if not _NAME.fullmatch(name):
        raise MedmlError(f"{name!r} is not the name of a list of scans; it is made by the batch that starts workers")
    if not (home.secrets / name).is_dir():
        raise MedmlError(f"{name}: there is no such list in this home; do all machines see one home?")
    return Listing(home.secrets / name)


class Listing:
    """Candidates by their number, read a page at a time.

    Attributes
    ----------
    folder : Path
        Where it lies; its name, which says nothing, is what travels between processes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._page: tuple[int, Sequence[Candidate | None]] = (-1, ())

    def write(self, page: int, items: Sequence[Candidate | None]) -> None:
        """Write a page: what has the numbers from ``page * PAGE`` on; None for what is no candidate."""
        content = pickle.dumps(list(items), protocol=5)
        write_atomic(self._path(page), lambda path: path.write_bytes(content), mode=MODE)

    def candidate(self, number: int) -> Candidate:
        """Return the candidate of a number.

        Raises
        ------
        MedmlError
            If there is none.
        """
        page, place = divmod(number, PAGE)
        if self._page[0] != page:
            path = self._path(page)
            if not path.exists():
                raise MedmlError(f"page {page} of the list of scans is not there; the run that wrote it is over")
            self._page = (page, pickle.loads(path.read_bytes()))  # noqa: S301 - ours: the folder is its owner's alone
        items = self._page[1]
        found = items[place] if place < len(items) else None
        if found is None:
            raise MedmlError(f"number {number} of the list of scans is no scan to be read")
        return found

    def _path(self, page: int) -> Path:
        return self.folder / f"{page}.page"
