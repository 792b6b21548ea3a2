"""The state of a training on disk: the last one and the one before, each proved whole before it is used."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from medml.errors import MedmlError
from medml.io.files import sha256_file, sync_path, temporary_path, write_json

logger = logging.getLogger(__name__)

LAST, PREVIOUS, DIGESTS = "last.pt", "previous.pt", "checkpoints.json"
PIECES = "pieces.json"


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write ``last.pt``; the one that was last stays as ``previous.pt``.

    The digests are written before the files are renamed, so that whatever a kill leaves behind is known and whole.

    Parameters
    ----------
    state : dict
        Tensors and plain values only: it is read back with ``weights_only=True``.
    """
    run.mkdir(parents=True, exist_ok=True)
    fresh = temporary_path(run / LAST)
    try:
        torch.save(state, fresh)
        sync_path(fresh)
        known = _known_digests(run)
        write_json(run / DIGESTS, {"sha256": [sha256_file(fresh), *known[:1]]})
        if (run / LAST).exists():
            os.replace(run / LAST, run / PREVIOUS)
        os.replace(fresh, run / LAST)
    finally:
        fresh.unlink(missing_ok=True)
    sync_path(run)


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """Return the newest whole state, or None if training never got that far.

    Raises
    ------
    MedmlError
        If there are checkpoints and none of them is whole.
    """
    there = [run / name for name in (LAST, PREVIOUS) if (run / name).exists()]
    known = _known_digests(run)
    for path in there:
        if sha256_file(path) in known:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        logger.warning("%s is damaged (its sha256 is not the one noted); trying the one before", path.name)
    if there:
        raise MedmlError(
            f"{run}: {' and '.join(path.name for path in there)} are damaged (sha256 differs from {DIGESTS}); "
            "remove them to train from the start"
        )
    return None


def note_pieces(run: Path, pieces: int) -> None:
    """Note in how many pieces batches fit into memory, for the next start: no checkpoint can be written any more."""
    write_json(run / PIECES, {"pieces": pieces})


def noted_pieces(run: Path) -> int:
    """Return what an earlier start noted, else 1."""
    try:
        return int(json.loads((run / PIECES).read_text(encoding="utf-8"))["pieces"])
    except FileNotFoundError:
        return 1


def _known_digests(run: Path) -> list[str]:
    try:
        return [str(digest) for digest in json.loads((run / DIGESTS).read_text(encoding="utf-8"))["sha256"]]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return []  # nothing saved yet, or the note itself is damaged: then no checkpoint can be proved
