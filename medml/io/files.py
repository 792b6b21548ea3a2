"""Atomic files, digests and pseudonyms: what every other format stands on."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from medml.errors import ConfigError, MedmlError, NotFound, Refusal
from medml.records.record import Record
from medml.records.scan import Volume

MAX_RECORD_BYTES = 1 << 28
KEY_BYTES = 32
CHUNK_BYTES = 4 << 20

RecordT = TypeVar("RecordT", bound=BaseModel)


def write_atomic(path: Path, write: Callable[[Path], object], *, mode: int = 0o644) -> None:
    """Make a file that is either complete and durable under its name, or not there.

    Parameters
    ----------
    path : Path
        Where the file goes; its folder is made if absent.
    write : callable
        Writes the content to the temporary path it is given (an empty file of ``mode`` in the same folder).
    mode : int
        Permissions, before the umask.

    Raises
    ------
    MedmlError
        If the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    with clear_disk_errors(path):
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode))
            write(temporary)
            sync_path(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_path(path.parent)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")), mode=mode)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write ``value`` as JSON with sorted keys, atomically; NaN is not JSON and is refused."""
    write_text(path, dump_json(value), mode)


def write_record(path: Path, record: Record, mode: int = 0o644) -> None:
    """Write a record as JSON with sorted keys, atomically."""
    write_text(path, dump_record(record), mode)


def dump_json(value: Any) -> str:
    """Return the one JSON text that stands for ``value``."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def dump_record(record: Record) -> str:
    """Return the one JSON text that stands for ``record``."""
    return dump_json(json.loads(record.model_dump_json()))


def read_record(path: Path, schema: type[RecordT]) -> RecordT:
    """Read a record back.

    Raises
    ------
    NotFound
        If there is no such file.
    MedmlError
        If the file is too large, or is not a record of this kind.
    """
    try:
        size = path.stat().st_size
        if size > MAX_RECORD_BYTES:
            raise MedmlError(f"{path.name}: {size} bytes, expected at most {MAX_RECORD_BYTES}; not one of our records")
        return schema.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path.name}: there is no such file; it was moved, or never written") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "(top level)"
        raise MedmlError(
            f"{path.name}: not a {schema.__name__} ({where}: {first['msg']}; {error.error_count()} problems); "
            "the file is damaged or of another version"
        ) from None


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside ``path`` that tells which process owns it, for `sweep_temporary`."""
    return path.with_name(
        f".{path.name[:120]}.{_place()}-{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}.tmp"
    )


def sweep_temporary(folder: Path) -> int:
    """Remove what killed processes left under temporary names directly in ``folder``; return how many.

    A name of another machine (or container) is left alone until it is a day old: its owner cannot be asked.
    """
    swept = 0
    if not folder.is_dir():
        return swept
    for entry in os.scandir(folder):
        if entry.name.startswith(".") and entry.name.endswith(".tmp") and is_abandoned(entry):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)
            swept += 1
    return swept


def is_abandoned(entry: os.DirEntry[str] | Path) -> bool:
    """Say whether the process that a temporary name belongs to is gone; of another machine, whether it is a day old."""
    parts = entry.name.removesuffix(".tmp").rpartition(".")[2].split("-")
    if len(parts) != 4 or not parts[1].isdigit():
        return False
    if parts[0] == _place():
        return _started(int(parts[1])) != parts[2]
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > 86400
    except FileNotFoundError:
        return False


