"""Values per class and per layer of each line, within a budget of what a page may weigh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from densebench.core.text import plain
from densebench.leaderboard.page.columns import Once, short
from densebench.leaderboard.page.lines import Lines
from densebench.leaderboard.row import Row
from densebench.leaderboard.studies import studies
from densebench.results.schema import Record, metric_key

CLASS_VALUES = 400_000
"""Numbers per class on a page, at most: some 2 MB."""
LAYER_VALUES = 100_000


def classes(made: Lines, omitted: list[str]) -> dict[str, Any]:
    """Return values per class of the main metrics: {"names": [[...]], "lines": {line: {metric: [names, values]}}}.

    Best lines of every table come first where there is no room for all; a line is there as a whole or not at all.
    """
    names = Once()
    found: dict[str, dict[str, Any]] = {}
    left, out = CLASS_VALUES, 0
    for line in by_turns(made, made.records):
        per_class = {metric.key: metric.per_class for metric in made.records[line].metrics}
        main = [row for row in made.rows[line] if row.main and per_class.get(_key(row))]
        count = sum(len(per_class[_key(row)]) for row in main)
        if not count:
            continue
        if count > left:
            out += 1
            continue
        left -= count
        found[str(line)] = {
            row.metric: [
                names([plain(name) for name in per_class[_key(row)]], tuple(per_class[_key(row)])),
                [short(value, 4) for value in per_class[_key(row)].values()],
            ]
            for row in main
        }
    if out:
        omitted.append(f"values per class of {out} of {len(found) + out} results, the lower ranks")
    return {"names": names.values, "lines": found}


def layers(made: Lines, rows: Sequence[Row], records: Iterable[Record], omitted: list[str]) -> list[dict[str, Any]]:
    """Return the curves over layers of sweeps, one per line, quantity and facet; layers count from 1."""
    places = {(made.tables[t]["data"], made.tables[t]["protocol"], made.tables[t]["setting"], row[0].label): line
              for line, row in made.rows.items() for t in [made.lines.columns["table"][line]]}  # fmt: skip
    found, left, out = [], LAYER_VALUES, 0
    for table, members in studies(rows, records).items():
        for study in members:
            line = places.get((*table, study.label))
            for (quantity, facet), points in study.lines.items():
                if line is None or len(points) > left:
                    out += 1
                    continue
                left -= len(points)
                curve = {"line": line, "quantity": quantity, "facet": facet, "depth": study.depth}
                curve |= {"best": study.best.get(facet), "points": [[layer, short(value)] for layer, value in points]}
                found.append(curve)
    if out:
        omitted.append(f"{out} curves over layers")
    return found


def by_turns(made: Lines, lines: Iterable[int]) -> list[int]:
    """Return lines in turns: the first of every table, the second of every table, and so on."""
    turns: dict[int, int] = {}
    placed = []
    for line in sorted(lines):
        table = made.lines.columns["table"][line]
        turns[table] = turns.get(table, -1) + 1
        placed.append((turns[table], line))
    return [line for _, line in sorted(placed)]


def _key(row: Row) -> Any:
    return metric_key(row.quantity, row.at)
