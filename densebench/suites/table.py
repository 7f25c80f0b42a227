"""A suite's table from results: each measured number beside the published one, with what the two differ in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from densebench.leaderboard.differences import Difference, Setting, asked_differences, published_differences
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row
from densebench.leaderboard.rows import leaderboard_rows
from densebench.results.schema import Key, Record, metric_label, setting_label
from densebench.suites.suite import Suite, SuiteCell


class TableNumber(NamedTuple):
    """One number of a table: ours, theirs, or both."""

    measured: Row | None
    printed: PublishedRow | None
    differences: tuple[Difference, ...] = ()
    """What ours was measured with otherwise than theirs, or than the suite says."""

    @property
    def gap(self) -> float | None:
        """Ours less theirs, in the unit of the metric."""
        return self.measured.value - self.printed.value if self.measured and self.printed else None


@dataclass(frozen=True, kw_only=True)
class SuiteTable:
    """The results of one cell of a suite on one dataset."""

    cell: SuiteCell
    dataset: str
    keys: tuple[Key, ...]
    """The metrics, a column each."""
    lines: tuple[tuple[str, tuple[TableNumber, ...]], ...]
    """Models and their numbers: those of the suite in its order, then the others that were measured."""

    @property
    def title(self) -> str:
        """As in "hummingbird on voc, preset paper"."""
        preset = setting_label(self.cell.preset or "default", self.cell.settings)
        return f"{self.cell.protocol} on {self.dataset or 'what is ready'}, preset {preset}"


def suite_tables(suite: Suite, records: Iterable[Record], limited: bool = False) -> list[SuiteTable]:
    """Return a table per cell and dataset. Of several results of a model, the one that differs least stands in it.

    Records of --limit runs stand in it where they are `limited`.
    """
    listed = list(records)
    rows = leaderboard_rows(listed, limited=limited)
    by_hash = {(record.model.name, record.score_hash): record for record in listed}
    tables = []
    for cell in suite.cells:
        measured = [row for row in rows if row.protocol == cell.protocol]
        for dataset in cell.datasets or dict.fromkeys(row.dataset for row in measured):
            of_data = [row for row in measured if row.dataset == dataset]
            printed = [row for row in suite.published(cell) if row.dataset == dataset]
            keys = _keys(cell, of_data, printed)
            models = [name for name in suite.models if name in cell.models]
            named = {row.label: suite.model_of(row) or row.label for row in printed}
            models = list(dict.fromkeys([*named.values(), *models, *(row.model for row in of_data)]))
            lines = [
                (
                    model,
                    tuple(_pair(cell, model, key, of_data, by_hash, _theirs(printed, named, model)) for key in keys),
                )
                for model in models
            ]
            lines = [line for line in lines if any(pair.measured or pair.printed for pair in line[1])]
            tables.append(SuiteTable(cell=cell, dataset=dataset, keys=keys, lines=tuple(lines)))
    return tables


def _theirs(printed: Sequence[PublishedRow], named: dict[str, str], model: str) -> dict[Key, PublishedRow]:
    return {row.key: row for row in printed if named[row.label] == model}


def _keys(cell: SuiteCell, rows: Sequence[Row], printed: Sequence[PublishedRow]) -> tuple[Key, ...]:
    """Return the columns: those that the suite names, else those that are printed, else the main ones."""
    main = (row.key for row in rows if row.main)
    return cell.metrics or tuple(dict.fromkeys(row.key for row in printed)) or tuple(dict.fromkeys(main))


def _pair(
    cell: SuiteCell,
    model: str,
    key: Key,
    rows: Iterable[Row],
    by_hash: dict[tuple[str, str], Record],
    theirs: dict[Key, PublishedRow],
) -> TableNumber:
    printed = theirs.get(key)
    found: list[tuple[int, Row, tuple[Difference, ...]]] = []
    for row in rows:
        if row.model == model and row.key == key:
            record = by_hash[model, row.each[0].score_hash]
            differ = _differences(cell, record, printed, key)
            found.append((len(differ), row, differ))
    if not found:
        return TableNumber(None, printed)
    _, row, differ = min(found, key=lambda each: each[0])  # of equals the first: the better one
    return TableNumber(row, printed, differ)


def _differences(cell: SuiteCell, record: Record, printed: PublishedRow | None, key: Key) -> tuple[Difference, ...]:
    """Return what a record was measured with otherwise than the paper, or without one than the suite says."""
    if printed is not None:
        return published_differences(record, printed, key)
    return asked_differences(record, Setting(cell.preset or record.protocol.preset, cell.settings))


def metric_names(table: SuiteTable) -> list[str]:
    """Return what the columns of a table are called."""
    return [metric_label(name, dict(at)) for name, at in table.keys]
