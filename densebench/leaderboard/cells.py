"""What stands in a cell of a table: numbers, intervals, marks; what a column is called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from densebench.leaderboard.row import Row, by_entry
from densebench.results.schema import Key

DIGITS = {"%": 1, "px": 1}
"""Decimals shown by unit; three for the others."""
EVEN = 0.25
"""An interval is written as ± where its sides differ by less than this share of the half-width."""


class Cell(NamedTuple):
    """One number of a table."""

    value: str
    interval: str
    """What the images leave open, and beside it what the seeds do."""
    best: bool
    close: bool
    """Whether it may be as good as the best."""
    rank: int | None = None
    """Among those of its column, where they are ranked."""


@dataclass(frozen=True)
class Grid:
    """A table: a line per model, a column per main metric, or per metric where none is main."""

    columns: tuple[Row, ...]
    """The best row of each, which knows its name, unit and direction."""
    lines: tuple[tuple[Row, tuple[Cell | None, ...]], ...]
    """For each model its first row, which knows its name and records, and its cells."""

    @classmethod
    def of(cls, members: Sequence[Row]) -> Grid:
        """Return the table of rows that share one."""
        columns: dict[Key, list[Row]] = {}
        for row in [row for row in members if row.main] or members:
            columns.setdefault(row.key, []).append(row)
        cells: dict[tuple[str, str], dict[Key, Cell]] = {}
        for key, column in columns.items():
            (best, close), even = ties(column), _is_even(column)
            for row in column:
                cell = Cell(number(row.value, row.unit), _interval(row, even), row is best, row in close, row.rank)
                cells.setdefault((row.label, row.score_hash), {})[key] = cell
        firsts = [next(iter(entry.values())) for entry in by_entry(members)]
        found = [cells.get((first.label, first.score_hash), {}) for first in firsts]
        lines = [(first, tuple(map(own.get, columns))) for first, own in zip(firsts, found, strict=True)]
        return cls(tuple(column[0] for column in columns.values()), tuple(lines))

    @property
    def keys(self) -> list[Key]:
        """The metrics of the columns."""
        return [row.key for row in self.columns]


def number(value: float, unit: str, extra: int = 0) -> str:
    """Return a value with the decimals its unit deserves, and `extra` ones."""
    return "–" if math.isnan(value) else f"{value:.{DIGITS.get(unit, 3) + extra}f}"


def title(metric: str, unit: str, higher_is_better: bool) -> str:
    """Return a column head: name, unit where there is one, and which way is better."""
    return f"{metric}{'' if unit == '1' else f' ({unit})'} {'↑' if higher_is_better else '↓'}"


def ties(column: Sequence[Row]) -> tuple[Row | None, list[Row]]:
    """Return the best row of one metric, and those that may be as good: that share its rank.

    Without ranks these are the ones whose interval overlaps that of the best. Models are compared on the same images,
    so their errors go together and this is lenient: overlapping intervals do not show that two are equally good.
    """
    finite = [row for row in column if not math.isnan(row.value) and not row.withdrawn]
    if len(finite) < 2:
        return None, []
    best = (max if finite[0].higher_is_better else min)(finite, key=lambda row: row.value)
    if all(row.rank for row in finite):
        return best, [row for row in finite if row is not best and row.rank == best.rank]
    if best.ci95_low is None or best.ci95_high is None:
        return best, [row for row in finite if row is not best and row.value == best.value]
    low, high = best.ci95_low, best.ci95_high
    return best, [
        row
        for row in finite
        if row is not best
        and row.ci95_low is not None
        and row.ci95_high is not None
        and row.ci95_low <= high
        and low <= row.ci95_high
    ]


def _is_even(column: Iterable[Row]) -> bool:
    """Whether all intervals of a column can be written as ± without bending them."""
    for row in column:
        if row.ci95_low is None or row.ci95_high is None:
            continue
        below, above = row.value - row.ci95_low, row.ci95_high - row.value
        if not abs(above - below) <= EVEN * (below + above) / 2:
            return False
    return True


def _interval(row: Row, even: bool) -> str:
    """Return what the images leave open, and beside it what the seeds do."""
    seeds = "" if row.seed_sd is None else f"(sd {number(row.seed_sd, row.unit)})"
    if row.ci95_low is None or row.ci95_high is None:
        return seeds
    images = f"[{number(row.ci95_low, row.unit)}, {number(row.ci95_high, row.unit)}]"
    if even:
        images = f"± {number((row.ci95_high - row.ci95_low) / 2, row.unit)}"
    return f"{images} {seeds}".rstrip()


RANKS = {
    "images": "ranks by paired differences on the same images",
    "intervals": "ranks by intervals that do not overlap, since nothing is kept of single images",
    "some": "ranks by paired differences where images are kept, else by intervals that do not overlap",
}
"""What ranks come from, by `Row.rank_by`."""


def footnote_of(members: Sequence[Row]) -> str:
    """Return what holds for all numbers of a table."""

    def listing(values: Iterable[int]) -> str:
        return " or ".join(str(value) for value in sorted(set(values)))

    seeds = listing(row.seed_count for row in members if row.main) or listing(row.seed_count for row in members)
    images = listing(row.n_images for row in members)
    said = f"{images} validation images; {seeds} seed{'' if seeds == '1' else 's'} per value; 95 % intervals"
    said += ", sd over seeds" if any(row.seed_sd is not None for row in members) else ""
    rules = {row.rank_by for row in members if row.rank}
    ranks = RANKS[rules.pop() if len(rules) == 1 else "some"] if rules else ""
    return f"{said}{f'; {ranks}' if ranks else ''}."
