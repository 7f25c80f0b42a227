"""The page of a results folder: pictures and what images add to a metric are read from beside the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from densebench.core.errors import StorageError
from densebench.core.machine import processor
from densebench.core.regular import read
from densebench.leaderboard.page.data import payload
from densebench.leaderboard.page.render import page
from densebench.leaderboard.published import published_rows
from densebench.leaderboard.row import Row
from densebench.results.kept import side_of
from densebench.results.schema import Key, Record
from densebench.results.store import ResultStore
from densebench.results.sums import Side

MOST_PICTURE = 64 << 20
"""Bytes of a picture that is read for the page."""


def folder_page(
    results: Path, rows: Sequence[Row], records: Sequence[Record], report: Callable[[str], None] | None = None
) -> str:
    """Return the page of the rows of a results folder, with what papers print beside them.

    `report` is told of files that cannot be read; they cost their picture or difference only.
    """
    store = ResultStore(results)

    def picture(record: Record, name: str) -> bytes:
        folder = store.place(record).parent
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise StorageError("it lies outside of the record's folder")
        return read(path, MOST_PICTURE)

    def sides(runs: Sequence[Record], key: Key) -> Side:
        return side_of([(store.place(run), run) for run in runs], key)

    made = payload(rows, records, published_rows(), here=processor(), read=picture, sides=sides, report=report)
    return page(made, rows)
