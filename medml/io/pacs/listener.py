"""Images that are sent to us by C-STORE: kept before they are acknowledged, handed over a whole series at a time."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, evt
from pynetdicom.presentation import StoragePresentationContexts
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import from a table

from medml.errors import ConfigError
from medml.io.files import sweep_temporary, sync_path, temporary_path
from medml.io.pacs.archive import PacsError
from medml.io.pacs.dimse import server_tls
from medml.io.pacs.landing import SPOOL, Landing, Place, newest_change
from medml.io.pacs.listener_config import ListenerConfig
from medml.io.pacs.syntaxes import SYNTAXES

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NO_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
ASK_AGAIN_SECONDS = 30.0
_NAMES = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]


class Receiver:
    """What is done with each image and, when its series is whole, with that. Safe to call from many threads.

    Whatever was acknowledged lies on the disk, so a receiver that was killed goes on where it was.

    Parameters
    ----------
    count : callable, optional
        Study and series UID to how many images the series has, None if nobody knows.
    """

    def __init__(
        self, config: ListenerConfig, landing: Landing, count: Callable[[str, str], int | None] | None = None
    ) -> None:
        self.config, self.landing, self._count = config, landing, count
        self._spool = landing.folder / SPOOL
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep_temporary(self._spool)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, int | None]] = {}

    def store(self, event: Any) -> int:
        """Keep one image and return the status to answer; see `keep`."""
        return self.keep(event.encoded_dataset(), str(event.request.AffectedSOPInstanceUID))

    def keep(self, encoded: bytes, sop_uid: str) -> int:
        """Keep one image, a whole DICOM file, and return the C-STORE status: 0x0000 once it is on the disk.

        0xA700: no space, or too large; 0xA900: it is another image than announced; 0xC000: its UIDs are missing.
        """
        config = self.config
        if len(encoded) > config.max_instance_mb << 20:
            return _refuse(OUT_OF_RESOURCES, f"an image has {len(encoded) >> 20} MB, at most {config.max_instance_mb}")
        try:
            header = pydicom.dcmread(BytesIO(encoded), stop_before_pixels=True, specific_tags=list(_NAMES))
        except (InvalidDicomError, ValueError, EOFError, NotImplementedError):
            return _refuse(CANNOT_UNDERSTAND, "an image could not be read")
        uids = [str(header.get(name, "") or "") for name in _NAMES]
        if not all(uids):
            return _refuse(CANNOT_UNDERSTAND, "an image lacks its UIDs")
        if uids[0] != sop_uid:
            return _refuse(NO_MATCH, "an image has another UID than was announced")
        place, name = self.landing.place(uids[2], uids[1]), self.landing.instance(sop_uid)
        if (place.part / name).exists() or (place.whole / name).exists():
            return SUCCESS
        try:
            return self._write(encoded, place, name)
        except OSError as error:
            return _refuse(OUT_OF_RESOURCES, f"an image could not be written ({type(error).__name__})")

    def hand_over(self, now: float | None = None) -> list[Place]:
        """Hand over every series that is whole and return them; see `ListenerConfig` for when one is."""
        done = []
        for place in self.landing.incomplete():
            with self._lock:
                if not self._whole(place, time.time() if now is None else now):
                    continue
                place.hand_over()
            self._known.pop(place.name, None)
            done.append(place)
        return done

    def _write(self, encoded: bytes, place: Place, name: str) -> int:
        """Write beside, wait for the disk, then rename: the lock is held for the last alone."""
        if shutil.disk_usage(self._spool).free < self.config.min_free_gb * 2**30 + len(encoded):
            return _refuse(OUT_OF_RESOURCES, f"less than {self.config.min_free_gb} GB are free")
        spooled = temporary_path(self._spool / name)
        try:
            with os.fdopen(os.open(spooled, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
            with self._lock:
                if len(place.files()) >= self.config.max_instances:
                    return _refuse(OUT_OF_RESOURCES, f"a series has over {self.config.max_instances} images")
                new = not place.part.exists()
                place.part.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.replace(spooled, place.part / name)
                sync_path(place.part)
                if new:
                    for folder in (place.part.parent, self.landing.folder):
                        sync_path(folder)
        finally:
            spooled.unlink(missing_ok=True)
        return SUCCESS

    def _whole(self, place: Place, now: float) -> bool:
        files = place.files()
        if not files or not any(place.part.iterdir()):
            place.part.rmdir()  # its maker was killed, or its last image was handed over
            return False
        if now - newest_change(place.part) < self.config.quiet_seconds:
            return False
        try:
            expected = self._expected(place, files[0], now)
        except PacsError as error:
            logger.warning("series %s waits: how many images it has is not known; %s", place.name, error)
            return False
        return expected is None or len(files) >= expected

    def _expected(self, place: Place, file: Path, now: float) -> int | None:
        """Return how many images the series has, asked anew at intervals: the PACS may be receiving it as well."""
        if self._count is None:
            return None
        asked, count = self._known.get(place.name, (0.0, None))
        if now - asked >= min(ASK_AGAIN_SECONDS, self.config.quiet_seconds):
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_NAMES))
            count = self._count(str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
            self._known[place.name] = (now, count)
            logger.info("series %s has %s images in the PACS", place.name, count)
        return count


@contextmanager
def receiving(config: ListenerConfig, receiver: Receiver) -> Iterator[None]:
    """Take images while the block runs.

    Raises
    ------
    ConfigError
        If the port cannot be had.
    """
    entity = AE(ae_title=config.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(config.callers)
    entity.maximum_associations = config.max_associations
    entity.add_supported_context(Verification)
    for context in StoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), list(SYNTAXES))
    try:
        server = entity.start_server(
            (config.host, config.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, receiver.store)],
            ssl_context=None if config.tls is None else server_tls(config.tls),
        )
    except OSError as error:
        raise ConfigError(
            f"port {config.port} on {config.host} cannot be used ({error.strerror}); choose another one"
        ) from None
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()


def _refuse(status: int, why: str) -> int:
    logger.warning("0x%04X: %s", status, why)
    return status
