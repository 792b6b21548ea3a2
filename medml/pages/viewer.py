"""An interactive viewer of a few cases: the bundled niivue in one page that opens from disk and asks for nothing.

The page's policy names the hashes of its own two scripts and allows no other, no eval and no connection. It is a file
of its own because niivue alone is 2.3 MB: the report beside it stays free of scripts and opens at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medml.pages.shell import TEMPLATES, digest_of, render

VENDOR = Path(__file__).parent / "vendor"
MAX_CASE_BYTES = 1_500_000  # of the image before compression: `shown_size` of the evaluation keeps to it
MAX_BYTES = 12_000_000  # of all cases on one page, compressed; the page grows to 4/3 of it and niivue


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A mask over an image.

    Attributes
    ----------
    nifti : bytes
        ``.nii.gz`` of uint8 on the image's grid.
    legend : mapping of int to (str, str)
        Name and colour (#rrggbb) of each value.
    """

    name: str
    nifti: bytes
    legend: Mapping[int, tuple[str, str]]


@dataclass(frozen=True, slots=True, eq=False)
class ViewerCase:
    """One case of the viewer.

    Attributes
    ----------
    caption : str
        What to know of it, in plain text.
    image : bytes
        ``.nii.gz`` of uint8, black to white, on a canonical grid.
    flat : bool
        A 2D picture: one plane, upright as it was taken.
    place : tuple of float
        Where to look first, as fractions of the grid along I, J, K.
    directions : bool
        Whether the patient's directions are known.
    key : str
        Names the case after the page's "#": the page opens with it.
    """

    name: str
    caption: str
    image: bytes
    layers: Sequence[Layer] = ()
    flat: bool = False
    place: tuple[float, float, float] = (0.5, 0.5, 0.5)
    directions: bool = True
    key: str = ""

    @property
    def size(self) -> int:
        """Return the bytes of its image and masks."""
        return len(self.image) + sum(len(layer.nifti) for layer in self.layers)


def write_viewer(
    path: Path, cases: Sequence[ViewerCase], *, title: str, kicker: str = "", restricted: bool = False
) -> int:
    """Write the viewer page of the cases that fit ``MAX_BYTES``, the first ones first; return how many those are.

    Parameters
    ----------
    restricted : bool
        A page of the clinical side: readable by its owner alone.

    Raises
    ------
    ValueError
        If there is no case, or niivue's file is not the one that was recorded.
    """
    if not cases:
        raise ValueError("found no case to show, expected at least one; leave the viewer out")
    shown = _fitting(cases)
    scripts = viewer_scripts()
    left = len(cases) - len(shown)
    render(
        "viewer.html",
        path,
        mode=0o600 if restricted else 0o644,
        restricted=restricted,
        title=title,
        kicker=kicker,
        lead=f"Cases left out, because the file would have grown too large: {left}." if left else "",
        scripts=scripts,
        script_digests=[digest_of(script) for script in scripts],
        cases=[pack_case(case) for case in shown],
    )
    return len(shown)


def _fitting(cases: Sequence[ViewerCase]) -> list[ViewerCase]:
    shown: list[ViewerCase] = []
    total = 0
    for case in cases:
        total += case.size
        if shown and total > MAX_BYTES:
            break
        shown.append(case)
    return shown


def pack_case(case: ViewerCase) -> dict[str, Any]:
    """Return a case as the page's script reads it: plain values for JSON, bytes in base64."""
    return {
        "key": case.key,
        "name": case.name,
        "caption": case.caption,
        "image": base64.b64encode(case.image).decode(),
        "flat": case.flat,
        "place": case.place,
        "directions": case.directions,
        "layers": [
            {
                "name": layer.name,
                "data": base64.b64encode(layer.nifti).decode(),
                "legend": [[value, name, colour] for value, (name, colour) in sorted(layer.legend.items())],
            }
            for layer in case.layers
        ],
    }


def unpack_case(packed: Mapping[str, Any]) -> ViewerCase:
    """Undo `pack_case`."""
    layers = [
        Layer(
            layer["name"],
            base64.b64decode(layer["data"]),
            {int(value): (name, colour) for value, name, colour in layer["legend"]},
        )
        for layer in packed["layers"]
    ]
    i, j, k = packed["place"]
    plain = {name: packed[name] for name in ("name", "caption", "flat", "directions", "key")}
    return ViewerCase(**plain, image=base64.b64decode(packed["image"]), layers=layers, place=(i, j, k))


def viewer_scripts() -> list[str]:
    """Return niivue and what drives it, in this order."""
    return [_niivue(), _script()]


@cache
def _niivue() -> str:
    content = (VENDOR / "niivue.umd.js").read_bytes()
    recorded = json.loads((VENDOR / "niivue.json").read_text(encoding="utf-8"))["sha256"]
    found = hashlib.sha256(content).hexdigest()
    if found != recorded:
        raise ValueError(f"niivue.umd.js: found sha256 {found}, expected {recorded}; install medml anew")
    return content.decode()


@cache
def _script() -> str:
    return (TEMPLATES / "viewer.js").read_text(encoding="utf-8")
