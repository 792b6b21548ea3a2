"""Certificates for tests: self-signed, for localhost, made by the openssl that is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Made(NamedTuple):
    """Files in PEM."""

    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Made:
    """Return a new certificate and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Made(folder / "certificate.pem", folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "30"]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return made
