"""Which channel of its case a scan is, by a rule in the ingest configuration."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import Field, model_validator

from medml.config import Config


class ChannelRule(Config):
    """One channel: the scans that all given keys fit. Texts are patterns with ``*`` and ``?``, upper or lower case.

    Attributes
    ----------
    name : str
        What the channel is called; descriptions themselves are compared in memory and kept nowhere.
    modality : str
        DICOM modality.
    description : str
        SeriesDescription or ProtocolName of a DICOM series.
    echo : str
        EchoNumbers of a DICOM series.
    file : str
        Name of a file that is not DICOM.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")
    modality: str | None = None
    description: str | None = None
    echo: str | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChannelRule:
        if not (self.modality or self.description or self.echo or self.file):
            raise ValueError("a channel needs one of modality, description, echo and file")
        return self

    def fits_series(self, modality: str, descriptions: Sequence[str], echo: str) -> bool:
        """Say whether a DICOM series is this channel."""
        return (
            self.file is None
            and _fits(self.modality, [modality])
            and _fits(self.description, descriptions)
            and _fits(self.echo, [echo])
        )

    def fits_file(self, name: str) -> bool:
        """Say whether a file that is not DICOM is this channel."""
        return self.file is not None and _fits(self.file, [name])


def _fits(pattern: str | None, texts: Sequence[str]) -> bool:
    return pattern is None or any(fnmatchcase(text.strip().lower(), pattern.lower()) for text in texts)
