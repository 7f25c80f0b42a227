"""Studies of all layers: records whose facts list a score per layer and facet under "reads".

The sweeps of `positional_effect` and `correspondence` do (POS figures 4 and 11); other records have no study.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from densebench.core.text import plain
from densebench.leaderboard.row import Row, Table
from densebench.results.schema import Record, metric_label

Lines = dict[tuple[str, str], tuple[tuple[int, float], ...]]


@dataclass(frozen=True)
class Study:
    """The scores of one record: {(quantity, facet): ((layer counted from 1, value), ...)}."""

    label: str
    depth: int
    lines: Lines
    best: Mapping[str, int]
    """The layer that is reported, counted from 1, by facet."""

    def at(self, layer: int, shares: bool) -> float:
        """Return where a layer stands on the axis."""
        return layer / self.depth if shares else layer


def studies(rows: Iterable[Row], records: Iterable[Record]) -> dict[Table, list[Study]]:
    """Return the studies of each table (data, protocol, setting) that has one of two layers or more.

    Of several seeds it is the first one's.
    """
    main: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.main:
            cell = row.data, row.protocol, row.setting, row.model, row.each[0].score_hash
            main.setdefault(cell, []).append(row)
    found: dict[Table, list[Study]] = {}
    for record in sorted(records, key=lambda record: (record.model.name, record.created), reverse=True):
        named = record.data.label, record.protocol.name, record.protocol.label, record.model.name, record.score_hash
        metrics = main.pop(tuple(map(plain, named)), [])  # of equal hashes the newest
        lines = _lines(record, metrics)
        if any(len(points) > 1 for points in lines.values()):
            study = Study(metrics[0].label, record.model.depth, lines, _best(record))
            found.setdefault(metrics[0].table, []).append(study)
    return {table: members[::-1] for table, members in found.items()}


def parts_of(row: Row) -> tuple[str, str] | None:
    """Return what a metric of a facet's best layer measures, "pck@0.10", and the facet; None for other metrics."""
    rest = dict(row.at)
    facet = rest.pop("facet", None)
    return None if facet is None else (metric_label(row.quantity, rest), str(facet))


def _best(record: Record) -> dict[str, int]:
    best = record.facts.get("best")
    rows = best.items() if isinstance(best, Mapping) else ()
    named = [(facet, row.get("layer")) for facet, row in rows if isinstance(row, Mapping)]
    return {facet: layer + 1 for facet, layer in named if isinstance(layer, int)}


def _lines(record: Record, metrics: Iterable[Row]) -> Lines:
    """Return the lines of a record's main metrics; none where it lists no layers, or lists them otherwise."""
    reads = record.facts.get("reads")
    if not isinstance(reads, list):
        return {}
    lines: Lines = {}
    for parts in filter(None, map(parts_of, metrics)):
        points = [
            (read["layer"] + 1, float(read[parts[0]]))
            for read in reads
            if isinstance(read, Mapping) and read.get("ablation") is False and read.get("facet") == parts[1]
            if isinstance(read.get("layer"), int) and isinstance(read.get(parts[0]), int | float)
        ]
        finite = tuple(sorted((layer, value) for layer, value in points if math.isfinite(value)))
        if finite:
            lines[parts] = finite
    return lines
