from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from medml.errors import ConfigError, NotFound, Refusal
from medml.io.files import sha256_file
from medml.networks import package as package_module
from medml.networks.build import build_network
from medml.networks.package import copy_package, load_package, package_digest, write_package
from medml.records.calibration import Calibration
from medml.records.plan import Plan

PlanMaker = Callable[..., Plan]
Pack = Callable[..., Path]
STAGES = {"filters": (4, 8, 16), "strides": (1, 2, 2)}


@pytest.fixture
def folder(make_plan: PlanMaker, pack: Pack) -> Path:
    plan = make_plan(network="dynunet", network_options=STAGES)
    torch.manual_seed(0)
    return pack(build_network(plan), plan, temperature=1.5)


def reseal(folder: Path, path: str) -> None:
    """Make the digest of a changed file right again, as a forger would."""
    seal = json.loads((folder / "digests.json").read_text())
    seal["files"][path] = sha256_file(folder / path)
    (folder / "digests.json").write_text(json.dumps(seal))


def test_what_is_written_is_what_is_loaded(make_plan: PlanMaker, pack: Pack) -> None:
    plan = make_plan(network="dynunet", network_options=STAGES, spacing_mm=(1.0, 1.0, 2.5))
    network = build_network(plan)
    package = load_package(pack(network, plan, temperature=1.5, threshold=0.4))
    assert package.plan == plan
    assert package.labels == {0: "background", 1: "organ"}
    assert package.calibration == Calibration(temperature=1.5, threshold=0.4)
    assert package.sources == {"dataset": "d" * 64, "test_set": "e" * 64, "code": "1234"}
    assert (package.name, package.version) == ("organ", "3")
    assert package.environment["torch"] == torch.__version__
    assert not package.network.training
    for (name, written), loaded in zip(
        network.state_dict().items(), package.network.state_dict().values(), strict=True
    ):
        assert torch.equal(written, loaded), name


def test_loading_does_not_wait_for_the_compiler(folder: Path) -> None:
    code = "import sys; from medml.networks.package import load_package; from pathlib import Path\n"
    code += "load_package(Path(sys.argv[1])); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_folder_is_a_monai_bundle(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "models/model.pt",
        "docs/README.md",
        "plan.json",
        "labels.json",
        "calibration.json",
        "digests.json",
    }
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    required = ("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task")
    assert all(metadata[key] for key in (*required, "description", "authors", "copyright"))
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16, 16]
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "organ"}


def test_weights_are_plain_tensors_and_shared_ones_are_stored_once(folder: Path) -> None:
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    distinct = {value.data_ptr(): value.numel() for value in state.values()}
    assert len(distinct) < len(state)
    assert (folder / "models" / "model.pt").stat().st_size < 2 * 4 * sum(distinct.values())


def test_the_digest_names_the_behaviour_and_not_the_card(folder: Path, make_plan: PlanMaker, pack: Pack) -> None:
    before = package_digest(folder)
    (folder / "docs" / "README.md").write_text("# Another card\n")
    assert package_digest(folder) == before == load_package(folder).digest
    plan = make_plan(network="dynunet", network_options=STAGES)
    torch.manual_seed(0)
    assert package_digest(pack(build_network(plan), plan, temperature=1.6)) != before


def test_members_of_an_ensemble_are_all_loaded_and_all_named_by_the_digest(make_plan: PlanMaker, pack: Pack) -> None:
    plan = make_plan(network="dynunet", network_options=STAGES)
    one, other = build_network(plan), build_network(plan)
    alone = package_digest(pack(one, plan))
    folder = pack([one, other.state_dict()], plan)
    package = load_package(folder)
    assert package.digest not in (alone, package_digest(pack([one, one], plan)))
    for written, loaded in zip((one, other), package.members, strict=True):
        assert not loaded.training
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in written.state_dict().items())


def test_the_digest_of_a_single_network_is_that_of_packages_from_before(folder: Path) -> None:
    names = ("models/model.pt", "plan.json", "labels.json", "calibration.json")
    text = "\n".join(f"{name} {sha256_file(folder / name)}" for name in names)
    assert package_digest(folder) == hashlib.sha256(text.encode()).hexdigest()


