"""What `medml deploy` writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.units import write_compose, write_systemd

PORTS = (4201, 5001)


def units(tmp_path: Path, **changed: str) -> Path:
    given = {"user": "root", "backups": Path("/var/backups/medml"), "configs": tmp_path} | changed
    write_systemd(Home(tmp_path / "home"), tmp_path / "units", ports=PORTS, **given)  # type: ignore[arg-type]
    return tmp_path / "units"


def test_the_service_runs_up_on_its_ports_may_write_its_home_only_and_gains_nothing(tmp_path: Path) -> None:
    text = (units(tmp_path) / "medml.service").read_text()
    assert f"--home {tmp_path / 'home'} up --prefect-port 4201 --mlflow-port 5001" in text
    assert f"ReadWritePaths={tmp_path / 'home'}\n" in text
    for line in ("Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077", "User=root"):
        assert f"\n{line}\n" in text


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed; apt-get install systemd")
    files = sorted(map(str, units(tmp_path).iterdir()))
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert [Path(file).name for file in files] == ["medml-backup.service", "medml-backup.timer", "medml.service"]
    assert [line for line in done.stderr.splitlines() if "medml" in line] == []


@pytest.mark.parametrize("user", ["a b", "root\nExecStartPre=/bin/sh", "%i", '"'])
def test_what_a_unit_would_read_as_something_else_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit or a compose file"):
        units(tmp_path, user=user)


@pytest.mark.parametrize("gpu", [False, True])
def test_the_container_is_read_only_without_rights_and_opens_nothing_but_loopback(tmp_path: Path, gpu: bool) -> None:
    write_compose(Home(tmp_path / "home"), tmp_path, image="medml:1", configs=tmp_path, ports=PORTS, gpu=gpu)
    found = yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]["medml"]
    assert (found["read_only"], found["cap_drop"], found["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert found["network_mode"] == "host"
    assert "ports" not in found
    assert found["command"] == ["medml", "up", "--prefect-port", "4201", "--mlflow-port", "5001"]
    assert f"{tmp_path / 'home'}:/home_of_medml" in found["volumes"]
    assert ("deploy" in found) is gpu