def sync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: Path) -> bool:
    """Wait until everything written to the file system of ``path`` is on the disk; say whether that could be asked.

    One such wait is cheaper than one for each of many small files.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if call(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
    return True


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; anything but a regular file (a pipe, a device, a folder) is refused without blocking.

    A symbolic link is refused too: the walk, which knows the input's root, gives what a link that may be followed
    leads to.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refusal("link", "found a link in the place of the file; copy the file into the source") from None
        raise Refusal(
            "unreadable", f"the file cannot be opened ({error.strerror}); check permissions and links"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refusal("not_a_regular_file", "found a pipe, device or folder, expected a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_stamp(root: Path, files: Iterable[Path]) -> str:
    """Return a sha256 over relative paths, sizes and modification times: changes when the files do."""
    digest = hashlib.sha256()
    for name, file in sorted((os.path.relpath(file, root), file) for file in files):
        status = os.stat(file)
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def content_digest(volume: Volume) -> str:
    """Return the sha256 of what a canonical volume is, whatever dtype or memory order holds it.

    Hashed are the shape, the voxels and the affine. The voxels are taken as int16 where every value fits, else as
    float32, else as float64, so that equal values of different dtypes agree. The affine is taken as the float32 that
    a NIfTI file keeps, rounded to 1e-5, so that a volume and its stored file agree.
    """
    digest = hashlib.sha256()
    affine = np.round(np.asarray(volume.affine).astype(np.float32).astype(np.float64), 5) + 0.0
    digest.update(affine.astype("<f8").tobytes())
    _hash_voxels(digest, volume.voxels)
    return digest.hexdigest()


def mask_digest(mask: np.ndarray) -> str:
    """Return the sha256 of a canonical label mask (I, J, K), whatever integer or float dtype holds it."""
    digest = hashlib.sha256()
    _hash_voxels(digest, mask)
    return digest.hexdigest()


class Pseudonyms:
    """Private names by HMAC-SHA-256: stable under one key, not to be guessed or reversed without it.

    Parameters
    ----------
    key_file : Path
        32 bytes, 0600. Made if absent, by exactly one of any processes that try at once.

    Raises
    ------
    ConfigError
        If the key file has another length, or others may read it.
    """

    def __init__(self, key_file: Path) -> None:
        if not key_file.exists():
            _make_key(key_file)
        status = key_file.stat()
        if status.st_mode & 0o077:
            raise ConfigError(f"{key_file}: others may read the key (mode {status.st_mode & 0o777:o}); chmod it to 600")
        self._key = key_file.read_bytes()
        if len(self._key) != KEY_BYTES:
            raise ConfigError(
                f"{key_file}: found {len(self._key)} bytes, expected {KEY_BYTES}; "
                "restore the key from a backup (a new key means new pseudonyms)"
            )

    def patient(self, issuer: str, patient_id: str) -> str:
        """Name a patient; blanks around the id do not matter."""
        return f"p-{self._code('patient', issuer.strip(), patient_id.strip())[:16]}"

    def study(self, uid: str) -> str:
        """Name a study."""
        return f"s-{self._code('study', uid.strip())[:16]}"

    def group(self, text: str) -> str:
        """Name what belongs together as one case."""
        return f"g-{self._code('group', text)[:16]}"

    def scan_id(self, source: str, content: str) -> str:
        """Name a scan by where it comes from and what it holds: 24 hex digits."""
        return self._code("scan", source, content)[:24]

    def uid(self, uid: str) -> str:
        """Return the UID that stands for another: ``2.25.`` and 128 bits as a decimal number (PS3.5 B.2)."""
        return f"2.25.{int(self._code('uid', uid.strip())[:32], 16)}"

    def file(self, text: str) -> str:
        """Name an output file or folder: 24 hex digits."""
        return self._code("file", text)[:24]

    def days(self, issuer: str, patient_id: str) -> int:
        """Return by how many days a patient's dates move back: the same from 1 to 3652 for all of them."""
        return 1 + int(self._code("days", issuer.strip(), patient_id.strip())[:16], 16) % 3652

    def _code(self, *parts: str) -> str:
        message = b"".join(
            len(encoded).to_bytes(8, "big") + encoded
            for encoded in (part.encode("utf-8", "surrogateescape") for part in parts)
        )
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def _make_key(key_file: Path) -> None:
    """Make a key under its final name by a hard link, which only one process can win."""
    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = temporary_path(key_file)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_BYTES))
        os.fsync(descriptor)
        os.link(temporary, key_file)
        sync_path(key_file.parent)
    except FileExistsError:
        return
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _hash_voxels(digest: hashlib._Hash, voxels: np.ndarray) -> None:
    """Feed shape, canonical type and values, the last axis slowest, in pieces that need little memory."""
    kind = _canonical_type(voxels)
    digest.update(f"{voxels.shape}{kind}".encode())
    slabs = max(1, CHUNK_BYTES // max(1, voxels[..., :1].size * np.dtype(kind).itemsize))
    for first in range(0, voxels.shape[-1], slabs):
        piece = voxels[..., first : first + slabs].T.astype(kind, order="C")
        if kind != "<i2":
            piece += 0.0  # -0.0 becomes 0.0
        digest.update(piece.data)


def _canonical_type(voxels: np.ndarray) -> str:
    if voxels.size == 0 or voxels.dtype in (np.bool_, np.int8, np.uint8, np.int16):
        return "<i2"
    if voxels.dtype.kind in "iu":
        least, most = int(voxels.min()), int(voxels.max())
        if least >= -(2**15) and most < 2**15:
            return "<i2"
        return "<f4" if max(-least, most) <= 2**24 or _all_equal(voxels, np.float32) else "<f8"
    low, high = float(voxels.min()), float(voxels.max())
    if low >= -(2**15) and high < 2**15 and _all_equal(voxels, np.int16):
        return "<i2"
    return "<f4" if voxels.dtype.itemsize <= 4 or _all_equal(voxels, np.float32) else "<f8"


def _all_equal(voxels: np.ndarray, kind: type) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return all(np.array_equal(slab, slab.astype(kind).astype(np.float64)) for slab in np.moveaxis(voxels, -1, 0))


def _place() -> str:
    """Return a short code for this machine and process namespace."""
    namespace = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{socket.gethostname()}\0{namespace}".encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "0" if it does not exist or cannot be asked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, while ``path`` is being written, into a message with the free space."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free
        raise MedmlError(
            f"{path.name}: the disk is full ({free} bytes free); nothing was left half written, "
            "free space and run again"
        ) from error
