"""How images are received: one YAML file each in ``configs/listeners``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from medml.config import NAME_PATTERN, Config
from medml.io.pacs.config import AE_TITLE, Tls

AeTitle = Annotated[str, StringConstraints(pattern=AE_TITLE)]


class ListenerConfig(Config):
    """One port that takes images by C-STORE.

    Attributes
    ----------
    aet : str
        Our name; who calls another one is rejected.
    host, port : str, int
        Where we listen; loopback unless said otherwise.
    callers : tuple of str
        Names of those who may send. A name is no proof: use TLS with ``ca`` where the network is not trusted.
    tls : Tls or None
        ``certificate`` and ``key`` are ours; with ``ca`` a sender must prove who it is.
    quiet_seconds : float
        A series is whole when nothing of it came for so long.
    pacs : str
        A YAML of ``configs/pacs`` whose PACS is asked how many images a series has: a quiet one that has fewer waits
        for the others. Where it does not know the series, quiet is enough.
    max_instance_mb, max_instances : int
        A larger image is refused, and one more of a series.
    min_free_gb : float
        Below that much space on the disk every image is refused, so that the sender keeps it.
    max_associations : int
        How many may send at once; images are in memory while they come in.
    """

    aet: AeTitle = "MEDML"
    host: str = "127.0.0.1"
    port: int = Field(11112, ge=1, le=65535)
    callers: tuple[AeTitle, ...] = Field(min_length=1)
    tls: Tls | None = None
    quiet_seconds: PositiveFloat = 30.0
    pacs: str = Field("", pattern=rf"{NAME_PATTERN}|^$")
    max_instance_mb: PositiveInt = 512
    max_instances: PositiveInt = 20000
    min_free_gb: float = Field(2.0, ge=0)
    max_associations: PositiveInt = 8

    @model_validator(mode="after")
    def _encrypted(self) -> ListenerConfig:
        if self.tls is not None and not (self.tls.certificate and self.tls.key):
            raise ValueError("tls: to take images we need a certificate and a key of our own; set both")
        return self
