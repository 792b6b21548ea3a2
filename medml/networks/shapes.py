"""Networks on shapes alone: no memory for weights or images, no time for first weights, and no compiler imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

COMPILER = "torch._dynamo"
DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make every new tensor without memory: what runs on such tensors yields shapes."""
    with _compiler_put_off(), torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Draws no first weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


@contextmanager
def _compiler_put_off() -> Iterator[None]:
    """Let torch's operations on shapes do without its compiler, unless that is there already.

    They run under `torch._disable_dynamo`, which imports the compiler only to keep it off. It costs as much CPU time as
    torch itself.
    """
    if COMPILER in sys.modules:
        yield
        return
    stand_in = _StandIn(COMPILER)
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """Says of every function that the compiler is kept off it; who asks for anything else gets the compiler."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._told: list[Callable[..., Any]] = []

    def disable(self, function: Callable[..., Any], *_args: object, **_kwargs: object) -> Callable[..., Any]:
        """Return the function as it is: nothing is compiled meanwhile."""
        self._told.append(function)
        return function

    def leave(self) -> None:
        """Make way for the compiler, which torch will ask again."""
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        for function in self._told:
            vars(function).pop("__dynamo_disable", None)
        self._told.clear()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked of every module; the path, by who imports a part
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(COMPILER), name)
