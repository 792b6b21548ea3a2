"""One Prefect server per home: found, started, shared and stopped (DESIGN 5.5).

Everybody who uses a home's server holds a shared lock on ``prefect/users.lock`` for as long; the operating system
frees it when a process dies. Whoever leaves last stops the server, and the server itself looks once a second whether
anybody is left, so that a killed verb leaves nothing behind. ``prefect/start.lock`` lets one process at a time look
for a server and start one, so there are never two on one database.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from medml.errors import ConfigError, MedmlError
from medml.interpreter import run_quickly
from medml.io.files import write_json
from medml.records.home import Home
from pipelines.credentials import read_login
from pipelines.settings import prepare, server_environment

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
STORE_SECONDS = 20.0
STOP_SECONDS = 15.0
WATCH_SECONDS = 1.0

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What ``prefect/server.json`` says of the running server; a process is known by its id and start time."""

    url: str
    pid: int
    started: float

    def process(self) -> psutil.Process | None:
        """Return the server's process if it still lives."""
        try:
            process = psutil.Process(self.pid)
            alive = abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


class ServerHandle:
    """This process's share in the home's server; made by `start_early`."""

    def __init__(
        self,
        home: Home,
        api_url: str,
        users: IO[str] | None = None,
        child: subprocess.Popen[bytes] | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.home = home
        self.api_url = api_url
        self.alone = alone
        self._users = users
        self._child = child

    @property
    def ui_url(self) -> str:
        """The address of the Prefect UI."""
        return self.api_url.removesuffix("/api")

    @property
    def own(self) -> bool:
        """Whether it is the home's server, not one that ``PREFECT_API_URL`` named."""
        return self._users is not None

    @property
    def pid(self) -> int:
        """The server's process; 0 where it is not known."""
        recorded = _read_record(self.home)
        return recorded.pid if self.own and recorded else 0

    def running(self) -> bool:
        """Say whether the server's process lives; one that was given by ``PREFECT_API_URL`` is not ours to watch."""
        recorded = _read_record(self.home)
        return self._users is None or (recorded is not None and recorded.process() is not None)

    def wait(self, timeout: float = START_SECONDS) -> str:
        """Return the API's URL as soon as the server answers.

        Raises
        ------
        ConfigError
            If ``PREFECT_API_URL`` was given and nothing answers there.
        MedmlError
            If the home's server ended or did not answer in time; its log says why.
        """
        deadline = time.monotonic() + timeout
        while not _healthy(self.api_url):
            self._refuse_if_gone(late=time.monotonic() > deadline, timeout=timeout)
            time.sleep(0.1)
        return self.api_url

    def close(self) -> None:
        """Leave the server; stop it if nobody else uses it."""
        if self._users is None:
            return
        users, self._users = self._users, None
        with _locked(self.home, "start.lock"), users:
            fcntl.flock(users, fcntl.LOCK_UN)
            if _try_lock(users):
                _stop_recorded(self.home, self._child)
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
            os.environ.pop(name, None)

    def _refuse_if_gone(self, *, late: bool, timeout: float) -> None:
        log = self.home.logs / "prefect.log"
        if self._users is None:
            if late:
                raise ConfigError(
                    f"PREFECT_API_URL={self.api_url}: no Prefect server answers there; start it or unset it"
                )
            return
        recorded = _read_record(self.home)
        if (self._child is not None and self._child.poll() is not None) or not recorded or not recorded.process():
            raise MedmlError(f"the Prefect server ended while starting; its log says why: {log}")
        if late:
            raise MedmlError(f"the Prefect server did not answer within {timeout:.0f} s; its log may say why: {log}")


@contextlib.contextmanager
def prefect_server(home: Home, *, handle: ServerHandle | None = None) -> Iterator[str]:
    """Hold the home's Prefect server for a verb: its API URL, with no task history lost at the end.

    Parameters
    ----------
    handle : ServerHandle, optional
        What `start_early` returned, if the server was started ahead.
    """
    handle = handle or start_early(home)
    try:
        # Prefect's import takes seconds and so does the server's start: they overlap.
        import prefect

        from pipelines.history import remember_task_runs, wait_until_stored

        url = handle.wait()
        with connected(url), prefect.tags(process_tag()):
            bury_dead_runs(handle)
            remember_task_runs()
            try:
                yield url
            finally:
                wait_until_stored(STORE_SECONDS)
    finally:
        handle.close()


def start_early(home: Home, *, port: int | None = None, host: str = "127.0.0.1") -> ServerHandle:
    """Find or start the home's server without waiting for it; ``PREFECT_API_URL`` of this process then names it.

    Parameters
    ----------
    port : int, optional
        Where a new server listens; default: any free port. A server that runs already keeps its own.

    Raises
    ------
    ConfigError
        If the port is taken.
    """
    prepare(home)
    if given := os.environ.get("PREFECT_API_URL"):
        return ServerHandle(home, given)
    home.prefect.mkdir(parents=True, exist_ok=True)
    with _locked(home, "start.lock"):
        users = (home.prefect / "users.lock").open("a")
        alone = _try_lock(users)
        fcntl.flock(users, fcntl.LOCK_SH)
        recorded, child = _read_record(home), None
        if recorded is None or recorded.process() is None:
            try:
                recorded, child = _start(home, port, host)
            except BaseException:
                users.close()
                raise
    os.environ["PREFECT_API_URL"] = recorded.url
    use_login(home)
    return ServerHandle(home, recorded.url, users, child, alone=alone)


def use_login(home: Home) -> None:
    """Let this process and its children log in to the home's own server."""
    os.environ["PREFECT_API_AUTH_STRING"] = read_login(home).text


@contextlib.contextmanager
def connected(api_url: str) -> Iterator[None]:
    """Let Prefect's client speak to a server in this block, whatever its settings were when it was imported.

    The login is that of the environment, where `start_early` puts the home's own.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    login = os.environ.get("PREFECT_API_AUTH_STRING")
    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: login}):
        yield


def bury_dead_runs(handle: ServerHandle) -> None:
    """Mark runs as crashed that a killed process left unfinished.

    Every process that runs a flow of this home holds the users' lock, so when we came first, nobody runs one. When
    others are there, a run names its process by a tag (`process_tag`).
    """
    if not handle.own:
        return
    from pipelines.history import mark_unfinished_as_crashed

    with connected(handle.api_url):
        mark_unfinished_as_crashed(everything=handle.alone)
    handle.alone = False


def process_tag() -> str:
    """Return the tag that tells which process runs a flow; the name of its computer is only a digest in it."""
    from medml.store.leases import this_owner

    host, pid, start = this_owner().rsplit("/", 2)
    return f"process:{hashlib.sha256(host.encode()).hexdigest()[:8]}-{pid}-{start}"


def process_ended(tags: Iterable[str]) -> bool:
    """Say whether the process that a run's tags name has ended; False where it cannot be known from here."""
    from medml.store.leases import owner_alive, this_owner

    here, host = process_tag().rsplit("-", 2)[0], this_owner().rsplit("/", 2)[0]
    for tag in tags:
        there, _, rest = tag.partition("-")
        if there == here:
            return owner_alive(f"{host}/{rest.replace('-', '/')}") is False
    return False


def running_server(home: Home) -> str | None:
    """Return the UI's address of the home's server, if one answers."""
    recorded = _read_record(home)
    if recorded is None or recorded.process() is None or not _healthy(recorded.url):
        return None
    return recorded.url.removesuffix("/api")


def _start(home: Home, port: int | None, host: str) -> tuple[Recorded, subprocess.Popen[bytes]]:
    """Start the server on a socket that is bound here, so that no other process can take the port in between."""
    home.logs.mkdir(parents=True, exist_ok=True)
    with _listen(host, port) as listener, (home.logs / "prefect.log").open("ab") as log:
        bound = int(listener.getsockname()[1])
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pipelines.server",
                str(home.root),
                str(listener.fileno()),
            ],
            env=server_environment(home, bound, host=host),
            pass_fds=(listener.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    recorded = Recorded(f"http://{host}:{bound}/api", child.pid, psutil.Process(child.pid).create_time())
    write_json(
        home.prefect / "server.json",
        {"url": recorded.url, "pid": recorded.pid, "started": recorded.started},
    )
    return recorded, child


def _listen(host: str, port: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port or 0))
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port} on {host} cannot be used ({error.strerror}); choose another one") from None
    listener.listen(128)
    return listener


