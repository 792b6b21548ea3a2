"""Where a flow's tasks run: what Prefect offers for clusters."""

from __future__ import annotations

from typing import Any

from medml.errors import ConfigError


def task_runner(name: str, address: str | None, workers: int | None) -> Any:
    """Return Prefect's runner of this name: on the cluster at ``address``, else on one started on this machine.

    Raises
    ------
    ConfigError
        If its package is not installed.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"runner: {name} needs the package {error.name}, which is not installed: pip install 'medml[{name}]'"
        ) from None
    if address:
        return DaskTaskRunner(address=address)
    options = {"n_workers": workers or 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    return DaskTaskRunner(cluster_kwargs=options)
