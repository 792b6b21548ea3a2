"""Every file below a source, and which of them nobody has taken yet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medml.catalogue.config import IngestConfig, collection_of
from medml.catalogue.quarantine import Quarantine
from medml.errors import ConfigError, Refusal
from medml.io.files import source_stamp
from medml.records.candidate import FileState
from medml.records.scan import Outcome

MAX_DEPTH = 32


class Tree:
    """The files of one source by their path relative to it; layouts take from it what they understand.

    Attributes
    ----------
    config, collection
        How the source is read, and what its scans belong to.
    root : Path
        The source folder, resolved; the folder of a source that is one file.
    single : str
        The file's name when the source is one file, else empty.
    left : dict
        Relative path (``/`` between folders) of every file that no layout has taken, sorted; the value is where a
        link leads, None for a plain file.
    issuers : set of str
        Of the patient ids that its DICOM headers hold; empty text for none.
    ignored : list of Outcome
        What the walk itself sets aside: hidden files, links that leave the source, pipes and devices.
    quarantine : Quarantine or None
        What is held back, and what a person has released; None where nothing is kept, as for inference.
    """

    def __init__(self, source: Path, config: IngestConfig, quarantine: Quarantine | None = None) -> None:
        self.config = config
        self.quarantine = quarantine
        self.collection = collection_of(source, config)
        self.single = ""
        self.left: dict[str, Path | None] = {}
        self.ignored: list[Outcome] = []
        self.issuers: set[str] = {""}
        self._taken: set[str] = set()
        self._folders: dict[str, int] = {}
        try:
            resolved = source.resolve(strict=True)
        except FileNotFoundError:
            raise ConfigError(f"{source}: there is no such file or folder; check the path") from None
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"{source}: cannot be read ({error}); check the path and its links") from None
        if resolved.is_dir():
            self.root = resolved
            self._walk(source)
        elif resolved.is_file():
            self.root, self.single = resolved.parent, resolved.name
            self.left[resolved.name] = None
        else:
            raise ConfigError(f"{source}: neither a file nor a folder; expected scans, or a folder of scans")
        if not os.access(resolved, os.R_OK):
            raise ConfigError(f"{source}: may not be read by this user; check its permissions")

    def path(self, relative: str) -> Path:
        """Return where to open a file; a link is followed here, once."""
        return self.left.get(relative) or self.root / relative

    def take(self, relatives: Iterable[str]) -> int:
        """Mark files as accounted for; return how many were not so before."""
        new = {relative for relative in relatives if relative not in self._taken}
        self._taken |= new
        for relative in new:
            self.left.pop(relative, None)
        return len(new)

    def named(self, *suffixes: str, below: str = "") -> list[str]:
        """Return the files left whose lower-case name ends in one of ``suffixes``, in order."""
        prefix = f"{below}/" if below else ""
        return [name for name in self.left if name.startswith(prefix) and name.lower().endswith(suffixes)]

    def below(self, folder: str) -> list[str]:
        """Return the files left in ``folder`` and its folders."""
        return self.named("", below=folder)

    def inside(self, relative: str, *, base: str = "") -> str:
        """Return a path that a file of the source names, cleaned and relative to the root.

        Parameters
        ----------
        relative : str
            As written in the file.
        base : str
            Folder of that file, relative to the root.

        Raises
        ------
        Refusal
            If the path is empty, absolute, or leads out of the source, by dots or by links.
        """
        text = relative.strip().replace("\\", "/")
        check_path(text)
        joined = os.path.normpath(os.path.join(base, text)) if text else ""
        if not text or os.path.isabs(text) or joined.split("/")[0] == "..":
            raise Refusal("outside_source", "the path is empty, absolute or leaves the source; expected one inside it")
        if joined not in self.left and not (self.root / joined).resolve().is_relative_to(self.root):
            raise Refusal("outside_source", "a link in the path leaves the source; copy the files into it")
        return joined

    def folder_states(self, files: Iterable[Path]) -> tuple[FileState, ...]:
        """Return the folders that files lie in, with their modification times from before the walk listed them."""
        folders = sorted({str(file.parent) for file in files})
        return tuple((folder, -1, self._folders[folder]) for folder in folders if folder in self._folders)

    def stamp(self, files: Iterable[Path], facts: Any = None) -> str:
        """Return a sha256 that changes when the files or the facts that go with them do.

        A file that has gone since the walk counts as absent; reading it will be refused.
        """
        there = [file for file in files if file.exists()]
        digest = hashlib.sha256(source_stamp(self.root, there).encode())
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _walk(self, source: Path) -> None:
        """List all folders, none below `MAX_DEPTH`; links to folders are not followed, so there are no loops."""
        waiting = [("", 0)]
        while waiting:
            folder, depth = waiting.pop()
            path = os.path.join(self.root, folder) if folder else str(self.root)
            try:
                self._folders[path] = os.stat(path).st_mtime_ns
                with os.scandir(path) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                if not folder:
                    raise ConfigError(f"{source}: cannot be listed ({error.strerror}); check its permissions") from None
                self._note(folder, "refused", "unreadable", f"cannot be listed ({error.strerror})", files=0)
                continue
            below = [name for entry in entries if (name := self._see(folder, entry, depth))]
            waiting += [(name, depth + 1) for name in reversed(below)]
        self.left = dict(sorted(self.left.items()))
        if not self.left and not self.ignored:
            raise ConfigError(f"{source}: the folder is empty; expected scans")

    def _see(self, folder: str, entry: os.DirEntry[str], depth: int) -> str:
        """Note one entry; return it if it is a folder to list."""
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            if entry.is_symlink():
                if os.path.isdir(entry.path):
                    self._ignore(name, "link", "a link to a folder; its files are read where they lie")
                elif entry.name.startswith("."):
                    self._ignore(name, "hidden", "a hidden file")
                else:
                    self._see_link(name)
            elif entry.is_dir(follow_symlinks=False):
                if entry.name.startswith("."):
                    self._ignore(name, "hidden", "a hidden folder", files=_count_files(entry.path))
                elif depth >= MAX_DEPTH:
                    reason = f"folders are nested more than {MAX_DEPTH} deep; what lies in it is not read"
                    self._note(name, "refused", "too_deep", reason, files=_count_files(entry.path))
                else:
                    return name
            elif entry.name.startswith("."):
                self._ignore(name, "hidden", "a hidden file")
            elif not entry.is_file(follow_symlinks=False):
                self._ignore(name, "not_a_regular_file", "a pipe, socket or device")
            else:
                self.left[name] = None
        except OSError as error:
            self._note(name, "refused", "unreadable", f"{error.strerror}")
        return ""

    def _see_link(self, name: str) -> None:
        """Follow a link only to a regular file of this source that the walk does not see by itself."""
        target = Path(os.path.realpath(self.root / name))
        if not target.is_file():
            return self._ignore(name, "link", "a link that leads to no file")
        if not target.is_relative_to(self.root):
            return self._ignore(name, "link", "a link that leaves the source; copy the file into it")
        hidden = any(part.startswith(".") for part in target.relative_to(self.root).parts)
        if not hidden:
            return self._ignore(name, "link", "a link to a file that is read where it lies")
        self.left[name] = target
        return None

    def _ignore(self, name: str, code: str, reason: str, *, files: int = 1) -> None:
        self._note(name, "ignored", code, reason, files=files)

    def _note(self, name: str, outcome: str, code: str, reason: str, *, files: int = 1) -> None:
        self.ignored.append(outcome_of(printable(name), outcome, code, reason, files=files))


def _count_files(folder: str) -> int:
    """Count the files below a folder that is not read, `MAX_DEPTH` folders deep at most."""
    waiting, count = [(folder, 0)], 0
    while waiting:
        path, depth = waiting.pop()
        try:
            with os.scandir(path) as listing:
                for entry in listing:
                    if not entry.is_dir(follow_symlinks=False):
                        count += 1
                    elif depth < MAX_DEPTH:
                        waiting.append((entry.path, depth + 1))
        except OSError:
            continue  # what may not be listed is not counted; the folder itself has its outcome
    return count


def printable(relative: str) -> str:
    """Return a relative path as text that any report can hold; bytes that are not UTF-8 are escaped."""
    try:
        return os.fsencode(relative).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return relative.encode("utf-8", "backslashreplace").decode()


def check_path(text: str) -> None:
    """Refuse a text that must not even be asked of the file system."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded or len(encoded) >= 4096 or any(len(part) >= 256 for part in encoded.split(b"/")):
        raise Refusal("bad_path", "the path is no name that a file system can hold; correct it")


def set_aside(tree: Tree, relatives: Iterable[str], outcome: str, code: str, reason: str) -> Iterator[Outcome]:
    """Take files out of the tree, one outcome each."""
    for relative in list(relatives):
        yield outcome_of(printable(relative), outcome, code, reason, files=tree.take([relative]))


def outcome_of(source: str, outcome: str, code: str, reason: str, *, files: int = 1) -> Outcome:
    """Return an outcome without scans."""
    return Outcome.model_validate(
        {"source": source, "files": files, "outcome": outcome, "code": code, "reason": reason}
    )


def states_of(paths: Iterable[Path]) -> tuple[FileState, ...]:
    """Return size and modification time of files as they are now; one that has gone is left to its reader."""
    states = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        states.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(states)


def stem_of(relative: str) -> str:
    """Return a file's name without folder and image suffix (``.nii.gz`` is one suffix)."""
    name = relative.rpartition("/")[2]
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name.rpartition(".")[0] or name


def folder_of(relative: str) -> str:
    """Return the folder of a relative path, empty for the root."""
    return relative.rpartition("/")[0]
