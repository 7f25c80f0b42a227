"""Rows with their ranks: of every column of every table, from what records keep of their images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from densebench.core.text import plain
from densebench.leaderboard.ranks import Contender, rank_column
from densebench.leaderboard.row import Row, Table
from densebench.results.kept import side_of
from densebench.results.schema import Key, Record
from densebench.results.store import ResultStore


def ranked(rows: Sequence[Row], results: str | Path, records: Iterable[Record]) -> list[Row]:
    """Return rows with their ranks among the models of their table, in the same order.

    Withdrawn records have none, nor has a model that is alone. Where nothing is kept of single images, or it is gone
    or damaged, ranks come from intervals, as `rank_by` says.
    """
    store = ResultStore(results)
    by_hash = {
        (plain(record.model.name or "(no name)"), plain(record.data.name), record.score_hash): record
        for record in records
    }
    columns: dict[tuple[Table, Key], list[int]] = {}
    for place, row in enumerate(rows):
        if not row.withdrawn and row.value == row.value:
            columns.setdefault((row.table, row.key), []).append(place)
    made = list(rows)
    for places in columns.values():
        if len(places) < 2:
            continue
        column = []
        for place in places:
            row = rows[place]
            own = [by_hash.get((row.model, row.dataset, digest)) for digest in row.score_hash.split(",")]
            found = [(store.place(record), record) for record in own if record is not None]
            kept = len(found) == len(own) and all(record.statistics for _, record in found)
            column.append(Contender(row, partial(side_of, found, row.key) if kept else None))
        ranks, rule = rank_column(column)
        for place, rank in zip(places, ranks, strict=True):
            made[place] = replace(rows[place], rank=rank, rank_by=rule)
    return made
