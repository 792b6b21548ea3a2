"""How a PACS is reached: one YAML file each in ``configs/pacs``, which holds no password."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from medml.config import NAME_PATTERN, Config
from medml.errors import ConfigError
from medml.io.pacs.queries import QueryConfig

AE_TITLE = r"^[A-Za-z0-9_ .-]{1,16}$"
VARIABLE = r"^([A-Za-z_][A-Za-z0-9_]{0,63})?$"


class Tls(Config):
    """Encryption, and who proves who it is.

    Attributes
    ----------
    ca : Path or None
        Certificates that the PACS's own is proved by; None: those of the system.
    certificate, key : Path or None
        Ours, if the PACS asks for one.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class PacsConfig(Config):
    """One PACS.

    Attributes
    ----------
    kind : "dicomweb" or "dicom"
        QIDO, WADO and STOW over HTTP; or C-FIND, C-GET or C-MOVE, and C-STORE.
    url : str
        DICOMweb: its root, such as ``https://pacs.example/dicom-web``.
    user, password_env, token_env : str
        Basic authentication, or a bearer token: the names of the environment variables that hold the secrets, or of
        files with them in ``HOME/secrets``, readable by their owner alone.
    host, port, called_aet, calling_aet : str and int
        DICOM: the PACS's address and name, and ours.
    retrieve : "get" or "move"
        DICOM: C-GET, or C-MOVE to ``move_to`` at our ``listen_port``, which the PACS must know.
    tls : Tls or None
        DICOM: encrypt; DICOMweb over https: own certificates.
    per_second : float or None
        At most so many instances a second, in either direction.
    timeout_seconds : float
        For one answer.
    attempts : int
        How often a fault that may pass is tried in all.
    queries : dict
        What flows may ask for, by name: they are stored and shown, so they see the name alone.
    """

    kind: Literal["dicomweb", "dicom"]
    url: str = ""
    user: str = ""
    password_env: str = Field("", pattern=VARIABLE)
    token_env: str = Field("", pattern=VARIABLE)
    host: str = ""
    port: int = Field(104, ge=1, le=65535)
    called_aet: str = Field("ANY-SCP", pattern=AE_TITLE)
    calling_aet: str = Field("MEDML", pattern=AE_TITLE)
    retrieve: Literal["get", "move"] = "get"
    move_to: str = Field("MEDML", pattern=AE_TITLE)
    listen_host: str = "127.0.0.1"
    listen_port: int = Field(11112, ge=1, le=65535)
    tls: Tls | None = None
    per_second: PositiveFloat | None = None
    timeout_seconds: PositiveFloat = 60.0
    attempts: PositiveInt = 4
    queries: dict[Annotated[str, StringConstraints(pattern=NAME_PATTERN)], QueryConfig] = {}

    @model_validator(mode="after")
    def _addressed(self) -> PacsConfig:
        if self.kind == "dicomweb" and not self.url.startswith(("http://", "https://")):
            raise ValueError("url: a dicomweb PACS needs one that begins with http:// or https://")
        if self.kind == "dicom" and not self.host:
            raise ValueError("host: a dicom PACS needs one")
        if self.token_env and self.user:
            raise ValueError("token_env and user: a PACS takes one of both")
        return self

    def secret(self, variable: str, folder: Path | None = None) -> str:
        """Return what an environment variable holds, else the file of its name in ``folder``.

        Raises
        ------
        ConfigError
            If there is neither, or others may read the file.
        """
        value = os.environ.get(variable, "")
        path = None if folder is None else folder / variable
        if not value and path is not None and path.is_file():
            mode = path.stat().st_mode & 0o777
            if mode & 0o077:
                raise ConfigError(f"{path} has mode {mode:o}, so others may read it; expected 600: chmod 600 {path}")
            value = path.read_text(encoding="utf-8").strip()
        if not value:
            place = "" if path is None else f", and there is no file {path}"
            raise ConfigError(
                f"the environment variable {variable} is not set{place}; the PACS's configuration names it"
            )
        return value
