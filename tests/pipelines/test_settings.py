"""The environment of Prefect and MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SHOW = """
import json, os, sys
from pathlib import Path
from medml.records.home import Home
from pipelines.settings import prepare
prepare(Home(Path(sys.argv[1])))
assert "prefect" not in sys.modules and "mlflow" not in sys.modules
print(json.dumps(dict(os.environ)))
"""


def prepared(home: str, cwd: Path, **given: str) -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "MEDML_"))}
    output = subprocess.check_output(
        [sys.executable, "-c", SHOW, home], cwd=cwd, env={**kept, "PYTHONPATH": str(root), **given}
    )
    return dict(json.loads(output))


def test_the_home_is_absolute_and_prefect_lives_in_it(tmp_path: Path) -> None:
    found = prepared("a_home", tmp_path)
    assert found["MEDML_HOME"] == str(tmp_path / "a_home")
    assert found["PREFECT_HOME"] == str(tmp_path / "a_home" / "prefect")


def test_nothing_phones_home_whatever_the_caller_says_but_a_log_level_is_theirs(tmp_path: Path) -> None:
    found = prepared(
        "h", tmp_path, PREFECT_SERVER_ANALYTICS_ENABLED="true", PREFECT_LOGGING_LEVEL="DEBUG", NO_PROXY="pacs"
    )
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert found["DO_NOT_TRACK"] == "1"
    assert found["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert found["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert found["NO_PROXY"] == "pacs,127.0.0.1,localhost"
