"""Paired differences of the models of each table, as many as a page is worth waiting for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from densebench.core.errors import StorageError, UsageError
from densebench.leaderboard.page.columns import Columns, short
from densebench.leaderboard.page.lines import Lines
from densebench.results.compare import SWAPS, paired
from densebench.results.schema import Key, Record
from densebench.results.sums import Side

Sides = Callable[[Sequence[Record], Key], Side]
PAIRS = 300
"""Differences of a page, at most: about a tenth of a second each on 160 images, and four with a p-value."""
WITH_P = 60
"""Those that a permutation test is made of."""
MODELS = 25
"""Of a table that are compared with each other, the best ones."""


def differences(
    made: Lines, sides: Sides, omitted: list[str], report: Callable[[str], None] | None = None
) -> dict[str, list[Any]]:
    """Return the differences b - a of main metrics, as columns; lines `a` and `b` are of one table.

    Best models of every table come first where there are too many pairs. Pairs of which nothing is kept of single
    images have none, and `report` is told of files that cannot be read.
    """
    columns = Columns("a", "b", "metric", "difference", "low", "high", "p")
    without: set[tuple[int, Key]] = set()

    def side_of(line: int, key: Key) -> Side | None:
        if (line, key) not in without:
            try:
                return sides(made.runs[line], key)
            except (StorageError, UsageError) as error:
                without.add((line, key))
                if report and isinstance(error, StorageError):
                    report(f"{error}; its differences are not on the page.")
        return None

    for a, b, metric, key in _waiting(made):
        if len(columns) == PAIRS:
            omitted.append(f"paired differences but for {PAIRS}: `densebench compare` makes them")
            break
        one, other = side_of(a, key), side_of(b, key)
        if one is None or other is None:
            continue
        try:
            found = paired(one, other, swaps=SWAPS if len(columns) < WITH_P else 0)
        except UsageError:  # they count other things
            continue
        ends = {"low": short(found.low, 4), "high": short(found.high, 4), "p": short(found.p, 3)}
        columns.add({"a": a, "b": b, "metric": metric, "difference": short(found.difference, 4), **ends})
    return columns.columns


def _waiting(made: Lines) -> list[tuple[int, int, int, Key]]:
    """Return (a, b, metric, key) of all pairs and main metrics, those of the best lines of every table first."""
    tables: dict[int, list[int]] = {}
    for line in sorted(made.runs):
        tables.setdefault(made.lines.columns["table"][line], []).append(line)
    found = []
    for table, members in tables.items():
        for (i, a), (j, b) in itertools.combinations(enumerate(members[:MODELS]), 2):
            common = {row.key for row in made.rows[b] if row.main}
            for row in made.rows[a]:
                if row.main and row.key in common:
                    found.append((j, i, table, (a, b, made.places[id(row)], row.key)))
    return [pair for *_, pair in sorted(found, key=lambda each: each[:3])]
