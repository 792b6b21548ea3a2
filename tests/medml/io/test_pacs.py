"""Against a real PACS: Orthanc, on loopback, by DICOMweb and by DICOM."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pydicom
import pytest
from corpus.dicom import Stack
from corpus.source import Source
from pacs_server import Orthanc, free_port, need_orthanc

from medml.config import validate
from medml.errors import ConfigError
from medml.io.pacs.archive import Pace, PacsError, Query, missing, patiently
from medml.io.pacs.config import PacsConfig
from medml.io.pacs.dimse import DimseArchive
from medml.io.pacs.web import WebArchive, uid_of

WAYS = ["dicomweb", "get", "move"]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    need_orthanc()
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield pacs
    pacs.kill()


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "secret")


def make_study(folder: Path, name: str, modality: str = "CT") -> list[Path]:
    Stack(Source(folder, name), modality=modality).write("s")
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.system
@pytest.mark.parametrize("way", WAYS)
def test_a_series_goes_there_is_found_and_comes_back_as_it_was(tmp_path: Path, orthanc: Orthanc, way: str) -> None:
    paths = make_study(tmp_path / "src", f"way {way}")
    archive = orthanc.archive(way)
    archive.send(paths)
    study = str(pydicom.dcmread(paths[0]).StudyInstanceUID)
    (series,) = archive.find(Query(modality="CT", study_uid=study))
    assert (series.modality, series.instances) == ("CT", 12)
    assert archive.find(Query(modality="MR", study_uid=study)) == []
    assert archive.fetch(series, tmp_path / "got") == 12
    sent = {uid_of(path): pydicom.dcmread(path) for path in paths}
    got = {uid_of(path): pydicom.dcmread(path) for path in (tmp_path / "got").iterdir()}
    assert sorted(got) == sorted(sent) == archive.instances(series)
    assert all(got[uid].PixelData == sent[uid].PixelData for uid in sent)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "got").iterdir())


@pytest.mark.system
@pytest.mark.parametrize("way", WAYS)
def test_what_is_there_is_not_fetched_again(tmp_path: Path, orthanc: Orthanc, way: str) -> None:
    paths = make_study(tmp_path / "src", f"again {way}")
    archive = orthanc.archive(way)
    archive.send(paths)
    (series,) = archive.find(Query(study_uid=str(pydicom.dcmread(paths[0]).StudyInstanceUID)))
    archive.fetch(series, tmp_path / "got")
    assert archive.fetch(series, tmp_path / "got") == 0
    some = sorted((tmp_path / "got").iterdir())
    some[2].unlink()
    some[7].write_bytes(b"half a file")
    assert archive.fetch(series, tmp_path / "got") == 2
    whole = [uid_of(path) for path in (tmp_path / "got").iterdir()]
    assert sorted(uid for uid in whole if uid) == archive.instances(series)


@pytest.mark.system
@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_a_pacs_that_dies_is_waited_for(tmp_path: Path, way: str) -> None:
    need_orthanc()
    pacs = Orthanc(tmp_path / "pacs")
    try:
        paths = make_study(tmp_path / "src", "dies")
        archive = pacs.archive(way, attempts=8, timeout_seconds=20)
        archive.send(paths)
        (series,) = archive.find(Query())
        pacs.kill()
        restart = threading.Timer(2.0, pacs.start)
        restart.start()
        assert archive.fetch(series, tmp_path / "got") == 12
        restart.join()
    finally:
        pacs.kill()


@pytest.mark.system
def test_what_a_pacs_refuses_is_said_with_what_to_do(
    tmp_path: Path, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "wrong")
    with pytest.raises(PacsError, match="answered 401 to a search; check user and password or the token"):
        orthanc.archive("dicomweb").find(Query())
    with pytest.raises(PacsError, match="rejected us as 'MEDML' calling 'OTHER'; it must know both names"):
        orthanc.archive("get", called_aet="OTHER").find(Query())
    paths = make_study(tmp_path / "src", "unknown destination")
    orthanc.archive("get").send(paths)
    archive = orthanc.archive("move", move_to="NOBODY")
    (series,) = archive.find(Query(study_uid=str(pydicom.dcmread(paths[0]).StudyInstanceUID)))
    with pytest.raises(PacsError, match=r"status 0x[AC]\d0\d to fetching images"):
        archive.fetch(series, tmp_path / "got")


def test_a_pacs_that_is_not_there_is_tried_as_often_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medml.io.pacs.archive.WAIT_SECONDS", 0.01)
    port = free_port()
    for archive in (
        WebArchive(PacsConfig(kind="dicomweb", url=f"http://127.0.0.1:{port}/x", attempts=3)),
        DimseArchive(PacsConfig(kind="dicom", host="127.0.0.1", port=port, attempts=3)),
    ):
        with pytest.raises(PacsError, match=r"failed 3 times at a search .*is it up, and its address right\?"):
            archive.find(Query())


def test_patience_waits_longer_each_time_and_ends_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medml.io.pacs.archive.WAIT_SECONDS", 0.02)
    tries: list[float] = []

    def work() -> str:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise ConnectionError
        return "answer"

    assert patiently(work, 4, (ConnectionError,), "a search") == "answer"
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert all(wait >= least for wait, least in zip(waits, (0.02, 0.04, 0.08), strict=True))
    with pytest.raises(ValueError, match="not this one"):
        patiently(lambda: int("not this one"), 4, (ConnectionError,), "a search")
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        patiently(work, 0, (OSError,), "nothing")


def test_configuration_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, words in (
        ({"kind": "dicomweb"}, "needs one that begins with http:// or https://"),
        ({"kind": "dicom"}, "a dicom PACS needs one"),
        ({"kind": "dicomweb", "url": "https://x", "user": "a", "token_env": "T"}, "a PACS takes one of both"),
    ):
        with pytest.raises(ConfigError, match=words):
            validate(wrong, PacsConfig, name="pacs")
    monkeypatch.delenv("PACS_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="the environment variable PACS_TOKEN is not set"):
        WebArchive(PacsConfig(kind="dicomweb", url="https://x", token_env="PACS_TOKEN"))


def test_a_token_is_sent_and_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_TOKEN", "abc")
    archive = WebArchive(PacsConfig(kind="dicomweb", url="https://pacs.invalid/x", token_env="PACS_TOKEN"))
    session = archive._client._session
    assert session.headers["Authorization"] == "Bearer abc"
    assert session.trust_env is False


def test_pace_lets_so_many_a_second_pass() -> None:
    pace = Pace(50.0)
    start = time.monotonic()
    for _ in range(6):
        pace.wait()
    assert 0.095 <= time.monotonic() - start < 2.0


def test_missing_files_get_places_that_nobody_has(tmp_path: Path) -> None:
    for name in ("000000.dcm", "000002.dcm"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    there = {"000000.dcm": "a", "000002.dcm": ""}
    places = dict(missing(tmp_path, ["a", "../b", "c"], lambda path: there[path.name]))
    assert {uid: path.name for uid, path in places.items()} == {"../b": "000001.dcm", "c": "000003.dcm"}
