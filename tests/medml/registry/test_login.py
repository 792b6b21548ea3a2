"""The login in front of the MLflow server, asked as a web server asks an application."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import MutableMapping
from typing import Any

import pytest

from medml.errors import ConfigError
from medml.registry import login
from medml.registry.login import LoginFirst, create_app

RIGHT = "medml:a-long-password"


async def inner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def status(path: str, *headers: tuple[bytes, bytes], kind: str = "http") -> list[Any]:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {}

    asyncio.run(LoginFirst(inner, RIGHT)({"type": kind, "path": path, "headers": list(headers)}, receive, send))
    return [message.get("status", message.get("code")) for message in sent if message["type"] != "http.response.body"]


def basic(text: str, *, kind: bytes = b"Basic") -> tuple[bytes, bytes]:
    return b"Authorization", kind + b" " + base64.b64encode(text.encode())


def test_only_the_right_login_passes_and_the_health_check_needs_none() -> None:
    assert status("/ajax-api/2.0/mlflow/runs/search", basic(RIGHT)) == [200]
    assert status("/health") == [200]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (basic("medml:wrong"),),
        (basic(RIGHT + "x"),),
        (basic(RIGHT, kind=b"Bearer"),),
        ((b"authorization", b"Basic"),),
        ((b"authorization", b"Basic \xff\xff"),),
        (basic(RIGHT), basic("other:login")),
    ],
)
@pytest.mark.parametrize("path", ["/", "/static-files/index.html", "/api/3.0/jobs", "/health/../version", "/HEALTH"])
def test_everything_else_is_asked_for_a_login(path: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert status(path, *headers) == [401]


def test_a_socket_without_a_login_is_closed() -> None:
    assert status("/ws", kind="websocket") == [1008]


def test_the_server_does_not_start_without_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(login.VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="MEDML_MLFLOW_LOGIN is empty; expected user:password"):
        create_app()
