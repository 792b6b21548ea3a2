"""The training child: ``python -m medml.training JOB.json``, alone or once per GPU under torchrun."""

from __future__ import annotations

import sys

from medml.interpreter import run_quickly
from medml.networks.monai_import import import_monai


def main() -> int:
    """Train what the job file of the command line says; return the exit code."""
    import_monai()
    from medml.training import job

    return job.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run_quickly(main))
