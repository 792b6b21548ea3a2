"""Loaded by every Python process of a test: writes down each address that is not this machine's."""

from __future__ import annotations

import os
import sys
from typing import Any

LOG = os.environ.get("MEDML_TEST_NETWORK_LOG", "")
LOCAL = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.gethostbyname"):
        address = arguments[-1]
        host = address[0] if isinstance(address, tuple) else address
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if not name or not isinstance(name, str) or name.startswith((*LOCAL, "/", "\0")):
        return
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(f"{event} {name} {sys.argv[:2]}\n")


if LOG:
    sys.addaudithook(_watch)
