"""The one login of a home's two web pages, Prefect and MLflow: made once, kept where only its owner reads it."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from medml.errors import ConfigError
from medml.records.home import Home

USER = "medml"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password; printing one shows no password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r}, …)"

    @property
    def text(self) -> str:
        """``user:password``, the form that HTTP's basic authentication and Prefect take."""
        return f"{self.user}:{self.password}"


def login_file(home: Home) -> Path:
    """Return where the login lies: one line, ``user:password``."""
    return home.secrets / "login"


def read_login(home: Home) -> Login:
    """Return the home's login; the first call makes it, with a random password, in a file of mode 0600.

    Raises
    ------
    ConfigError
        If others may read the file, or it is not one line ``user:password``.
    """
    path = login_file(home)
    if not path.exists():
        _make(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:o}, so others may read the password; expected 600: chmod 600 {path}")
    user, colon, password = path.read_text(encoding="utf-8").strip().partition(":")
    if not colon or not user or len(password) < 12:
        raise ConfigError(
            f"{path}: expected one line user:password with 12 characters or more; delete it for a new one"
        )
    return Login(user, password)


def _make(path: Path) -> None:
    """Write a new login; of two processes that come at once, one wins and both use its file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{USER}:{secrets.token_urlsafe(24)}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
