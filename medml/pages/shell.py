"""One HTML shell for every page: self-contained, offline, escaped; without scripts but for the viewer's own."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medml.pages.content import Cell, Value, show

SPAN = re.compile(r"^[+-]?[\d.,]+ to [+-]?[\d.,]+$", re.MULTILINE)  # an interval stays on one line
TEMPLATES = Path(__file__).parent / "templates"
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def render(template_name: str, path: Path, *, mode: int = 0o644, **values: Any) -> Path:
    """Fill a template and write it as one file that needs nothing else.

    Parameters
    ----------
    template_name : str
        A file of ``medml/pages/templates``; ``page.html`` lays out the records of `medml.pages.content`:
        ``title``, and optionally ``kicker``, ``lead``, ``facts``, ``cards``, ``sections``, ``restricted``.
    path : Path
        Where the page goes; written under a temporary name, synced, renamed.
    mode : int
        File permissions; 0o600 for pages of the clinical side.
    **values
        What the template asks for. Text is escaped; PNG bytes become data URIs by the ``data_uri`` filter.
    """
    _write_atomic(path, fill(template_name, **values).encode(), mode)
    return path


def fill(template_name: str, **values: Any) -> str:
    """Return the page of a template, for a server; see `render`."""
    css = stylesheet()
    return _environment().get_template(template_name).render(css=css, css_digest=digest_of(css), **values)


def digest_of(text: str) -> str:
    """Return the sha256 of a script or a style sheet as a page's policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(picture: bytes) -> str:
    """Return a PNG or JPEG as a ``data:`` address.

    Raises
    ------
    ValueError
        If the bytes are neither; nothing else may be embedded.
    """
    for magic, kind in _MAGIC.items():
        if picture.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(picture).decode()}"
    raise ValueError(f"found {picture[:8]!r} at the start of a picture, expected PNG or JPEG bytes")


@cache
def stylesheet() -> str:
    """Return the style of every page."""
    # Stripped, so that no editor's last newline changes the text whose hash the policy names.
    return (TEMPLATES / "style.css").read_text(encoding="utf-8").strip()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    environment.filters["show"] = lambda value: show(value.value if isinstance(value, Cell) else value)
    environment.tests["linked"] = lambda value: isinstance(value, Cell) and bool(value.file)
    environment.filters["cell_class"] = _cell_class
    return environment


def _cell_class(value: Value) -> str:
    tone = value.tone if isinstance(value, Cell) else ""
    inner = value.value if isinstance(value, Cell) else value
    number = inner is None or (isinstance(inner, int | float) and not isinstance(inner, bool))
    kind = "number" if number else "span" if isinstance(inner, str) and SPAN.search(inner) else ""
    return " ".join(name for name in (kind, tone) if name)


def _write_atomic(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