def test_a_member_that_changed_or_is_gone_is_named(make_plan: PlanMaker, pack: Pack) -> None:
    plan = make_plan(network="dynunet", network_options=STAGES)
    folder = pack([build_network(plan) for _ in range(3)], plan)
    (folder / "models" / "model_3.pt").unlink()
    with pytest.raises(NotFound, match=r"models/model_3.pt is missing"):
        load_package(folder)
    shutil.copy(folder / "models" / "model.pt", folder / "models" / "model_3.pt")
    with pytest.raises(Refusal, match=r"models/model_3.pt: sha256 \w+, expected \w+; the file changed"):
        load_package(folder)


def test_a_package_without_networks_is_refused(make_plan: PlanMaker, pack: Pack) -> None:
    with pytest.raises(ConfigError, match="needs the weights of at least one network, found none"):
        pack([], make_plan())


def test_a_copy_is_whole_and_never_overwrites(folder: Path, tmp_path: Path) -> None:
    copy = copy_package(folder, tmp_path / "copy")
    assert load_package(copy).digest == package_digest(folder)
    with pytest.raises(ConfigError, match="is there already; name a new or empty folder"):
        copy_package(folder, copy)


def test_a_network_of_our_own_travels_with_its_file(make_plan: PlanMaker, pack: Pack) -> None:
    options = {"widen_factor": 0.125, "hidden": 4}
    plan = make_plan(task="classify", network="slice_sequence", network_options=options)
    folder = pack(build_network(plan), plan)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    assert config["network_def"]["_target_"] == "scripts.slice_sequence.SliceSequence"
    assert "from medml" not in (folder / "scripts" / "slice_sequence.py").read_text()
    (folder / "scripts" / "slice_sequence.py").write_text("import os\n")
    with pytest.raises(Refusal, match=r"scripts/slice_sequence.py: sha256"):
        load_package(folder)


def test_a_new_package_replaces_an_old_one_and_leaves_nothing_beside(
    folder: Path, make_plan: PlanMaker, pack: Pack
) -> None:
    (folder / "stray.txt").write_text("of the old package")
    plan = make_plan(network="dynunet", network_options=STAGES)
    pack(build_network(plan), plan)
    assert not (folder / "stray.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["package"]


def test_a_package_that_could_not_be_finished_is_not_there(
    make_plan: PlanMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(package_module, "write_text", fail)
    plan = make_plan()
    with pytest.raises(OSError, match="no space left"):
        write_package(tmp_path / "p", build_network(plan), plan, plan.labels, Calibration(), "", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["models/model.pt", "plan.json", "labels.json", "calibration.json", "configs/inference.json"]
)
def test_a_changed_file_is_refused_with_both_digests(folder: Path, path: str) -> None:
    expected = sha256_file(folder / path)
    with (folder / path).open("ab") as file:
        file.write(b" ")
    found = sha256_file(folder / path)
    with pytest.raises(Refusal, match=rf"{path}: sha256 {found}, expected {expected}") as refusal:
        load_package(folder)
    assert refusal.value.code == "package_digest"


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "calibration.json").unlink()
    with pytest.raises(NotFound, match=r"not a whole model package, calibration.json is missing"):
        load_package(folder)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    torch.save({"conv.weight": torch.zeros(2, 2)}, folder / "models" / "model.pt")
    reseal(folder, "models/model.pt")
    with pytest.raises(
        Refusal, match=r"do not fit the plan's dynunet; first bottleneck\S+: found nothing, expected \(16, 8, 3, 3, 3\)"
    ):
        load_package(folder)


@pytest.mark.parametrize(
    ("content", "words"), [(nn.Linear(1, 1), "not a plain file of tensors"), ([1, 2], "found a list, expected a state")]
)
def test_anything_but_tensors_is_refused(folder: Path, content: object, words: str) -> None:
    torch.save(content, folder / "models" / "model.pt")
    reseal(folder, "models/model.pt")
    with pytest.raises(Refusal, match=words) as refusal:
        load_package(folder)
    assert refusal.value.code == "package_weights"


def test_labels_and_weights_must_be_those_of_the_plan(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan = make_plan()
    with pytest.raises(ConfigError, match="are not those of its plan"):
        write_package(tmp_path / "p", build_network(plan), plan, {0: "x"}, Calibration(), "", {})
    with pytest.raises(Refusal, match="do not fit the plan's unet"):
        write_package(tmp_path / "p", nn.Linear(1, 1), plan, plan.labels, Calibration(), "", {})
