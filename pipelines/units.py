"""`medml deploy`: units for systemd and a file for compose, that keep `medml up` running on a machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from medml.errors import ConfigError
from medml.io.files import write_text
from medml.records.home import Home
from pipelines.verb import VerbResult

# What a service may touch: its home, a GPU, loopback; nothing else of the machine. `systemd-analyze security` rates it.
HARDENED = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""

SERVICE = """\
# Made by `medml deploy systemd`. Prefect, MLflow and the flows of one home, on loopback.
[Unit]
Description=medml: pipelines of {home}
After=network.target
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=exec
User={user}
WorkingDirectory={configs_parent}
Environment=MEDML_CONFIGS={configs}
ExecStart={python} -m pipelines.cli --home {home} up --prefect-port {prefect_port} --mlflow-port {mlflow_port}
Restart=always
RestartSec=5
KillMode=mixed
TimeoutStopSec=90
LimitNOFILE=65536
ReadWritePaths={home}
{hardened}
[Install]
WantedBy=multi-user.target
"""

BACKUP = """\
# Made by `medml deploy systemd`. A copy of the home; databases by their own means, while they are in use.
[Unit]
Description=medml: backup of {home}

[Service]
Type=oneshot
User={user}
ExecStart={python} -m pipelines.cli --home {home} backup {backups} --keep 14
ReadWritePaths={home} {backups}
{hardened}"""

TIMER = """\
# Made by `medml deploy systemd`.
[Unit]
Description=medml: nightly backup

[Timer]
OnCalendar=*-*-* 01:00:00
Persistent=true
RandomizedDelaySec=10min

[Install]
WantedBy=timers.target
"""

COMPOSE = """\
# Made by `medml deploy compose`. One container holds Prefect, MLflow and the flows; `medml up` looks after them.
# Its network is the host's, so that both pages stay on loopback of this machine and nothing else is opened.
services:
  medml:
    image: {image}
    user: "{uid}:{gid}"
    network_mode: host
    init: true
    restart: unless-stopped
    stop_grace_period: 90s
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    tmpfs: [/tmp]
    shm_size: 2gb
    environment:
      MEDML_HOME: /home_of_medml
      MEDML_CONFIGS: /configs
      HOME: /tmp
    volumes:
      - {home}:/home_of_medml
      - {configs}:/configs:ro
    command: [medml, up, --prefect-port, "{prefect_port}", --mlflow-port, "{mlflow_port}"]
    healthcheck:
      test:
        - CMD
        - python
        - -c
        - |
          from urllib.request import urlopen
          urlopen("http://127.0.0.1:{prefect_port}/api/health", timeout=5)
          urlopen("http://127.0.0.1:{mlflow_port}/health", timeout=5)
      interval: 30s
      timeout: 15s
      start_period: 120s
      retries: 4
{gpus}"""

GPUS = """\
    deploy:
      resources:
        reservations:
          devices:
            - {driver: nvidia, count: all, capabilities: [gpu]}
"""


def write_systemd(
    home: Home, out: Path, *, user: str, backups: Path, configs: Path, ports: tuple[int, int]
) -> VerbResult:
    """Write a service that keeps `medml up` running, and a nightly backup with its timer.

    Raises
    ------
    ConfigError
        If a path or name holds what systemd would read as something else.
    """
    values = {
        "home": _plain(str(home.root)),
        "user": _plain(user),
        "python": _plain(sys.executable),
        "configs": _plain(str(configs)),
        "configs_parent": _plain(str(configs.parent)),
        "backups": _plain(str(backups)),
        "prefect_port": ports[0],
        "mlflow_port": ports[1],
        "hardened": HARDENED,
    }
    texts = {"medml.service": SERVICE, "medml-backup.service": BACKUP, "medml-backup.timer": TIMER}
    outputs = {}
    for name, text in texts.items():
        write_text(out / name, text.format(**values))
        outputs[name] = str(out / name)
    return VerbResult(
        verb="deploy",
        ok=True,
        outputs=outputs,
        notes=(
            f"sudo cp {out}/medml*.service {out}/medml*.timer /etc/systemd/system/ && sudo systemctl daemon-reload",
            f"sudo install -d -o {user} -m 700 {backups}",
            "sudo systemctl enable --now medml.service medml-backup.timer",
            "the log of `medml up` itself: journalctl -u medml; those of its parts: HOME/logs",
        ),
    )


def write_compose(home: Home, out: Path, *, image: str, configs: Path, ports: tuple[int, int], gpu: bool) -> VerbResult:
    """Write a compose file that runs `medml up` in a container that may write to the home only."""
    values = {
        "home": _plain(str(home.root)),
        "configs": _plain(str(configs)),
        "image": _plain(image),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "prefect_port": ports[0],
        "mlflow_port": ports[1],
        "gpus": GPUS if gpu else "",
    }
    path = out / "compose.yaml"
    write_text(path, COMPOSE.format(**values))
    return VerbResult(
        verb="deploy",
        ok=True,
        outputs={"compose": str(path)},
        notes=(
            f"build the image first: docker build -f deploy/Dockerfile -t {image} .",
            f"then: docker compose -f {path} up -d; docker compose -f {path} logs -f",
        ),
    )


def _plain(text: str) -> str:
    """Return a value as it is, if nobody reads anything else into it.

    Raises
    ------
    ConfigError
        If it holds blanks, quotes, or signs that mean something in a unit or in YAML.
    """
    if wrong := sorted({sign for sign in text if not (sign.isalnum() or sign in "/._-:@+")}):
        shown = ", ".join(map(repr, wrong))
        raise ConfigError(f"{text!r} cannot stand in a unit or a compose file ({shown}); use a path and name without")
    return text
