"""Losses that stay in full precision under autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def widen(x: Any) -> Any:
    """Return half and bfloat16 tensors as float32, and anything else as it is."""
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of tensors compute in float32 at least: its tensors are widened, and autocast is off inside.

    Widening alone would not do: under autocast a product of float32 matrices is computed in half precision.
    """

    @wraps(function)
    def wide(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*map(widen, args), **{name: widen(value) for name, value in kwargs.items()})

    return wide
