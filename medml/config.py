"""YAML files into frozen models; unknown keys are refused, every mistake is reported at once."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medml.errors import ConfigError

MAX_CONFIG_BYTES = 1 << 20
NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
_NAME = "a name of lower-case letters, digits, '_', '.' and '-', at most 64"


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(path: Path, schema: type[ConfigT], *, settings: tuple[str, ...] = (), **defaults: Any) -> ConfigT:
    """Read a YAML file into a frozen model.

    Parameters
    ----------
    path : Path
        The YAML file.
    schema : type
        The pydantic model to fill.
    settings : tuple of str
        ``key.sub=value`` overrides (``--set``); they win over the file. Values are read as YAML.
    **defaults
        Top-level values used when the file does not give them.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not a mapping, or any key is unknown or invalid.
    """
    values = {**defaults, **_read_mapping(path)}
    for setting in settings:
        _apply(values, setting)
    return validate(values, schema, name=str(path))


def load_settings(schema: type[ConfigT], settings: tuple[str, ...]) -> ConfigT:
    """Build ``schema`` from its defaults and ``key=value`` overrides alone."""
    values: dict[str, Any] = {}
    for setting in settings:
        _apply(values, setting)
    return validate(values, schema, name="--set")


def validate(values: dict[str, Any], schema: type[ConfigT], *, name: str) -> ConfigT:
    """Build ``schema`` from ``values``; ``name`` says in errors where the values came from."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {_describe(error, schema)}") from None


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; expected a small YAML file")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found a {type(values).__name__}, expected a mapping of keys to values")
    return values


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: expected key=value, e.g. --set budget.minutes=10")
    *parents, last = key.strip().split(".")
    node = values
    for parent in parents:
        child = node.get(parent)
        child = dict(child) if isinstance(child, dict) else {}
        node[parent] = child
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting}: the value is not valid YAML: {error}") from None


def _describe(error: ValidationError, schema: type[BaseModel]) -> str:
    parts = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            parts.append(f"{key}: there is no such key; {_nearest(item['loc'], schema)}")
            continue
        if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
            parts.append(f"{key}: found {item['input']!r}, expected {_NAME}")
            continue
        found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
        parts.append(f"{key}: {item['msg']}{found}")
    return "; ".join(parts)


def _nearest(place: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    """Say which key was probably meant, or name all that stand there."""
    fields = schema.model_fields
    for part in place[:-1]:
        inner = fields[str(part)].annotation if str(part) in fields else None
        fields = inner.model_fields if isinstance(inner, type) and issubclass(inner, BaseModel) else {}
    near = difflib.get_close_matches(str(place[-1]), fields, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known are: {', '.join(fields)}" if fields else "see the YAML files in configs/"
