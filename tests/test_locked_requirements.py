"""What is installed is what was tested: pins, hashes, and the image that is made of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_lock_and_constraints_pin_the_same_and_only_torch_has_no_hash() -> None:
    constraints = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert constraints.pop("torch") == "2.13.0"
    assert pins(LOCK) == constraints, "run `make lock` after a change of constraints.txt"


def test_every_requirement_of_the_lock_has_hashes() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(LOCK))
    bare = [entry.split()[0] for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry)]
    assert bare == []


def test_lock_names_no_place_to_install_from() -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", LOCK)


def test_image_runs_as_a_user_with_the_pinned_torch_and_proved_files() -> None:
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))["torch"]
    assert f"torch=={pinned}" in DOCKERFILE
    assert "--require-hashes" in DOCKERFILE
    last = DOCKERFILE.split("FROM ")[-1]
    assert "--no-index" in last
    assert re.search(r"^USER medml$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert not re.search(r"^ADD |curl |wget |--trusted-host|index-url", DOCKERFILE, re.MULTILINE)


def test_what_the_image_copies_is_there_and_let_through() -> None:
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [word for line in re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


@pytest.mark.slow
def test_image_is_built_and_says_its_verbs() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no docker here, or its daemon does not run")
    build = ["docker", "build", "--quiet", "--file", "deploy/Dockerfile", "--tag", "medml:test", "."]
    subprocess.run(build, cwd=ROOT, check=True, timeout=3600)
    said = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "medml:test", "medml", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "forget" in said.stdout
