"""The last state and the one before; what is damaged is never used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medml.errors import MedmlError
from medml.training import checkpoints
from medml.training.checkpoints import load_checkpoint, note_pieces, noted_pieces, save_checkpoint


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": {"w": torch.full((3,), float(step))}}


def test_there_is_none_before_the_first(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_the_last_comes_back_and_the_one_before_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, state(step))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 3
    assert torch.load(tmp_path / "previous.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_damaged_last_falls_back_to_the_previous(tmp_path: Path, damage: bytes | None) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last.pt").write_bytes(bytes(content) if damage is None else damage)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1


def test_nothing_whole_is_said_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"zero")
    with pytest.raises(
        MedmlError, match=r"last\.pt and previous\.pt are damaged .* remove them to train from the start"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("renames_before_the_kill", [0, 1])
def test_a_kill_between_two_renames_leaves_a_state_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames_before_the_kill: int
) -> None:
    save_checkpoint(tmp_path, state(1))
    real, made = checkpoints.os.replace, []

    def replace(source: Path, target: Path) -> None:
        if Path(target).name in ("last.pt", "previous.pt"):
            if len(made) == renames_before_the_kill:
                raise KeyboardInterrupt
            made.append(target)
        real(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state(2))
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1
    save_checkpoint(tmp_path, state(3))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 3


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"path": Path("x")})
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(tmp_path)


def test_what_fits_into_memory_is_noted_for_the_next_start(tmp_path: Path) -> None:
    assert noted_pieces(tmp_path) == 1
    note_pieces(tmp_path, 4)
    assert noted_pieces(tmp_path) == 4
