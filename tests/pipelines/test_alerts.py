"""Alerts reach a real web server and a real mail server of the test, once, and hold nothing of a patient."""

from __future__ import annotations

import email
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.alerts import Alert, AlertsConfig, EmailConfig, alerts_file, deliver, load_alerts

FAILED = Alert(key="failed:1", reason="failed", subject="medml: ingest failed", text="The run of flow ingest failed.")
LATE = Alert(key="late:2", reason="late", subject="medml: predict is late", text="The run of flow predict is late.")


class Hook(BaseHTTPRequestHandler):
    """Takes a POST; answers 500 as long as ``refuse`` is set."""

    taken: list[dict[str, Any]]
    refuse = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not type(self).refuse:
            type(self).taken.append(body)
        self.send_response(500 if type(self).refuse else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to receive a message."""

    taken: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (part := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    lines.append(part)
                type(self).taken.append("\n".join(lines))
            self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 fine\r\n")


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.taken, Hook.refuse = [], False
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        server.shutdown()


@pytest.fixture
def mail() -> Iterator[int]:
    Mail.taken = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "prefect").mkdir()
    return Home(tmp_path)


def test_a_webhook_gets_each_alert_once(home: Home, hook: str) -> None:
    config = AlertsConfig(webhook=SecretStr(hook))
    assert deliver(home, config, [FAILED, LATE]) == 2
    assert deliver(home, config, [FAILED, LATE]) == 0
    assert Hook.taken[0] == {
        "subject": "medml: ingest failed",
        "text": "medml: ingest failed\nThe run of flow ingest failed.",
    }
    assert len(Hook.taken) == 2


def test_what_cannot_be_delivered_is_tried_again_and_no_password_is_told(
    home: Home, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = AlertsConfig(webhook=SecretStr(f"{hook}?token=SECRET"))
    Hook.refuse = True
    assert deliver(home, config, [FAILED]) == 0
    assert "an alert could not be delivered" in caplog.text
    assert "SECRET" not in caplog.text
    Hook.refuse = False
    assert deliver(home, config, [FAILED]) == 1


def test_a_mail_server_gets_a_readable_message(home: Home, mail: int) -> None:
    settings = EmailConfig(
        to=("a@example.org", "b@example.org"), sender="medml@example.org", host="127.0.0.1", port=mail, security="none"
    )
    assert deliver(home, AlertsConfig(email=settings), [FAILED]) == 1
    message = email.message_from_string(Mail.taken[0])
    assert message["Subject"] == "medml: ingest failed"
    assert "medml@example.org" in message["From"]
    text = message.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert "The run of flow ingest failed." in text.decode()
    assert len(Mail.taken) == 2  # one for each receiver


def test_only_what_is_asked_for_is_told(home: Home, hook: str) -> None:
    config = AlertsConfig(webhook=SecretStr(hook), reasons=("late",))
    assert deliver(home, config, [FAILED, LATE]) == 1
    assert [taken["subject"] for taken in Hook.taken] == ["medml: predict is late"]


def test_the_configuration_is_the_owners_alone(home: Home) -> None:
    assert load_alerts(home) is None
    home.secrets.mkdir()
    alerts_file(home).write_text("webhook: http://127.0.0.1/\n")
    alerts_file(home).chmod(0o640)
    with pytest.raises(ConfigError, match="has mode 640, so others may read what it holds; expected 600"):
        load_alerts(home)
    alerts_file(home).chmod(0o600)
    found = load_alerts(home)
    assert found
    assert "127.0.0.1" not in repr(found)
