"""The promises of docs/security.md: each names a test that is there, and our code has no door that data could open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*(ROOT / "medml").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

# Calls that run, load or unpack what a file says.
NEVER = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("shutil.unpack_archive", "tarfile.open", "torch.jit.load", "torch.hub.load", "mlflow.pyfunc.load_model"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle"),
    *("joblib.load", "monai.bundle.ConfigParser", "ConfigParser.parse", "xml.etree.ElementTree.parse"),
}
NEVER_METHODS = {"extractall", "extract"}
# Ours, written and read in one home, in a folder that only its owner may open.
OWN_PICKLES = {"medml/catalogue/shards.py", "medml/inference/listing.py"}
PICKLES = {"pickle", "_pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
LISTENING = {"0.0.0.0", "::", ""}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def test_nothing_runs_loads_or_unpacks_what_a_file_says() -> None:
    wrong = []
    for where, name, call in calls():
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        method = name.rpartition(".")[2]
        if name in NEVER or ("." in name and method in NEVER_METHODS and "archive" in name.lower()):
            wrong.append(f"{where} calls {name}")
        if method == "load" and name.startswith(("torch.", "pickle.")) and words.get("weights_only") != "True":
            wrong.append(f"{where} loads without weights_only=True")
        if method == "load" and name.startswith(("np.", "numpy.")) and words.get("allow_pickle") != "False":
            wrong.append(f"{where} loads arrays without allow_pickle=False")
        if words.get("shell", "False") != "False":
            wrong.append(f"{where} runs a shell")
        if words.get("autoescape") == "False" or words.get("verify") == "False":
            wrong.append(f"{where} switches a check off")
    assert wrong == []


def test_nothing_is_pickled_but_a_shard_of_our_own() -> None:
    wrong = []
    for path in MODULES:
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        where = str(path.relative_to(ROOT))
        if names & PICKLES and where not in OWN_PICKLES:
            wrong.append(f"{where} imports {sorted(names & PICKLES)}")
    assert wrong == []


def test_no_address_but_loopback_is_a_default() -> None:
    """Whoever wants another one says so; a literal in our code would be a default."""
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in LISTENING - {""}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".bind") and node.args:
                host = node.args[0].elts[0] if isinstance(node.args[0], ast.Tuple) else None
                if isinstance(host, ast.Constant) and host.value in LISTENING:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} binds to everything")
    assert wrong == []


def test_every_promise_names_a_check_that_exists() -> None:
    written = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"def (test_\w+)", written))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) > 40
    assert sorted(set(named) - known) == []


@pytest.mark.parametrize("heading", ["Assets", "Who may attack", "Promises", "What is not promised", "Dependencies"])
def test_threat_model_has_its_parts(heading: str) -> None:
    assert f"## {heading}" in PAGE
