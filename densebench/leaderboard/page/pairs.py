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


def differences(
    made: Lines, sides: Sides, omitted: list[str], report: Callable[[str], None] | None = None
) -> dict[str, list[Any]]:
    """Return the differences b - a of main metrics, as columns; lines `a` and `b` are of one table.

    Best models of every table come first where there are too many pairs. Pairs of which nothing is kept of single
    images have none, and `report` is told of files that cannot be read, once each.
    """
    columns = Columns("a", "b", "metric", "difference", "low", "high", "p")
    told: set[str] = set()
    waiting = _waiting(made)
    for count, (a, b, metric, key) in enumerate(waiting):
        if len(columns) == PAIRS:
            omitted.append(f"paired differences of {len(waiting) - count} pairs, which `densebench compare` makes")
            break
        try:
            one, other = (sides(made.runs[line], key) for line in (a, b))
            found = paired(one, other, swaps=SWAPS if len(columns) < WITH_P else 0)
        except UsageError:  # nothing is kept, or they count other things
            continue
        except StorageError as error:
            if report and str(error) not in told:
                report(f"{error}; its differences are not on the page.")
            told.add(str(error))
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
        for (i, a), (j, b) in itertools.combinations(enumerate(members), 2):
            common = {row.key for row in made.rows[b] if row.main}
            for row in made.rows[a]:
                if row.main and row.key in common:
                    found.append((j, i, table, (a, b, made.places[id(row)], row.key)))
    return [pair for *_, pair in sorted(found, key=lambda each: each[:3])]
