"""The few kinds of error a caller may want to catch. Messages: who, found, expected, what to do."""

from __future__ import annotations


class MedmlError(Exception):
    """Any error that medml raises on purpose; its text is fit to show to a user."""


class ConfigError(MedmlError):
    """A configuration, argument or environment is wrong; nothing was done (exit code 2)."""


class Refusal(MedmlError):
    """One input cannot be used; the rest of the work goes on.

    Attributes
    ----------
    code : str
        Reason code in lower-case snake case, stable across releases, e.g. ``missing_slice``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str]]:
        return type(self), (self.code, str(self))


class GeometryError(Refusal):
    """Slices or affines do not form one regular grid."""


class LeakageError(MedmlError):
    """The same patient would stand on two sides of a split."""


class NotFound(MedmlError):
    """A named thing (collection, dataset, model, alias) does not exist; the text lists what does."""
