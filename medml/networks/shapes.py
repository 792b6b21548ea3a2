"""Networks on shapes alone: no memory, no first weights, and neither torch's compiler nor sympy imported for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

COMPILER, SYMBOLS, ALGEBRA = "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy"
DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make every new tensor without memory: what runs on such tensors yields shapes."""
    with _imports_put_off(), torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Draws no first weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


@contextmanager
def _imports_put_off() -> Iterator[None]:
    """Let torch's operations on shapes do without what they hardly use, unless it is there already.

    They run under `torch._disable_dynamo`, which imports the compiler only to keep it off, and ask of every size
    whether it is a symbol, for which sympy is imported. The compiler costs as much CPU time as torch itself, sympy a
    fifth of that.
    """
    kinds = {COMPILER: _Compiler, SYMBOLS: _Symbols, ALGEBRA: _Algebra}
    stand_ins = [kind(name) for name, kind in kinds.items() if name not in sys.modules]
    sys.modules.update({stand_in.__name__: stand_in for stand_in in stand_ins})
    try:
        yield
    finally:
        for stand_in in stand_ins:
            stand_in.leave()


class _StandIn(ModuleType):
    """Has a few names of a module; who asks for any other gets the module."""

    def leave(self) -> None:
        """Make way for the module, which torch will ask again."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def real(self) -> ModuleType:
        """Leave, and return the module."""
        self.leave()
        return importlib.import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module
            raise AttributeError(name)
        return getattr(self.real(), name)


class _Compiler(_StandIn):
    """Says of every function that the compiler is kept off it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._told: list[Callable[..., Any]] = []

    def disable(self, function: Callable[..., Any], *_args: object, **_kwargs: object) -> Callable[..., Any]:
        """Return the function as it is: nothing is compiled meanwhile."""
        self._told.append(function)
        return function

    def leave(self) -> None:
        """Make functions ask again, too."""
        super().leave()
        for function in self._told:
            vars(function).pop("__dynamo_disable", None)
        self._told.clear()

    def __getattr__(self, name: str) -> Any:
        return self.real().__path__ if name == "__path__" else super().__getattr__(name)  # asked by who imports a part


class _Symbols(_StandIn):
    """Answers questions about sizes that are plain numbers; those about symbols go to the module, for good."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        vars(self).update({asked: self._answered(asked, answer) for asked, answer in _OF_NUMBERS.items()})

    def _answered(self, asked: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*values: Any) -> Any:
            return answer(*values) if all(map(_is_plain, values)) else getattr(self.real(), asked)(*values)

        return answered


class _Algebra(_StandIn):
    """Has the class of all symbols, of which there is none."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.Basic = type("Basic", (), {})

    def leave(self) -> None:
        """Let the class be asked of the module, by whoever keeps this stand-in."""
        super().leave()
        vars(self).pop("Basic", None)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, int | float)


def _itself(value: Any) -> Any:
    return value


def _equal(left: Any, right: Any) -> bool:
    return bool(tuple(left) == tuple(right) if isinstance(left, tuple | list) else left == right)


_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "expect_true": _itself,
    "guard_or_false": _itself,
    "guard_or_true": _itself,
    "guard_size_oblivious": _itself,
    "guarding_hint_or_throw": _itself,
    "has_guarding_hint": lambda _value: True,
    "is_nested_int": lambda _value: False,
    "statically_known_true": _itself,
    "sym_and": lambda *values: all(values),
    "sym_eq": _equal,
    "sym_or": lambda *values: any(values),
}
