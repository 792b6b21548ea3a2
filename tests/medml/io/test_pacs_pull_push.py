"""Series come down whole or not at all, results go up once; a PACS that dies in the middle costs neither."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
from certificates import make_certificate
from corpus.dicom import Stack
from corpus.source import Source
from pacs_server import Orthanc, free_port, need_orthanc
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from medml.errors import ConfigError
from medml.io.files import Pseudonyms, sha256_file
from medml.io.pacs.archive import Archive, PacsError, Query, RemoteSeries, instance_path
from medml.io.pacs.config import PacsConfig, Tls
from medml.io.pacs.dimse import DimseArchive, server_tls
from medml.io.pacs.journal import Journal
from medml.io.pacs.landing import Landing
from medml.io.pacs.pull import Pulled, pull
from medml.io.pacs.push import Pushed, push
from medml.io.pacs.web import WebArchive, uid_of


def make_study(folder: Path, name: str) -> list[Path]:
    Stack(Source(folder, name)).write("s")
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Shelf:
    """A PACS in a folder, that grows while it is asked: what a real one does at its own time."""

    def __init__(self, paths: Sequence[Path], *, grows: Sequence[Path] = ()) -> None:
        self.paths, self.grows = list(paths), list(grows)
        self.fetched = 0

    def check(self) -> None:
        return

    def find(self, query: Query) -> list[RemoteSeries]:
        header = pydicom.dcmread(self.paths[0])
        uids = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
        return [RemoteSeries(*uids, modality="CT", instances=len(self.paths))]

    def instances(self, series: RemoteSeries) -> list[str]:
        return sorted(map(uid_of, self.paths))

    def fetch(self, series: RemoteSeries, folder: Path, there: Collection[str] = ()) -> int:
        have = {uid_of(path) for path in folder.glob("*.dcm")} | set(there)
        new = [path for path in self.paths if uid_of(path) not in have]
        for path in new:
            shutil.copy(path, next(free for n in range(99) if not (free := instance_path(folder, n)).exists()))
        self.paths += self.grows
        self.grows = []
        self.fetched += len(new)
        return len(new)

    def send(self, paths: Sequence[Path], sent: Callable[[Path], object] | None = None) -> None:
        raise PacsError("the PACS answered status 0xA700 to storing; its own log says why")


def landing_of(folder: Path) -> tuple[Landing, Journal]:
    return Landing(folder / "inbox", Pseudonyms(folder / "key")), Journal(folder / "pulled.jsonl")


def visible(landing: Landing) -> list[str]:
    return sorted(uid_of(path) for path in landing.folder.glob("s-*/[!.]*/*.dcm"))


def test_a_series_comes_down_once_and_a_later_image_joins_it(tmp_path: Path) -> None:
    paths = make_study(tmp_path / "src", "once")
    landing, journal = landing_of(tmp_path)
    shelf = Shelf(paths[:10])
    (first,) = pull(shelf, shelf.find(Query()), landing, journal)
    assert (first.status, first.images) == ("pulled", 10)
    assert "." not in first.series, "no UID"
    assert pull(shelf, shelf.find(Query()), landing, journal) == [Pulled(first.series, "known")]
    shelf.paths += paths[10:]
    assert pull(shelf, shelf.find(Query()), landing, journal) == [Pulled(first.series, "pulled", 2)]
    assert visible(landing) == sorted(map(uid_of, paths))
    shutil.rmtree(landing.folder / first.series)
    assert pull(shelf, shelf.find(Query()), landing, journal) == [Pulled(first.series, "known")]
    assert shelf.fetched == 12


def test_a_series_that_grows_meanwhile_is_not_handed_over(tmp_path: Path) -> None:
    paths = make_study(tmp_path / "src", "grows")
    landing, journal = landing_of(tmp_path)
    shelf = Shelf(paths[:5], grows=paths[5:])
    told: list[Pulled] = []
    (first,) = pull(shelf, shelf.find(Query()), landing, journal, told.append)
    assert (first.status, first.images, told) == ("growing", 5, [first])
    assert visible(landing) == []
    (second,) = pull(shelf, shelf.find(Query()), landing, journal)
    assert (second.status, second.images, len(visible(landing))) == ("pulled", 7, 12)


def test_a_pull_that_was_killed_between_hand_over_and_journal_does_nothing_twice(tmp_path: Path) -> None:
    paths = make_study(tmp_path / "src", "killed")
    landing, journal = landing_of(tmp_path)
    shelf = Shelf(paths)
    pull(shelf, shelf.find(Query()), landing, journal)
    journal.path.unlink()
    (again,) = pull(shelf, shelf.find(Query()), landing, journal)
    assert (again.images, shelf.fetched, len(visible(landing))) == (0, 12, 12)
    place = landing.place(
        str(pydicom.dcmread(paths[0]).StudyInstanceUID), str(pydicom.dcmread(paths[0]).SeriesInstanceUID)
    )
    place.part.mkdir()
    shutil.copy(paths[0], place.part / "000000.dcm")  # one that was handed over as well
    pull(shelf, shelf.find(Query()), landing, journal)
    assert (len(visible(landing)), place.part.exists()) == (12, False)


def test_results_and_notes_of_a_study_are_no_images(tmp_path: Path) -> None:
    landing, journal = landing_of(tmp_path)
    found = [RemoteSeries("1.2", "1.2.3", modality=kind, instances=1) for kind in ("SEG", "SR", "PR", "KO")]
    assert pull(Shelf([]), found, landing, journal) == []


def test_a_journal_forgets_only_what_a_crash_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "j.jsonl")
    assert journal.read() == {}
    journal.add("a", "1")
    journal.add("b", "2")
    with journal.path.open("ab") as file:
        file.write(b'["c", "3')
    assert journal.read() == {"a": "1", "b": "2"}
    journal.add("a", "4")
    assert journal.read() == {"a": "4", "b": "2"}
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_what_a_pacs_refuses_or_what_changed_is_named_and_tried_again(tmp_path: Path) -> None:
    for name in ("one.dcm", "two.dcm"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    wanted = {name: sha256_file(tmp_path / name) for name in ("one.dcm", "two.dcm")} | {"gone.dcm": "0"}
    pushed = push(Shelf([]), tmp_path, wanted, Journal(tmp_path / "j"))
    assert (pushed.sent, pushed.known) == (0, 0)
    assert pushed.failed["gone.dcm"] == "it is not the file that the ledger knows; run the batch again"
    assert "status 0xA700" in pushed.failed["one.dcm"]
    assert "status 0xA700" in pushed.failed["two.dcm"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_study(tmp_path_factory.mktemp("study"), "dies")


@pytest.fixture
def orthanc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orthanc]:
    need_orthanc()
    monkeypatch.setenv("PACS_PASSWORD", "secret")
    pacs = Orthanc(tmp_path / "pacs")
    yield pacs
    pacs.kill()


class DeadlyPace:
    """Kills the PACS before the n-th image passes."""

    def __init__(self, pacs: Orthanc, after: int) -> None:
        self.pacs, self.left = pacs, after

    def wait(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.pacs.kill()


@pytest.mark.system
@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_a_pacs_that_dies_in_the_middle_loses_nothing(
    tmp_path: Path, orthanc: Orthanc, study: list[Path], way: str
) -> None:
    landing, journal = landing_of(tmp_path)
    names = [f"{number}.dcm" for number in range(12)]
    for name, path in zip(names, study, strict=True):
        shutil.copy(path, tmp_path / name)
    wanted = {name: sha256_file(tmp_path / name) for name in names}
    sent = Journal(tmp_path / "sent.jsonl")

    deadly = _deadly(orthanc, way, after=4)
    broken = push(deadly, tmp_path, wanted, sent)
    assert (broken.sent, broken.known, len(broken.failed)) == (3, 0, 9)
    orthanc.start()
    assert push(orthanc.archive(way), tmp_path, wanted, sent) == Pushed(9, 3, {})
    assert push(orthanc.archive(way), tmp_path, wanted, sent) == Pushed(0, 12, {})

    (series,) = orthanc.archive(way).find(Query(modality="CT"))
    assert series.instances == 12
    (failed,) = pull(_deadly(orthanc, way, after=6), [series], landing, journal)
    assert failed.status == "failed"
    assert visible(landing) == []
    there = len(list(landing.folder.glob("s-*/.*.part/*.dcm")))
    assert 4 <= there <= 6
    orthanc.start()
    (done,) = pull(orthanc.archive(way), orthanc.archive(way).find(Query()), landing, journal)
    assert (done.status, done.images) == ("pulled", 12 - there)
    assert visible(landing) == sorted(map(uid_of, study))
    (known,) = pull(orthanc.archive(way), orthanc.archive(way).find(Query()), landing, journal)
    assert (known.status, known.images) == ("known", 0)


def _deadly(orthanc: Orthanc, way: str, after: int) -> Archive:
    archive: Any = orthanc.archive(way, attempts=1, timeout_seconds=10)
    archive._pace = DeadlyPace(orthanc, after)
    return archive  # type: ignore[no-any-return]


def test_dicom_with_tls_trusts_only_what_the_configuration_says(tmp_path: Path) -> None:
    theirs, ours = make_certificate(tmp_path / "theirs"), make_certificate(tmp_path / "ours")
    entity, port, stored = AE(ae_title="PACS"), free_port(), []
    entity.add_supported_context(Verification)
    entity.add_supported_context(CTImageStorage)

    def store(event: Any) -> int:
        stored.append(str(event.dataset.SOPInstanceUID))
        return 0x0000

    accepts = server_tls(Tls(ca=ours.certificate, certificate=theirs.certificate, key=theirs.key))
    server = entity.start_server(
        ("127.0.0.1", port), block=False, ssl_context=accepts, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    paths = make_study(tmp_path / "src", "tls")[:2]

    def archive(**tls: Any) -> DimseArchive:
        values = {"kind": "dicom", "host": "localhost", "port": port, "attempts": 1, "timeout_seconds": 10}
        return DimseArchive(PacsConfig.model_validate({**values, "tls": tls or None}))

    try:
        known = {"ca": theirs.certificate, "certificate": ours.certificate, "key": ours.key}
        archive(**known).check()
        archive(**known).send(paths)
        assert stored == [uid_of(path) for path in paths]
        for wrong in ({}, {"ca": ours.certificate}, {"ca": theirs.certificate}):
            with pytest.raises(PacsError, match="failed 1 times at a C-ECHO"):
                archive(**wrong).check()
    finally:
        if server is not None:
            server.shutdown()


class _Web(BaseHTTPRequestHandler):
    """Answers a QIDO search to those who have the token, and keeps what was asked."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer of good news"
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200 if allowed else 401)
        body = b"[]" if allowed else b""
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        return


