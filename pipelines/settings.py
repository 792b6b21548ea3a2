"""The environment that Prefect and MLflow read when they are imported; set it first, in one place."""

from __future__ import annotations

import os
from pathlib import Path

from medml.records.home import Home
from pipelines.credentials import read_login

# Nothing phones home, whatever the caller's environment says.
_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
}

# Sensible for a command line; an operator's own setting wins.
_QUIET = {
    "PREFECT_LOGGING_LEVEL": "INFO",  # what the Prefect UI shows
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal gets one clear line from the verb
    "PREFECT_LOGGING_LOG_PRINTS": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # A flow without the home's server would silently lose its history in an ephemeral one (DESIGN 5.5).
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}

_LOOPBACK = ("127.0.0.1", "localhost")


def prepare(home: Home) -> None:
    """Set this process's environment for ``home``; call it before Prefect or MLflow is imported.

    ``MEDML_HOME`` becomes absolute, so that every child, task and deployed run finds the same home.
    """
    os.environ.update(_OFFLINE)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["MEDML_HOME"] = str(home.root.resolve())
    os.environ["PREFECT_HOME"] = str(home.prefect.resolve())
    _bypass_proxies()


def server_environment(home: Home, port: int, *, host: str = "127.0.0.1") -> dict[str, str]:
    """Return the environment of the home's Prefect server: its own port, its login, requests of its own page only."""
    pages = _pages(host, port)
    environment = {name: value for name, value in child_environment().items() if not name.startswith("PREFECT_API_")}
    return environment | {
        "PREFECT_HOME": str(home.prefect.resolve()),
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": f"{pages[0]}/api",
        "PREFECT_SERVER_API_AUTH_STRING": read_login(home).text,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(pages),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


def child_environment() -> dict[str, str]:
    """Return the environment of a child that runs our own code."""
    return dict(os.environ) | {"PYTHONPATH": _import_path(), "PYTHONUNBUFFERED": "1"}


def mlflow_environment(home: Home, port: int, *, host: str = "127.0.0.1") -> dict[str, str]:
    """Return the environment of the MLflow server: one process without a job runner, its login, its own page only."""
    environment = {name: value for name, value in child_environment().items() if name != "MLFLOW_TRACKING_URI"}
    names = [page.removeprefix("http://") for page in _pages(host, port)]
    return environment | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MEDML_MLFLOW_LOGIN": read_login(home).text,
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(names),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(_pages(host, port)),
    }


def _pages(host: str, port: int) -> list[str]:
    """Return the addresses that a server's page may be opened under, its own first."""
    names = [host, *(name for name in _LOOPBACK if name != host and host in _LOOPBACK)]
    return [f"http://{name}:{port}" for name in names]


def _import_path() -> str:
    """Children import the very `pipelines` and `medml` that this process runs, installed or not."""
    checkout = str(Path(__file__).resolve().parents[1])
    rest = os.environ.get("PYTHONPATH", "")
    return f"{checkout}{os.pathsep}{rest}" if rest else checkout


def _bypass_proxies() -> None:
    """Requests to our own loopback servers must not go to a hospital's web proxy."""
    for name in ("NO_PROXY", "no_proxy"):
        entries = [entry for entry in os.environ.get(name, "").split(",") if entry]
        os.environ[name] = ",".join([*entries, *(host for host in _LOOPBACK if host not in entries)])
