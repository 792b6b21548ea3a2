"""The floors of docs/architecture.md, read from the imports; and what may never stand in our code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    {"records", "geometry", "config", "errors", "interpreter"},
    {"io", "store", "transforms", "metrics", "pages"},
    {"networks"},
    {"catalogue", "datasets", "training", "evaluation", "explain", "registry", "inference", "results", "monitoring"},
]
HOMES = {
    "pydicom": "io",
    "nibabel": "io",
    "highdicom": "io",
    "pynetdicom": "io",
    "dicomweb_client": "io",
    "PIL": "io",
    "sqlalchemy": "store",
    "alembic": "store",
    "jinja2": "pages",
    "matplotlib": "pages",
    "mlflow": "registry",
}
ONLY_PIPELINES = {"prefect", "typer", "rich", "optuna"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "os.system", "mlflow.pytorch.load_model"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
PICKLES = {"pickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
# A shard, or a batch's list of scans, is written and read by one home, in a folder that only its owner may open.
OWN_PICKLES = {"medml/catalogue/shards.py", "medml/inference/listing.py"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}

MODULES = sorted([*(ROOT / "medml").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])


def package_of(path: Path) -> str:
    """Return the part of medml that a file belongs to, or "pipelines"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "medml" else "pipelines"


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = str(node.module)
            yield module
            if module == "medml":
                yield from (f"medml.{alias.name}" for alias in node.names)


def floor_of(package: str) -> int:
    if package == "pipelines":
        return len(FLOORS)
    return next((n for n, floor in enumerate(FLOORS) if package in floor), -1)


def test_every_package_of_medml_stands_on_a_floor() -> None:
    packages = {package_of(path) for path in MODULES} - {"pipelines", "__init__"}
    assert {package for package in packages if floor_of(package) < 0} == set()


def test_imports_go_down_only_and_neighbours_do_not_know_each_other() -> None:
    wrong = []
    for path in MODULES:
        here = package_of(path)
        for name in imports_of(path):
            if name.split(".")[0] == "pipelines" and here != "pipelines":
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if not name.startswith("medml.") or here in ("__init__", "pipelines"):
                continue
            there = name.split(".")[1]
            same_floor = floor_of(there) == floor_of(here) > 0 and there != here
            if same_floor or floor_of(there) > floor_of(here):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_third_party_packages_stay_in_their_homes() -> None:
    wrong = []
    for path in MODULES:
        for name in imports_of(path):
            top, here = name.split(".")[0], package_of(path)
            if top in HOMES and here != HOMES[top]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if top in ONLY_PIPELINES and here != "pipelines":
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if top in {"torch", "monai"} and (floor_of(here) < 1 or here == "pipelines"):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_module_is_a_drawer_for_everything() -> None:
    assert [path for path in MODULES if path.stem in FORBIDDEN_NAMES or path.parent.name in FORBIDDEN_NAMES] == []


def calls_of(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_from_outside_is_executed() -> None:
    """No pickle, eval, unsafe YAML, shell, or weights that may hold code."""
    wrong = []
    for path in MODULES:
        where = str(path.relative_to(ROOT))
        pickles = {"pickle", "joblib", "dill", "cloudpickle"}
        if where not in OWN_PICKLES:
            wrong += [f"{where} imports {name}" for name in imports_of(path) if name in pickles]
        for name, call in calls_of(path):
            words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name in FORBIDDEN_CALLS:
                wrong.append(f"{where}:{call.lineno} calls {name}")
            if name == "torch.load" and words.get("weights_only") != "True":
                wrong.append(f"{where}:{call.lineno} loads weights without weights_only=True")
            if name in {"np.load", "numpy.load"} and words.get("allow_pickle", "False") != "False":
                wrong.append(f"{where}:{call.lineno} allows pickles in arrays")
            if words.get("shell") == "True":
                wrong.append(f"{where}:{call.lineno} runs a shell")
    assert not wrong


@pytest.mark.parametrize("module", ["medml", "pipelines.cli"])
def test_importing_the_doors_is_cheap(module: str) -> None:
    heavy = "{'torch', 'monai', 'prefect', 'mlflow', 'pandas', 'matplotlib', 'sqlalchemy'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["pipelines.predict", "pipelines.health", "pipelines.batch_run", "medml.results.tables"]
)
def test_what_looks_at_no_voxel_starts_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'monai', 'matplotlib'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
