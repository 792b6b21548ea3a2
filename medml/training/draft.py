"""A plan while it is being made: choices in order, overridden ones first, with their reasons."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from medml.errors import ConfigError
from medml.records.plan import Augmentation, Plan

FROM_DATA = ("task", "modality", "channels", "labels", "multi_label")
ELSEWHERE = {
    **dict.fromkeys(FROM_DATA, "it follows from the dataset"),
    "minutes": "set budget.minutes",
    "epochs": "set budget.epochs",
    "memory_gb": "it is an estimate; set budget.memory_gb to limit it",
    "reasons": "they say why the other keys are as they are",
}


class Draft:
    """Choices made so far. A key that the experiment overrides keeps its value whatever the rules say.

    Parameters
    ----------
    overrides : dict
        ``experiment.plan``: keys of `Plan`; ``augmentation`` and ``network_options`` may be given in part.
    """

    def __init__(self, overrides: dict[str, Any]) -> None:
        self._overrides = {key: _checked(key, value) for key, value in overrides.items()}
        self._values: dict[str, Any] = {}
        self._reasons: dict[str, str] = {}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def fix(self, key: str, value: Any) -> None:
        """Put a value that no override reaches."""
        self._values[key] = value

    def set(self, key: str, value: Any, reason: str) -> None:
        """Put a choice, unless the experiment made it."""
        if key not in self._overrides:
            self._values[key], self._reasons[key] = value, reason
            return
        override = self._overrides[key]
        if key == "augmentation":
            override = value.model_copy(update=override)
        elif key == "network_options" and self.overridden("network"):
            override = dict(override)
        elif key == "network_options":
            override = {**value, **override}
        self._values[key], self._reasons[key] = override, "set by the experiment"

    def fill(self, key: str, value: Any, reason: str) -> None:
        """Put a choice unless it is made already."""
        if key not in self._values:
            self.set(key, value, reason)

    def wanted(self, key: str, default: Any = None) -> Any:
        """Return what the experiment wants for a key whose turn has not come yet."""
        return self._overrides.get(key, default)

    def overridden(self, key: str) -> bool:
        """Say whether the experiment made this choice."""
        return key in self._overrides

    def with_values(self, **values: Any) -> Plan:
        """Return a plan of what is chosen so far plus ``values``; used to size networks before all is known."""
        rest = {"epochs": 1, "patience": 1, "learning_rate": 1e-3}
        return Plan.model_validate({**rest, **self._values, **values})

    def finished(self) -> dict[str, Any]:
        """Return all values, with reasons; overrides that no rule touched are added."""
        for key, value in self._overrides.items():
            if key not in self._values:
                self._values[key] = value
                self._reasons[key] = "set by the experiment"
        return {**self._values, "reasons": dict(self._reasons)}


def _checked(key: str, value: Any) -> Any:
    """Return an override in the type of its field."""
    if key in ELSEWHERE:
        raise ConfigError(f"plan.{key}: cannot be set: {ELSEWHERE[key]}")
    if key not in Plan.model_fields:
        allowed = ", ".join(sorted(set(Plan.model_fields) - set(ELSEWHERE)))
        raise ConfigError(f"plan.{key}: is no key of a plan; expected one of {allowed}")
    try:
        if key == "augmentation":
            given = Augmentation.model_validate(value)
            return {name: getattr(given, name) for name in value}
        expected: Any = Plan.model_fields[key].annotation
        return TypeAdapter(expected).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([key, *(str(part) for part in first["loc"])])
        raise ConfigError(f"plan.{where}: {first['msg']} (found {value!r})") from None
