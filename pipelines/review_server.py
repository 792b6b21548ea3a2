"""The review in a browser: pages on loopback, for whoever holds the link that the terminal shows.

The link's token works once and becomes a cookie. Requests under another host name are refused, so that no foreign page
can reach this one by a name that it controls; a decision must also bring the token that stands in the page itself.
Nothing that is asked for is logged: paths name scans, and a reason may name anybody.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from medml.errors import MedmlError, NotFound
from medml.pages.review import Page
from pipelines.review_views import ReviewViews

logger = logging.getLogger(__name__)

MOST_WORDS = 16 << 10  # bytes of a decision in words
MOST_MASK = 256 << 20  # bytes of an uploaded mask, compressed
CHUNK = 1 << 20
SECONDS = 60  # without a byte, then a connection is closed
CASE = re.compile(r"/case/([0-9A-Za-z_.-]{1,64})/([0-9A-Za-z_-]{1,64})")
ACTION = re.compile(CASE.pattern + "/(accept|reject|replace)")
PREVIEW = re.compile(r"/preview/([0-9A-Za-z_.-]{1,64})/([0-9A-Za-z_-]{1,64})\.png")
VERDICTS = {"accept": "accepted", "reject": "rejected", "replace": "replaced"}


class Refused(MedmlError):
    """A request that is answered with an error, and nothing else."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewServer(ThreadingHTTPServer):
    """Serves the review of one home to one person.

    Parameters
    ----------
    port : int
        On 127.0.0.1; 0 takes a free one.
    most : int
        Largest mask that is taken, in bytes.
    """

    daemon_threads = True

    def __init__(self, views: ReviewViews, *, port: int = 0, most: int = MOST_MASK) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.views, self.most = views, most
        self.once = secrets.token_urlsafe(24)
        self.session = secrets.token_urlsafe(32)
        self.token = secrets.token_urlsafe(32)

    @property
    def own_hosts(self) -> tuple[str, str]:
        """The names that this server answers to."""
        return f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def cookie(self) -> str:
        """The cookie's name; ports of one host share their cookies."""
        return f"medml_review_{self.server_port}"

    @property
    def link(self) -> str:
        """The address to open, once."""
        return f"http://{self.own_hosts[0]}/?token={self.once}"

    def spend(self, token: str) -> bool:
        """Say whether this is the link's token, which is void then."""
        held, right = self.once, bool(self.once) and hmac.compare_digest(token.encode(), self.once.encode())
        if right and held == self.once:
            self.once = ""
        return right

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say that a connection broke, not what it was about."""
        logger.warning("a request could not be answered")


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ReviewServer
    server_version = "medml"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = SECONDS

    def do_GET(self) -> None:
        """Show a page or a preview."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Take a decision."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep what is asked for out of every log."""

    def _answer(self, action: Callable[[str, dict[str, list[str]]], None]) -> None:
        address = urlsplit(self.path)
        try:
            if self.headers.get("Host", "") not in self.server.own_hosts:
                raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to 127.0.0.1 and localhost alone")
            action(address.path, parse_qs(address.query))
        except Refused as refused:
            self._error(refused.status, str(refused))
        except NotFound as error:
            self._error(HTTPStatus.NOT_FOUND, str(error))
        except MedmlError as error:
            self._error(HTTPStatus.CONFLICT, str(error))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            logger.warning("the review could not answer: %s", type(error).__name__)
            self._error(HTTPStatus.INTERNAL_SERVER_ERROR, f"this could not be done ({type(error).__name__})")

    def _get(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "/" and "token" in query:
            self._let_in(query["token"][0])
            return
        if path == "/favicon.ico":
            self._send(HTTPStatus.NO_CONTENT, "image/x-icon", b"")
            return
        self._check_session()
        views = self.server.views
        if path == "/":
            self._page(views.worklist(everything="all" in query))
        elif found := CASE.fullmatch(path):
            self._page(views.case(*found.groups(), token=self.server.token, most=self.server.most))
        elif found := PREVIEW.fullmatch(path):
            self._send(HTTPStatus.OK, "image/png", views.preview(*found.groups()))
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, path: str, query: dict[str, list[str]]) -> None:
        self._check_session()
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in self.server.own_hosts]:
            raise Refused(HTTPStatus.FORBIDDEN, "a decision must come from this server's own page")
        if not hmac.compare_digest(self.headers.get("X-Medml-Token", "").encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "the decision does not carry the page's token; open the case again")
        found = ACTION.fullmatch(path)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such action")
        batch, scan, action = found.groups()
        if self.headers.get_content_type() == "application/octet-stream":
            self._take_mask(batch, scan, action)
        else:
            self._take_words(batch, scan, action)

    def _take_words(self, batch: str, scan: str, action: str) -> None:
        body = self.rfile.read(self._length(MOST_WORDS))
        try:
            asked = json.loads(body)
            seen, reason = int(asked["seen"]), str(asked.get("reason", ""))
            classes = tuple(str(name) for name in asked.get("classes", ()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused(HTTPStatus.BAD_REQUEST, "the decision cannot be read; reload the page") from None
        self._decided(batch, scan, VERDICTS[action], seen=seen, reason=reason, classes=classes)

    def _take_mask(self, batch: str, scan: str, action: str) -> None:
        """Bring an upload to a private file, a piece at a time, and no further than it said it was long."""
        length = self._length(self.server.most)
        if action != "replace":
            raise Refused(HTTPStatus.BAD_REQUEST, "only a replacement brings a file")
        try:
            seen = int(self.headers.get("X-Medml-Seen", ""))
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, "the decision cannot be read; reload the page") from None
        reason = unquote(self.headers.get("X-Medml-Reason", ""))
        folder = self.server.views.upload_folder()
        with NamedTemporaryFile(dir=folder, prefix="mask-") as file:
            while length:
                piece = self.rfile.read(min(CHUNK, length))
                if not piece:
                    raise Refused(HTTPStatus.BAD_REQUEST, f"the upload ended {length} bytes early; send it again")
                file.write(piece)
                length -= len(piece)
            file.flush()
            self._decided(batch, scan, "replaced", seen=seen, reason=reason, mask=Path(file.name))

    def _decided(self, batch: str, scan: str, verdict: str, **asked: Any) -> None:
        said, place = self.server.views.decide(batch, scan, verdict, **asked)
        self._send(HTTPStatus.OK, "application/json", json.dumps({"said": said, "next": place}).encode())

    def _length(self, most: int) -> int:
        """Return how long the body is, before a byte of it is read."""
        text = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        if int(text) > most:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{text} bytes were sent, at most {most} are taken")
        return int(text)

    def _check_session(self) -> None:
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            morsel = None
        if morsel is None or not hmac.compare_digest(morsel.value.encode(), self.server.session.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "open the link that medml review serve has printed")

    def _let_in(self, token: str) -> None:
        if not self.server.spend(token):
            raise Refused(HTTPStatus.FORBIDDEN, "this link was used, or is of another start; start medml review serve")
        self.send_response(HTTPStatus.SEE_OTHER)
        cookie = f"{self.server.cookie}={self.server.session}; Path=/; HttpOnly; SameSite=Strict"
        for name, value in {"Location": "/", "Set-Cookie": cookie, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self._common_headers()
        self.end_headers()

    def _page(self, page: Page) -> None:
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.html.encode(), page.policy)

    def _error(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # what was not read of the body must not be taken for a request
        wants = self.headers.get("Accept", "")
        if self.command == "GET" and "text/html" in wants:
            self._send(status, "text/plain; charset=utf-8", f"{message}\n".encode())
        else:
            self._send(status, "application/json", json.dumps({"error": message}).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
        }.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self._common_headers()
        self.end_headers()
        self.wfile.write(body)

    def _common_headers(self) -> None:
        for name, value in {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
