"""The model package: a MONAI bundle with everything needed to use a trained network, and proof that it is whole."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

import torch
from torch import nn

from medml.errors import ConfigError, NotFound, Refusal
from medml.io.files import read_record, sha256_file, sync_path, temporary_path, write_json, write_record, write_text
from medml.networks.build import build_network, network_script, network_shapes
from medml.networks.bundle import inference_config, metadata
from medml.records.calibration import Calibration
from medml.records.norms import Norms
from medml.records.plan import Plan
from medml.records.record import Record

WEIGHTS = "models/model.pt"
BEHAVIOUR = ("plan.json", "labels.json", "calibration.json")
NORMS = "norms.json"
SEALED = (*BEHAVIOUR, "configs/inference.json", "configs/metadata.json")
_SCRIPT = re.compile(r"scripts/\w+\.py")
Weights = nn.Module | Mapping[str, torch.Tensor]

LICENCE = """\
Model weights for research use only. Not a medical device; not for clinical decisions.

The weights were learned from data that has its own terms: {terms}
Whoever passes the weights on must keep to those terms and keep this notice.
"""


class Labels(Record):
    """``labels.json``: output channel to name."""

    labels: dict[int, str]
    multi_label: bool = False


class Seal(Record):
    """``digests.json``: where the model comes from, and the sha256 of each sealed file."""

    name: str
    version: str
    sources: dict[str, str]
    environment: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A package that was read and found whole.

    Attributes
    ----------
    network : nn.Module
        With its trained weights, on the CPU, in evaluation mode.
    others : tuple of nn.Module
        The further members of an ensemble.
    norms : Norms or None
        What its training data look like; None in packages from before, or made of weights trained elsewhere.
    digest : str
        sha256 over weights, plan, labels, calibration and norms: names the model's behaviour.
    sources : dict
        Digests of dataset, test set and code, as given to `write_package`.
    """

    folder: Path
    name: str
    version: str
    plan: Plan
    labels: dict[int, str]
    calibration: Calibration
    sources: dict[str, str]
    environment: dict[str, str]
    digest: str
    network: nn.Module
    others: tuple[nn.Module, ...] = ()
    norms: Norms | None = None

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """All networks; their probabilities are averaged."""
        return (self.network, *self.others)


def write_package(
    folder: Path,
    network: Weights | Sequence[Weights],
    plan: Plan,
    labels: Mapping[int, str],
    calibration: Calibration,
    card: str,
    digests: Mapping[str, str],
    *,
    name: str = "model",
    version: str = "0.1.0",
    terms: str = "see the model card, docs/README.md.",
    norms: Norms | None = None,
) -> Path:
    """Write a package; the folder appears whole or not at all, and replaces an older one.

    Parameters
    ----------
    network : nn.Module, state dict, or a sequence of them
        As `build_network` made it (not compiled or wrapped), trained. Several make an ensemble: of folds, of seeds.
    card : str
        The model card, Markdown.
    digests : mapping
        Digest of ``dataset``, ``test_set``, ``code``, …
    terms : str
        Licences of the training data, one sentence.
    norms : Norms or None
        What the training data look like, if it is known.

    Raises
    ------
    ConfigError
        If weights or labels do not belong to the plan.
    """
    if dict(labels) != plan.labels:
        raise ConfigError(f"the package's labels {dict(labels)} are not those of its plan, {plan.labels}")
    members = _states_of(network, plan)
    partial = temporary_path(folder)
    try:
        _write_files(partial, members, plan, calibration, card)
        if norms is not None:
            write_record(partial / NORMS, norms)
        known = () if norms is None else (NORMS,)
        scripts = _write_scripts(partial, plan)
        write_json(partial / "configs" / "metadata.json", metadata(plan, name=name, version=version, terms=terms))
        write_text(partial / "LICENSE", LICENCE.format(terms=terms))
        seal = Seal(
            name=name,
            version=version,
            sources=dict(digests),
            environment=_environment(),
            files={path: sha256_file(partial / path) for path in (*members, *SEALED, *known, *scripts)},
        )
        write_record(partial / "digests.json", seal)
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_package(folder: Path) -> Package:
    """Read a package, after proving that no file changed since it was written and that the weights fit the plan.

    Raises
    ------
    NotFound
        If a file of the package is missing.
    Refusal
        ``package_digest``, ``package_shapes`` or ``package_weights`` if the package is not what was written.
    """
    seal = _verified_seal(folder)
    plan = read_record(folder / "plan.json", Plan)
    network, *others = (_load_member(folder, path, plan) for path in _members_of(seal))
    return Package(
        folder=folder,
        name=seal.name,
        version=seal.version,
        plan=plan,
        labels=read_record(folder / "labels.json", Labels).labels,
        calibration=read_record(folder / "calibration.json", Calibration),
        sources=seal.sources,
        environment=seal.environment,
        digest=_digest_of(seal),
        network=network,
        others=tuple(others),
        norms=read_record(folder / NORMS, Norms) if NORMS in seal.files else None,
    )


