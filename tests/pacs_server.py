"""A PACS of one's own for tests: Orthanc on loopback, which can be killed and started again."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from medml.io.pacs.archive import Archive
from medml.io.pacs.config import PacsConfig
from medml.io.pacs.dimse import DimseArchive
from medml.io.pacs.web import WebArchive

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def need_orthanc() -> None:
    """Skip where it is not installed; CI has it."""
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        pytest.skip("orthanc or orthanc-dicomweb is not installed; make system installs them")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orthanc:
    """A PACS of one's own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.web, self.dicom, self.ours = folder, free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        settings: dict[str, Any] = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.web,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"ana": "secret"},
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomModalities": {"ours": ["MEDML", "127.0.0.1", self.ours]},
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["Orthanc", str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.dicom)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError((self.folder / "log").read_text(encoding="utf-8"))

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def archive(self, way: str, **options: Any) -> Archive:
        if way == "dicomweb":
            web = {"url": f"http://127.0.0.1:{self.web}/dicom-web", "user": "ana", "password_env": "PACS_PASSWORD"}
            return WebArchive(PacsConfig(kind="dicomweb", **(web | options)))
        dicom = {"host": "127.0.0.1", "port": self.dicom, "called_aet": "ORTHANC", "listen_port": self.ours}
        return DimseArchive(PacsConfig(kind="dicom", retrieve=way, **(dicom | options)))
