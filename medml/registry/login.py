"""The MLflow server behind a login: every address but the health check asks for it.

``mlflow server --app-name medml`` finds `create_app` by the entry point ``mlflow.app`` of this package. MLflow's own
``basic-auth`` asks per resource and hashes the password at every request; a home has one operator (docs/operating.md).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from medml.errors import ConfigError

VARIABLE = "MEDML_MLFLOW_LOGIN"
OPEN = frozenset({"/health"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class LoginFirst:
    """An ASGI application that passes on what comes with the right user and password, and answers 401 to the rest.

    Parameters
    ----------
    app : ASGI application
    login : str
        ``user:password``.
    """

    def __init__(self, app: App, login: str) -> None:
        self.app = app
        self._login = login.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan" or scope.get("path") in OPEN or self._known(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"www-authenticate", b'Basic realm="medml"'), (b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b"log in as HOME/secrets/login says\n"})

    def _known(self, scope: Scope) -> bool:
        given = [value for name, value in scope.get("headers", ()) if name.lower() == b"authorization"]
        kind, _, word = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        try:
            found = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == b"basic" and hmac.compare_digest(found, self._login)


def create_app() -> LoginFirst:
    """Return MLflow's own application behind the login of ``MEDML_MLFLOW_LOGIN``.

    Raises
    ------
    ConfigError
        If there is no login.
    """
    login = os.environ.pop(VARIABLE, "")
    if ":" not in login:
        raise ConfigError(f"{VARIABLE} is empty; expected user:password: start this server with `medml up`")
    from mlflow.server.fastapi_app import app

    return LoginFirst(app, login)
