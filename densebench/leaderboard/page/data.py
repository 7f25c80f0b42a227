"""What the page holds, as JSON has it: a pure function of rows, records and published values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from densebench.leaderboard.page import extras
from densebench.leaderboard.page.lines import STATUSES, collect
from densebench.leaderboard.page.pairs import Sides, differences
from densebench.leaderboard.page.pictures import Reader, thumbnails
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row
from densebench.results.schema import Record

VERSION = 1
"""Of this form; raised where a script of before could not read it."""


def payload(
    rows: Sequence[Row],
    records: Sequence[Record] = (),
    published: Sequence[PublishedRow] = (),
    *,
    here: str | None = None,
    read: Reader | None = None,
    sides: Sides | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return everything that the page shows.

    Lists of equal things are columns, {field: [values]}; `lines.table`, `values.metric` and the like are places in
    other lists. What would make the file too large is left out and named in `omitted`, which the page prints.

    Args:
        rows: as `leaderboard_rows` gives them, ranked or not.
        records: those that the rows were made of; without them there are no costs, classes, layers and pictures.
        published: the papers' values; shown where there are rows of their protocol and data.
        here: what this machine's processor is called, to tell what was measured elsewhere; None: nothing was.
        read: returns the bytes of a record's file by its name there; None: the page has no pictures.
        sides: returns what the images of some runs add to a metric; None: the page has no paired differences.
        report: told what could not be read.
    """
    made = collect(rows, records, published, here)
    omitted: list[str] = []
    classes = extras.classes(made, omitted)
    layers = extras.layers(made, rows, records, omitted)
    turns = {line: made.records[line] for line in extras.by_turns(made, made.records)}
    pictures: Mapping[str, Any] = thumbnails(turns, read, omitted, report) if read else {}
    pairs = differences(made, sides, omitted, report) if sides else None
    return {
        "version": VERSION,
        "statuses": list(STATUSES),
        "tables": made.tables,
        "metrics": made.metrics.values,
        "models": made.models.values,
        "texts": made.texts.values,
        "lines": made.lines.columns,
        "values": made.values.columns,
        "classes": classes,
        "layers": layers,
        "pictures": pictures,
        "pairs": pairs,
        "omitted": omitted,
    }
