"""What a suite is, and how it is read from TOML.

    title = "In-context segmentation with four memory sizes"
    source = "PaKA, table 1"
    published = { paper = "PaKA", tables = ["1"] }

    [models]                               # a model, and what the paper's rows call it
    dino_vits16 = "DINO ViT-S/16"

    [[cells]]
    protocol = "hummingbird"
    datasets = ["voc", "ade20k"]           # without: all that are ready
    preset = "paper"                       # without: the protocol's own
    settings = { neighbours = 30 }         # what departs from the preset

Optional in a cell are `models` (names from the table above, for cells that not all models have), `seeds`, and
`metrics`, such as [{ name = "miou", fraction = "1/8" }]: without, those of the published rows, else the main ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from densebench.core.config import apply_overrides, find_preset, read_toml
from densebench.core.errors import UsageError
from densebench.core.registry import unknown_name
from densebench.datasets import DATASETS, resolve_dataset
from densebench.leaderboard.published import PublishedRow, published_rows
from densebench.protocols import PROTOCOLS
from densebench.results.schema import Coordinate, Key, metric_key, setting_label

TABLES = Path(__file__).parent / "tables"
OURS = ("quick", "dense")
"""Suites of no paper; they are listed first."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PrintedTables(_Strict):
    paper: str
    tables: tuple[str, ...]


class _CellTable(_Strict):
    protocol: str
    datasets: tuple[str, ...] = ()
    preset: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Annotated[int, Ge(0)], ...] = (0,)
    models: tuple[str, ...] = ()
    metrics: tuple[dict[str, Coordinate], ...] = ()


class _File(_Strict):
    title: str
    source: str = ""
    note: str = ""
    published: _PrintedTables | None = None
    models: dict[str, str] = Field(default_factory=dict)
    cells: tuple[_CellTable, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class SuiteCell:
    """One protocol in one setting, on some datasets."""

    protocol: str
    datasets: tuple[str, ...]
    """Names; "cityscapes->acdc" trains on the first and evaluates on the second. Empty: all that are ready."""
    preset: str
    """Empty: the protocol's default on each dataset."""
    settings: Mapping[str, Any]
    """What departs from the preset."""
    seeds: tuple[int, ...]
    models: tuple[str, ...]
    """Those of the suite that have this cell."""
    metrics: tuple[Key, ...]
    """Which metrics the table shows; empty: those of its published rows, else the main ones."""

    @property
    def setting(self) -> str:
        """The preset with what departs from it, as published rows name it."""
        return setting_label(self.preset, self.settings)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A named set of cells."""

    name: str
    """Of a built-in suite its name, else the path of its file."""
    title: str
    source: str
    note: str
    """What the source leaves open, and how it is decided here."""
    paper: str
    tables: tuple[str, ...]
    """The published rows that the results stand beside; none where there is no paper."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Models by name, each with what the paper's rows call it."""
    cells: tuple[SuiteCell, ...]

    def published(self, cell: SuiteCell | None = None) -> tuple[PublishedRow, ...]:
        """Return the published rows of the suite, or those beside one of its cells, in the order of the file.

        Rows of a preset that no cell has, as of a paper that does not print its settings, stand beside every cell of
        their protocol and dataset.
        """
        rows = (row for row in published_rows() if row.paper == self.paper and set(row.tables) & set(self.tables))
        return tuple(row for row in rows if cell is None or self._is_beside(row, cell))

    def _is_beside(self, row: PublishedRow, cell: SuiteCell) -> bool:
        if row.protocol != cell.protocol or row.dataset not in cell.datasets:
            return False
        settings = {
            each.setting for each in self.cells if each.protocol == row.protocol and row.dataset in each.datasets
        }
        return row.preset == cell.setting or row.preset not in settings

    def model_of(self, row: PublishedRow) -> str:
        """Return the model that a published row is of; "" where none is known."""
        names = [name for name, label in self.models.items() if label == row.label]
        return names[0] if names else row.zoo_name

    @property
    def datasets(self) -> tuple[str, ...]:
        """All datasets of the cells, each once; both of a pair with an arrow."""
        names = (name for cell in self.cells for pair in cell.datasets for name in pair.split("->"))
        return tuple(dict.fromkeys(names))


def suite_names() -> list[str]:
    """Return the names of the built-in suites: ours, then those of the papers in the order of their tables."""

    def order(name: str) -> tuple[Any, ...]:
        paper, _, table = name.partition("-")
        digits = re.match(r"\d*", table)
        return name not in OURS, OURS.index(name) if name in OURS else 0, paper, int((digits and digits[0]) or 0), table

    return sorted((path.stem for path in TABLES.glob("*.toml")), key=order)


def load_suite(name: str) -> Suite:
    """Return a built-in suite by name, or one of the user's from NAME.toml.

    Raises UsageError for a name that nobody knows, and for a file that does not describe a suite.
    """
    own = name.endswith(".toml")
    if not own and name not in suite_names():
        raise unknown_name("suite", name, suite_names())
    path = Path(name) if own else TABLES / f"{name}.toml"
    try:
        file = _File.model_validate(read_toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UsageError(f"{path} is not a suite: {where}: {first['msg']}. `densebench show suite quick`.") from None
    published = file.published
    suite = Suite(
        name=str(path) if own else name,
        title=file.title,
        source=file.source,
        note=" ".join(file.note.split()),
        paper=published.paper if published else "",
        tables=published.tables if published else (),
        models=file.models,
        cells=tuple(_cell(cell, file.models, path) for cell in file.cells),
    )
    if published and not suite.published():
        raise UsageError(f"{path}: {published.paper} has no published rows of table {', '.join(published.tables)}.")
    return suite


def _cell(cell: _CellTable, models: Iterable[str], path: Path) -> SuiteCell:
    """Return a cell whose names exist; raises UsageError for one that cannot be run anywhere."""
    try:
        PROTOCOLS.match([cell.protocol])
        for pair in cell.datasets:
            DATASETS.match(map(resolve_dataset, pair.split("->")))
        config = PROTOCOLS.config(cell.protocol)
        if config is not None:
            preset = find_preset(cell.protocol, config.presets, cell.preset) if cell.preset else None
            apply_overrides(config(), {**(preset.settings if preset else {}), **cell.settings}, cell.protocol)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if unknown := [name for name in cell.models if name not in models]:
        raise UsageError(f"{path}: the cell of {cell.protocol} names {unknown[0]}, which [models] does not have.")
    if any("name" not in metric for metric in cell.metrics):
        raise UsageError(f'{path}: a metric lacks its name; expected {{ name = "miou", fraction = "1/8" }}.')
    return SuiteCell(
        protocol=cell.protocol,
        datasets=cell.datasets,
        preset=cell.preset,
        settings=cell.settings,
        seeds=cell.seeds,
        models=cell.models or tuple(models),
        metrics=tuple(
            metric_key(str(metric["name"]), {k: v for k, v in metric.items() if k != "name"}) for metric in cell.metrics
        ),
    )
