"""Every file below a source, and which of them nobody has taken yet."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medml.catalogue.config import IngestConfig, collection_of
from medml.errors import ConfigError, Refusal
from medml.io.files import source_stamp
from medml.records.scan import Outcome


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
    ignored : list of Outcome
        What the walk itself sets aside: hidden files, links that leave the source, pipes and devices.
    """

    def __init__(self, source: Path, config: IngestConfig) -> None:
        self.config = config
        self.collection = collection_of(source, config)
        self.single = ""
        self.left: dict[str, Path | None] = {}
        self.ignored: list[Outcome] = []
        self._taken: set[str] = set()
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

    def stamp(self, files: Iterable[Path], facts: Any = None) -> str:
        """Return a sha256 that changes when the files or the facts that go with them do.

        A file that has gone since the walk counts as absent; reading it will be refused.
        """
        there = [file for file in files if file.exists()]
        digest = hashlib.sha256(source_stamp(self.root, there).encode())
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _walk(self, source: Path) -> None:
        problems: list[OSError] = []
        for folder, folders, files in os.walk(self.root, onerror=problems.append):
            folders.sort()
            for name in [name for name in folders if os.path.islink(os.path.join(folder, name))]:
                folders.remove(name)
                self._ignore(folder, name, "link", "a link to a folder; its files are read where they lie")
            for name in [name for name in folders if name.startswith(".")]:
                folders.remove(name)
                count = sum(len(files) for _, _, files in os.walk(os.path.join(folder, name)))
                self._ignore(folder, name, "hidden", "a hidden folder", files=count)
            for name in files:
                self._see(folder, name)
        for problem in problems:
            if problem.filename == str(self.root):
                raise ConfigError(f"{source}: cannot be listed ({problem.strerror}); check its permissions")
            self._note(
                os.path.relpath(problem.filename, self.root), "refused", "unreadable", "cannot be listed", files=0
            )
        self.left = dict(sorted(self.left.items()))
        if not self.left and not self.ignored:
            raise ConfigError(f"{source}: the folder is empty; expected scans")

    def _see(self, folder: str, name: str) -> None:
        path = os.path.join(folder, name)
        if name.startswith("."):
            return self._ignore(folder, name, "hidden", "a hidden file")
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                return self._see_link(folder, name)
        except OSError as error:
            return self._note(os.path.relpath(path, self.root), "refused", "unreadable", f"{error.strerror}")
        if not stat.S_ISREG(status.st_mode):
            return self._ignore(folder, name, "not_a_regular_file", "a pipe, socket or device")
        self.left[os.path.relpath(path, self.root)] = None
        return None

    def _see_link(self, folder: str, name: str) -> None:
        """Follow a link only to a regular file of this source that the walk does not see by itself."""
        target = Path(os.path.realpath(os.path.join(folder, name)))
        if not target.is_file():
            return self._ignore(folder, name, "link", "a link that leads to no file")
        if not target.is_relative_to(self.root):
            return self._ignore(folder, name, "link", "a link that leaves the source; copy the file into it")
        hidden = any(part.startswith(".") for part in target.relative_to(self.root).parts)
        if not hidden:
            return self._ignore(folder, name, "link", "a link to a file that is read where it lies")
        self.left[os.path.relpath(os.path.join(folder, name), self.root)] = target
        return None

    def _ignore(self, folder: str, name: str, code: str, reason: str, *, files: int = 1) -> None:
        self._note(os.path.relpath(os.path.join(folder, name), self.root), "ignored", code, reason, files=files)

    def _note(self, relative: str, outcome: str, code: str, reason: str, *, files: int = 1) -> None:
        self.ignored.append(outcome_of(printable(relative), outcome, code, reason, files=files))


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
