"""Lists of equal things as columns, texts that come often once: what is embedded stays small."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any


class Once:
    """Values by number, each kept once, in the order of their first use."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}

    def __call__(self, value: Any, key: Hashable = None) -> int:
        """Return the number of a value, which `key` tells from others; None: the value itself does."""
        place = self._places.setdefault(value if key is None else key, len(self.values))
        if place == len(self.values):
            self.values.append(value)
        return place


class Columns:
    """A list of records as {field: [values]}."""

    def __init__(self, *names: str) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in names}

    def add(self, values: Mapping[str, Any]) -> int:
        """Append a record, None where it has no value of a field, and return its place."""
        for name, column in self.columns.items():
            column.append(values.get(name))
        return len(self) - 1

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def short(value: float | None, digits: int = 6) -> float | None:
    """Return a number with so many significant digits, None for one that is not finite: JSON has no others.

    >>> short(12.3456789), short(float("nan")), short(None)
    (12.3457, None, None)
    """
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def clipped(text: str, longest: int = 1000) -> str:
    """Return a text without what is beyond `longest` characters: ten thousand notes of a megabyte make no page.

    >>> clipped("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"
