"""One file of golden vectors, and comparing what we compute with what it holds."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densebench.core.errors import DensebenchError

FLOAT32_SLACK = 10.0
"""Factor on tolerances of float32 results off the CPU.

The vectors were computed on a CPU. Elsewhere sums of products run in another order, in wider tiles and with fused
multiply-adds; that is the same rounding unit, but more of its errors add up before the result is compared. Results
that are integers or float64 get no slack.
"""


class GoldenError(DensebenchError):
    """A file cannot be read, or lacks what its kind needs."""


@dataclass(frozen=True)
class GoldenCheck:
    """One comparison: of what, how far off at worst, and how far off it may be."""

    what: str
    deviation: float
    """>= 0, in the measure of the tolerance; infinite where shapes differ or a NaN stands on one side only."""
    tolerance: float
    """0 is exact."""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the deviation is within the tolerance."""
        return self.deviation <= self.tolerance

    @property
    def ratio(self) -> float:
        """Deviation over tolerance: at most 1 where all is well."""
        if self.deviation == 0 or self.tolerance == 0:
            return 0.0 if self.deviation == 0 else torch.inf
        return self.deviation / self.tolerance


Check = Callable[["Golden"], Iterator[GoldenCheck]]
"""Recomputes what a file of one kind holds, and yields how that compares."""


@dataclass(frozen=True)
class GoldenKind:
    """A kind of file: how its documented names begin, what it is about, who checks it, and which arrays it holds."""

    prefix: str
    title: str
    check: Check
    arrays: str
    """Names that every file of the kind has, separated by blanks; ``*`` stands for what varies from file to file."""


class Golden:
    """The arrays of one file, given out as tensors on the device whose numerics are asked.

    Args:
        name: of the file, without its ending.
        arrays: what it holds.
        device: where to compute.
        backends: exact search backends to try.
    """

    def __init__(
        self,
        name: str,
        arrays: dict[str, np.ndarray],
        device: torch.device | str = "cpu",
        backends: tuple[str, ...] = ("torch",),
    ) -> None:
        self.name, self.device, self.backends = name, torch.device(device), backends
        self._arrays = arrays
        self.used: set[str] = set()

    @property
    def names(self) -> set[str]:
        """The names of all arrays."""
        return set(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._stored(name)).to(self.device)

    def number(self, name: str) -> float:
        """Return an array of one element as a number."""
        return float(self._stored(name))

    def integer(self, name: str) -> int:
        """Return an array of one element as a whole number."""
        return int(self._stored(name))

    def texts(self, name: str) -> list[str]:
        """Return an array of strings, one or several."""
        return [str(text) for text in np.atleast_1d(self._stored(name))]

    def matches(self, pattern: str) -> list[re.Match[str]]:
        """Return the matches of a regular expression with whole names, in the file's order."""
        return [match for match in (re.fullmatch(pattern, name) for name in self._arrays) if match]

    def exact(self, name: str, found: Tensor | float, label: str = "") -> GoldenCheck:
        """Compare for equality; the deviation is the greatest difference."""
        return self._compare(name, found, label, 0.0, lambda expected: torch.ones_like(expected))

    def close(self, name: str, found: Tensor | float, tolerance: float, label: str = "") -> GoldenCheck:
        """Compare with rtol = atol = ``tolerance``; the deviation is the greatest |difference| / (1 + |expected|)."""
        return self._compare(name, found, label, tolerance, lambda expected: 1 + expected.abs())

    def near(self, name: str, found: Tensor | float, tolerance: float, label: str = "") -> GoldenCheck:
        """Compare with an absolute ``tolerance``."""
        return self._compare(name, found, label, tolerance, lambda expected: torch.ones_like(expected))

    def _compare(
        self, name: str, found: Tensor | float, label: str, tolerance: float, unit: Callable[[Tensor], Tensor]
    ) -> GoldenCheck:
        what = f"{name} ({label})" if label else name
        stored = torch.from_numpy(self._stored(name))
        found = found.detach().cpu() if isinstance(found, Tensor) else torch.tensor(found, dtype=torch.float64)
        if self.device.type != "cpu" and found.dtype == torch.float32:
            tolerance *= FLOAT32_SLACK
        if found.shape != stored.shape:
            return GoldenCheck(
                what, torch.inf, tolerance, f"shape {tuple(found.shape)}, expected {tuple(stored.shape)}"
            )
        ours, theirs = found.double(), stored.double()
        same = (ours == theirs) | (ours.isnan() & theirs.isnan())
        apart = ((ours - theirs).abs() / unit(theirs)).nan_to_num(nan=torch.inf).masked_fill(same, 0.0)
        note = "" if tolerance or bool(same.all()) else f"{int((~same).sum())} of {same.numel()} differ"
        return GoldenCheck(what, float(apart.max()) if apart.numel() else 0.0, tolerance, note)

    def _stored(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise GoldenError(f"array {name} is missing")
        self.used.add(name)
        return self._arrays[name]


def holds(what: str, condition: bool) -> GoldenCheck:
    """Return the finding of a statement that has no numbers."""
    return GoldenCheck(what, 0.0 if condition else torch.inf, 0.0)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of an ``.npz`` without pickled objects.

    Raises:
        GoldenError: the file is torn, no ``.npz``, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise GoldenError(f"cannot be read: {error}") from error