def _read_record(home: Home) -> Recorded | None:
    try:
        return Recorded(**json.loads((home.prefect / "server.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _stop_recorded(home: Home, child: subprocess.Popen[bytes] | None) -> None:
    recorded = _read_record(home)
    process = recorded.process() if recorded else None
    if process is not None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            logger.warning(
                "the Prefect server did not stop within %.0f s; killing it",
                STOP_SECONDS,
            )
            process.kill()
    if child is not None:
        child.wait(STOP_SECONDS)
    (home.prefect / "server.json").unlink(missing_ok=True)


def _healthy(api_url: str) -> bool:
    try:
        with _direct.open(f"{api_url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextlib.contextmanager
def _locked(home: Home, name: str) -> Iterator[None]:
    with (home.prefect / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _try_lock(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _serve(home: Home, descriptor: int) -> None:
    """Run the server in this process on an open socket, until nobody uses it."""
    import uvicorn
    from prefect.server.api.server import create_app

    threading.Thread(target=_stop_when_unused, args=(home,), daemon=True).start()
    listener = socket.socket(fileno=descriptor)
    config = uvicorn.Config(create_app(final=True), log_level="warning", timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])


def _stop_when_unused(home: Home) -> None:
    with (home.prefect / "users.lock").open("a") as users:
        while not _try_lock(users):
            time.sleep(WATCH_SECONDS)
        # Whoever comes now waits for the lock until this process has ended, and then starts a new server.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(1)


def _main() -> None:
    parser = argparse.ArgumentParser(description="The Prefect server of one home; started by the verbs.")
    parser.add_argument("home", type=Path)
    parser.add_argument("descriptor", type=int, help="an open listening socket")
    arguments = parser.parse_args()
    _serve(Home(arguments.home), arguments.descriptor)


if __name__ == "__main__":
    run_quickly(_main)
