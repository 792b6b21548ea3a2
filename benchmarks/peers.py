"""Environments of their own for what ours is compared with; made once, kept out of git."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("MEDML_BENCH", Path(__file__).resolve().parent.parent / ".bench"))
PACKAGES = ("dcm2niix==1.0.20260724", "SimpleITK==2.5.7", "dicom2nifti==2.6.2", "nibabel==5.4.2")
# Unpinned, nnU-Net pulls the newest torch: the comparison wants the one that we train with.
NNUNET = ("torch==2.13.0", "torchvision==0.28.0", "nnunetv2==2.8.1")


@dataclass(frozen=True, slots=True)
class Peers:
    """What is there to compare with.

    Attributes
    ----------
    python : Path or None
        Interpreter that has SimpleITK and dicom2nifti.
    dcm2niix : dict
        Where it came from to its program; the first one is what the targets are relative to.
    missing : tuple of str
        Why something is not there.
    """

    python: Path | None
    dcm2niix: dict[str, Path]
    missing: tuple[str, ...]


def find_peers() -> Peers:
    """Make the environment if it is not there; without a network, say so and take what the machine has."""
    folder = CACHE / "peers"
    python: Path | None = folder / "bin" / "python"
    missing: list[str] = []
    if not (folder / ".made").exists():
        python = _make(folder, PACKAGES, missing)
    programs = {}
    for program in sorted(folder.glob("lib/python*/site-packages/dcm2niix/dcm2niix")):
        programs["PyPI"] = program
    if system := shutil.which("dcm2niix"):
        programs["system"] = Path(system)
    if not programs:
        missing.append("dcm2niix: neither installed from PyPI nor in the PATH (apt install dcm2niix)")
    if shutil.which("pigz") is None:
        missing.append("pigz: not in the PATH (apt install pigz); dcm2niix -z o falls back to its own zlib")
    return Peers(python, programs, tuple(missing))


def nnunet_python() -> Path:
    """Return the interpreter that has nnU-Net v2, after making its environment if it is not there.

    Raises
    ------
    SystemExit
        If it cannot be installed.
    """
    folder, missing = CACHE / "nnunet", list[str]()
    if not (folder / ".made").exists() and _make(folder, NNUNET, missing) is None:
        raise SystemExit("; ".join(missing))
    return folder / "bin" / "python"


def _make(folder: Path, packages: tuple[str, ...], missing: list[str]) -> Path | None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        missing.append(f"{', '.join(packages)}: pip could not install them (no network?)")
        return None
    (folder / ".made").touch()
    return python
