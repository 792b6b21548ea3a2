"""What is sent to us is kept before it is acknowledged, and handed over a whole series at a time."""

from __future__ import annotations

import logging
import signal
import ssl
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from certificates import make_certificate
from corpus.dicom import Stack
from corpus.source import Source
from pacs_server import free_port
from pynetdicom import AE
from pynetdicom.presentation import build_context

from medml.config import validate
from medml.errors import ConfigError
from medml.io.files import Pseudonyms
from medml.io.pacs.archive import PacsError
from medml.io.pacs.config import Tls
from medml.io.pacs.landing import Landing
from medml.io.pacs.listener import Receiver, receiving
from medml.io.pacs.listener_config import ListenerConfig

CT = "1.2.840.10008.5.1.4.1.1.2"
LITTLE = "1.2.840.10008.1.2.1"


def make_series(folder: Path, name: str = "sent") -> list[Path]:
    Stack(Source(folder, name)).write("s")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def make_receiver(folder: Path, count: Any = None, **options: Any) -> Receiver:
    config = ListenerConfig(callers=("SCANNER",), port=free_port(), min_free_gb=0, **options)
    return Receiver(config, Landing(folder / "inbox", Pseudonyms(folder / "key")), count)


def keep(receiver: Receiver, path: Path) -> int:
    return receiver.keep(path.read_bytes(), str(pydicom.dcmread(path).SOPInstanceUID))