def test_https_with_a_token_trusts_only_what_the_configuration_says(tmp_path: Path) -> None:
    made = make_certificate(tmp_path / "server")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.asked = []  # type: ignore[attr-defined]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "TOKEN_OF_TEST").write_text("of good news\n", encoding="utf-8")
    (secrets / "TOKEN_OF_TEST").chmod(0o600)
    values = {"kind": "dicomweb", "url": f"https://localhost:{server.server_port}/web", "attempts": 1}

    def archive(**more: Any) -> WebArchive:
        return WebArchive(PacsConfig.model_validate(values | {"token_env": "TOKEN_OF_TEST"} | more), secrets)

    try:
        archive(tls={"ca": made.certificate}).check()
        assert server.asked[-1].startswith("/web/studies?")  # type: ignore[attr-defined]
        assert archive(tls={"ca": made.certificate}).find(Query(modality="CT", body_part="HEAD")) == []
        assert "BodyPartExamined=HEAD" in server.asked[-1]  # type: ignore[attr-defined]
        with pytest.raises(PacsError, match="failed 1 times at a search"):
            archive().check()
        (secrets / "TOKEN_OF_TEST").write_text("of bad news", encoding="utf-8")
        with pytest.raises(PacsError, match="answered 401 to a search; check user and password or the token"):
            archive(tls={"ca": made.certificate}).check()
        (secrets / "TOKEN_OF_TEST").chmod(0o644)
        with pytest.raises(ConfigError, match="has mode 644, so others may read it; expected 600"):
            archive()
        (secrets / "TOKEN_OF_TEST").unlink()
        with pytest.raises(ConfigError, match="TOKEN_OF_TEST is not set, and there is no file"):
            archive()
    finally:
        server.shutdown()