def copy_package(folder: Path, out: Path) -> Path:
    """Copy a package, after checking its files; the copy appears whole or not at all.

    Raises
    ------
    ConfigError
        If ``out`` is there already and not an empty folder.
    """
    _verified_seal(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; name a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_path(out)
    try:
        shutil.copytree(folder, partial)
        _verified_seal(partial)
        _put_in_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def package_digest(folder: Path) -> str:
    """Return the digest that names a package's behaviour, after checking its files; no weights are loaded."""
    return _digest_of(_verified_seal(folder))


def _states_of(network: Weights | Sequence[Weights], plan: Plan) -> dict[str, Mapping[str, torch.Tensor]]:
    """Return the state dict of each member under the name of its file, after checking its shapes."""
    given = [network] if isinstance(network, (nn.Module, Mapping)) else list(network)
    if not given:
        raise ConfigError("a package needs the weights of at least one network, found none")
    states = {}
    for path, weights in zip(_member_paths(), given, strict=False):
        states[path] = weights.state_dict() if isinstance(weights, nn.Module) else weights
        _check_shapes(states[path], plan, path)
    return states


def _member_paths() -> Iterator[str]:
    yield WEIGHTS
    yield from (f"models/model_{number}.pt" for number in itertools.count(2))


def _members_of(seal: Seal) -> list[str]:
    """Return the files of weights that the seal names; the first one always."""
    return [WEIGHTS, *itertools.takewhile(seal.files.__contains__, itertools.islice(_member_paths(), 1, None))]


def _norms_of(seal: Seal) -> tuple[str, ...]:
    return (NORMS,) if NORMS in seal.files else ()


def _load_member(folder: Path, path: str, plan: Plan) -> nn.Module:
    state = _read_weights(folder / path)
    _check_shapes(state, plan, path)
    network = build_network(plan, proved=True)
    network.load_state_dict(state)
    return network.eval()


def _write_files(
    partial: Path, members: Mapping[str, Mapping[str, torch.Tensor]], plan: Plan, calibration: Calibration, card: str
) -> None:
    for part in ("configs", "models", "docs"):
        (partial / part).mkdir(parents=True)
    for path, state in members.items():
        torch.save(_plain_state(state), partial / path)
        sync_path(partial / path)
    write_record(partial / "plan.json", plan)
    write_record(partial / "labels.json", Labels(labels=plan.labels, multi_label=plan.multi_label))
    write_record(partial / "calibration.json", calibration)
    write_json(
        partial / "configs" / "inference.json", inference_config(plan, calibration.temperature, members=len(members))
    )
    write_text(partial / "docs" / "README.md", card)


def _write_scripts(partial: Path, plan: Plan) -> list[str]:
    """Put the file of a network of our own where ``python -m monai.bundle`` finds it; `load_package` never runs it."""
    script = network_script(plan)
    if script is None:
        return []
    (partial / "scripts").mkdir()
    paths = {f"scripts/{script.name}": script.read_text(encoding="utf-8"), "scripts/__init__.py": ""}
    for path, text in paths.items():
        write_text(partial / path, text)
    return list(paths)


def _digest_of(seal: Seal) -> str:
    text = "\n".join(f"{path} {seal.files[path]}" for path in (*_members_of(seal), *BEHAVIOUR, *_norms_of(seal)))
    return hashlib.sha256(text.encode()).hexdigest()


def _verified_seal(folder: Path) -> Seal:
    for path in ("digests.json", WEIGHTS, *SEALED):
        _check_there(folder, path)
    seal = read_record(folder / "digests.json", Seal)
    scripts = [path for path in seal.files if _SCRIPT.fullmatch(path)]
    for path in (*_members_of(seal), *SEALED, *_norms_of(seal), *scripts):
        _check_there(folder, path)
        found, expected = sha256_file(folder / path), seal.files.get(path, "none")
        if found != expected:
            raise Refusal(
                "package_digest",
                f"{folder / path}: sha256 {found}, expected {expected}; the file changed after the model was packaged",
            )
    return seal


def _check_there(folder: Path, path: str) -> None:
    if not (folder / path).is_file():
        raise NotFound(f"{folder}: not a whole model package, {path} is missing; train or download it again")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises UnpicklingError, RuntimeError, EOFError, … for what is not a plain file of tensors.
        raise Refusal("package_weights", f"{path}: not a plain file of tensors ({type(error).__name__})") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise Refusal("package_weights", f"{path}: found a {type(state).__name__}, expected a state dict of tensors")
    return state


def _check_shapes(state: Mapping[str, torch.Tensor], plan: Plan, name: str) -> None:
    expected = network_shapes(plan)
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise Refusal(
            "package_shapes",
            f"{name}: {len(wrong)} of {len(expected)} entries do not fit the plan's {plan.network}; "
            f"first {key}: found {found.get(key, 'nothing')}, expected {expected.get(key, 'nothing')}",
        )


def _plain_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict on the CPU; entries that share memory (DynUNet's skip layers) go on sharing it."""
    copies: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    plain = {}
    for key, value in state.items():
        place = (value.data_ptr(), tuple(value.shape))
        if place not in copies or value.numel() == 0:
            copies[place] = value.detach().to("cpu").contiguous()
        plain[key] = copies[place]
    return plain


def _environment() -> dict[str, str]:
    parts = ("torch", "monai", "numpy", "nibabel", "scipy")
    return {"python": platform.python_version(), **{part: installed_version(part) for part in parts}}


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename the finished folder; an older one steps aside first, since a folder cannot be renamed onto a full one."""
    if folder.exists():
        old = temporary_path(folder)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)
    else:
        os.replace(partial, folder)
