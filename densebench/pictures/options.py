"""How pictures are made, as far as the user says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench.core.errors import UsageError
from densebench.core.text import plain
from densebench.model_zoo.facets import Facet


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the pictures are made."""

    layer: int | None = None
    """Whose output is read; None: the last, or as the protocol's preset says."""
    facet: Facet | None = None
    input_size: int | None = None
    """Side in pixels; None: as the protocols have it."""
    patch: tuple[int, int] | None = None
    """Row and column, in the grid of the first model, of the patch that is asked about; None: one chosen by kind."""
    clusters: tuple[str, ...] = ()
    """Numbers of clusters, "classes" among them; (): as the preset says."""
    preset: str = ""
    """Of the protocols; "": as a run has it."""
    results: Path = Path("results")
    """Folder of the results that a kind draws."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of protocols, as a run takes them."""

    def overrides(self, protocol: str) -> dict[str, Any]:
        """Return the settings of a protocol that these options come to."""
        given = {"layer": self.layer, "facet": self.facet, "input_size": self.input_size}
        return {**{k: v for k, v in given.items() if v is not None}, **self.settings.get(protocol, {})}

    def check(self) -> None:
        """Raise UsageError for numbers that mean nothing."""
        if self.input_size is not None and self.input_size < 1:
            raise UsageError(f"--input-size {self.input_size}: expected at least 1.")
        for text in self.clusters:
            if text != "classes" and not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
                raise UsageError(f"--clusters {text}: expected numbers above 0, or classes for as many as there are.")


def parse_patch(text: str) -> tuple[int, int] | None:
    """Return the row and column of "ROW,COL", None for an empty text; raises UsageError for another."""
    parts = [part.strip() for part in text.split(",")]
    if not text:
        return None
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UsageError(f"--patch {plain(text)}: expected a row and a column that count from 0, such as 0,7.")
    return int(parts[0]), int(parts[1])