def send(
    receiver: Receiver, paths: list[Path], *, calling: str = "SCANNER", called: str = "MEDML", tls: Any = None
) -> Any:
    """Send files as a scanner would; return the statuses, or None if there was no association."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 30
    config = receiver.config
    association = entity.associate(
        config.host, config.port, contexts=[build_context(CT, [LITTLE])], ae_title=called, tls_args=tls
    )
    if not association.is_established:
        return None
    try:
        return [association.send_c_store(pydicom.dcmread(path)).get("Status") for path in paths]
    finally:
        association.release()


def whole(receiver: Receiver) -> list[Path]:
    """Return the files that a walk of the inbox sees."""
    return sorted(path for path in receiver.landing.folder.glob("s-*/[!.]*/*.dcm"))


def test_a_series_is_handed_over_when_nothing_of_it_came_for_a_while(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "src")
    receiver = make_receiver(tmp_path, quiet_seconds=30)
    with receiving(receiver.config, receiver):
        assert send(receiver, paths) == [0x0000] * 12
    now = time.time()
    assert receiver.hand_over(now + 20) == []
    assert whole(receiver) == []
    (place,) = receiver.hand_over(now + 60)
    got = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in whole(receiver)}
    assert len(got) == 12
    assert all(got[pydicom.dcmread(path).SOPInstanceUID].PixelData == pydicom.dcmread(path).PixelData for path in paths)
    uids = {str(pydicom.dcmread(paths[0])[name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    assert not any(uid in str(place.whole) for uid in uids)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in whole(receiver))
    assert list((receiver.landing.folder / ".spool").iterdir()) == []


def test_a_series_whose_count_is_known_waits_for_its_last_image(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "src")
    asked: list[tuple[str, str]] = []

    def count(study: str, series: str) -> int:
        asked.append((study, series))
        return 12

    receiver = make_receiver(tmp_path, count, quiet_seconds=5)
    for path in paths[:11]:
        assert keep(receiver, path) == 0x0000
    now = time.time()
    assert receiver.hand_over(now + 100) == []
    assert receiver.hand_over(now + 101) == []
    data = pydicom.dcmread(paths[0])
    assert asked == [(str(data.StudyInstanceUID), str(data.SeriesInstanceUID))]
    keep(receiver, paths[11])
    assert receiver.hand_over(now + 1) == [], "the PACS may be receiving the rest as well"
    assert len(receiver.hand_over(now + 200)) == 1
    assert len(whole(receiver)) == 12


def test_a_series_waits_while_the_pacs_cannot_be_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def count(study: str, series: str) -> int:
        raise PacsError("the PACS failed 4 times at a search")

    receiver = make_receiver(tmp_path, count)
    keep(receiver, make_series(tmp_path / "src")[0])
    with caplog.at_level(logging.WARNING):
        assert receiver.hand_over(time.time() + 1000) == []
    assert "how many images it has is not known; the PACS failed 4 times" in caplog.text


def test_a_series_the_pacs_does_not_know_needs_quiet_alone(tmp_path: Path) -> None:
    receiver = make_receiver(tmp_path, lambda study, series: None)
    keep(receiver, make_series(tmp_path / "src")[0])
    assert len(receiver.hand_over(time.time() + 1000)) == 1


def test_duplicates_are_harmless_before_and_after_the_hand_over(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "src")[:3]
    receiver = make_receiver(tmp_path)
    for path in [*paths, *paths]:
        assert keep(receiver, path) == 0x0000
    receiver.hand_over(time.time() + 1000)
    before = [(path, path.stat().st_mtime_ns) for path in whole(receiver)]
    assert len(before) == 3
    assert [keep(receiver, path) for path in paths] == [0x0000] * 3
    assert receiver.hand_over(time.time() + 1000) == []
    assert [(path, path.stat().st_mtime_ns) for path in whole(receiver)] == before


def test_images_that_come_late_join_their_series(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "src")
    receiver = make_receiver(tmp_path)
    for some in (paths[:5], paths[5:]):
        for path in some:
            keep(receiver, path)
        assert len(receiver.hand_over(time.time() + 1000)) == 1
    assert len(whole(receiver)) == 12
    assert list(receiver.landing.incomplete()) == []


def test_what_cannot_be_kept_is_refused_and_the_sender_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = make_series(tmp_path / "src")
    uid = str(pydicom.dcmread(paths[0]).SOPInstanceUID)
    nameless = pydicom.dcmread(paths[0])
    del nameless.SeriesInstanceUID
    buffer = BytesIO()
    nameless.save_as(buffer, enforce_file_format=True)
    receiver = make_receiver(tmp_path, max_instances=2)
    assert receiver.keep(b"no DICOM at all" * 20, uid) == 0xC000
    assert receiver.keep(buffer.getvalue(), uid) == 0xC000
    assert receiver.keep(paths[0].read_bytes(), "1.2.3") == 0xA900
    assert [keep(receiver, path) for path in paths[:3]] == [0x0000, 0x0000, 0xA700]
    monkeypatch.setattr(receiver, "config", receiver.config.model_copy(update={"max_instance_mb": 0}))
    assert keep(receiver, paths[4]) == 0xA700
    full = make_receiver(tmp_path / "full")
    monkeypatch.setattr(full, "config", full.config.model_copy(update={"min_free_gb": 1e9}))
    assert keep(full, paths[0]) == 0xA700
    assert list(full.landing.incomplete()) == []
    gone = make_receiver(tmp_path / "gone")
    (gone.landing.folder / ".spool").rmdir()
    monkeypatch.setattr("medml.io.pacs.listener.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 40}))
    assert keep(gone, paths[0]) == 0xA700
    for words in (
        "could not be read",
        "lacks its UIDs",
        "another UID than was announced",
        "over 2 images",
        "at most 0",
        "GB are free",
        "could not be written",
    ):
        assert words in caplog.text
    assert uid not in caplog.text


def test_strangers_are_rejected_and_a_taken_port_is_said(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "src")[:1]
    receiver = make_receiver(tmp_path)
    with receiving(receiver.config, receiver):
        assert send(receiver, paths, calling="STRANGER") is None
        assert send(receiver, paths, called="OTHER") is None
        assert send(receiver, paths) == [0x0000]
        with (
            pytest.raises(ConfigError, match=r"cannot be used .*; choose another one"),
            receiving(receiver.config, receiver),
        ):
            pass
    with pytest.raises(ConfigError, match="callers"):
        validate({"callers": []}, ListenerConfig, name="listener")
    with pytest.raises(ConfigError, match="we need a certificate and a key of our own; set both"):
        validate({"callers": ["A"], "tls": {}}, ListenerConfig, name="listener")


def test_with_tls_only_those_whose_certificate_we_know_may_send(tmp_path: Path) -> None:
    ours, theirs = make_certificate(tmp_path / "ours"), make_certificate(tmp_path / "theirs")
    tls = Tls(ca=theirs.certificate, certificate=ours.certificate, key=ours.key)
    receiver = make_receiver(tmp_path, tls=tls)
    paths = make_series(tmp_path / "src")[:2]
    context = ssl.create_default_context(cafile=str(ours.certificate))
    with receiving(receiver.config, receiver):
        assert send(receiver, paths) is None, "not encrypted"
        assert not send(receiver, paths, tls=(context, "localhost")) or not list(receiver.landing.incomplete())
        context.load_cert_chain(theirs.certificate, theirs.key)
        assert send(receiver, paths, tls=(context, "localhost")) == [0x0000] * 2


LISTEN = """
import sys, time
from pathlib import Path
from medml.io.files import Pseudonyms
from medml.io.pacs.landing import Landing
from medml.io.pacs.listener import Receiver, receiving
from medml.io.pacs.listener_config import ListenerConfig
folder = Path(sys.argv[1])
config = ListenerConfig(callers=("SCANNER",), port=int(sys.argv[2]), min_free_gb=0)
with receiving(config, Receiver(config, Landing(folder / "inbox", Pseudonyms(folder / "key")))):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_listener_that_is_killed_has_everything_it_acknowledged(tmp_path: Path) -> None:
    paths = make_series(tmp_path / "src")
    receiver = make_receiver(tmp_path)
    command = [sys.executable, "-c", LISTEN, str(tmp_path), str(receiver.config.port)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert send(receiver, paths[:7]) == [0x0000] * 7
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert send(receiver, paths[:1]) is None, "nobody listens"
    again = make_receiver(tmp_path)
    for path in paths[7:]:
        assert keep(again, path) == 0x0000
    assert len(again.hand_over(time.time() + 1000)) == 1
    assert sorted(str(pydicom.dcmread(path).SOPInstanceUID) for path in whole(again)) == sorted(
        str(pydicom.dcmread(path).SOPInstanceUID) for path in paths
    )
