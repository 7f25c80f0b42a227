"""Leaderboard rows as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from densebench.core.text import degrade, elide
from densebench.leaderboard.cells import Cell, Grid, footnote_of, title
from densebench.leaderboard.row import Row, tables
from densebench.leaderboard.rows import leaderboard_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from densebench.results.schema import Record

PADDING = 3
"""Characters between columns of a terminal table."""
READABLE = 28
"""Characters of a model name that a terminal table gives intervals lines of their own for."""
SHORTEST = 12
"""Characters of a model name that a terminal table leaves room for."""


def console_table(records: Iterable[Record], console: Console) -> None:
    """Print the main metrics of records, a table per dataset, protocol and setting, no wider than the console.

    Records of --limit runs are shown, in tables that say so. What the console's encoding cannot carry is in ASCII.
    """
    for index, members in enumerate(tables(leaderboard_rows(records, limited=True)).values()):
        if index:
            console.print()
        for table in _rich_tables(members, console.width, console.encoding):
            console.print(table)


def _rich_tables(members: Sequence[Row], width: int, encoding: str) -> list[RichTable]:
    """Return a table as wide as the terminal at most, or several below each other where its columns do not fit."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = Grid.of(members)
    # percent goes without saying: the terminal is narrow
    heads = [title(row.metric, row.unit.strip("%") or "1", row.higher_is_better) for row in grid.columns]
    heads = [degrade(head, encoding) for head in heads]

    def texts_of(cell: Cell | None) -> tuple[str, str, bool]:
        """Value, interval, whether the best."""
        return (degrade(cell.value, encoding), degrade(cell.interval, encoding), cell.best) if cell else ("", "", False)

    cells = [[texts_of(cell) for cell in line] for _, line in grid.lines]

    def widths(apart: str) -> list[int]:
        """Characters that each column but the first takes, with values and intervals on one line or two."""
        found = []
        for at, head in enumerate(heads):
            lengths = [(len(line[at][0]), len(line[at][1])) for line in cells]
            texts = [sum(pair) + 1 if apart == " " else max(pair) for pair in lengths]
            found.append(max(len(head), *texts) + PADDING)
        return found

    names = [degrade(first.label, encoding) for first, _ in grid.lines]
    wanted = min(max(len(name) for name in names), READABLE)
    apart = " " if sum(widths(" ")) + PADDING + 2 + wanted <= width else "\n"
    blocks = blocks_of(widths(apart), width - PADDING - 2 - min(wanted, SHORTEST))

    data, protocol, setting = members[0].table
    heading = degrade(f"{protocol} on {data}, preset {setting}", encoding)
    footnote = degrade(footnote_of(members), encoding)
    tables = []
    for block in blocks:
        first, last = block is blocks[0], block is blocks[-1]
        table = RichTable(
            title=Text(heading, "bold") if first else None,
            title_justify="left",
            caption=Text(footnote, "table.caption") if last else None,
            caption_justify="left",
            # a narrow table would wrap both
            min_width=min(width, max(len(heading) * first, len(footnote) * last)) or None,
            box=box.SIMPLE_HEAD,
            padding=(0, PADDING - 1, 0, 0),
            pad_edge=False,
        )
        table.add_column("model", no_wrap=True)
        for at in block:
            table.add_column(Text(heads[at]), justify="right", no_wrap=True)
        room = max(SHORTEST, width - PADDING - 2 - sum(widths(apart)[at] for at in block))
        for name, line in zip(names, cells, strict=True):
            texts = [
                Text.assemble((value, "bold" if best else ""), (f"{apart}{interval}" if interval else "", "dim"))
                for value, interval, best in (line[at] for at in block)
            ]
            table.add_row(Text(degrade(elide(name, room), encoding)), *texts)
        tables.append(table)
    return tables


def blocks_of(widths: Sequence[int], room: int) -> list[range]:
    """Return columns as runs that fit into `room` characters, of as equal length as can be; one at least in each."""
    for count in range(1, len(widths) + 1):
        size = math.ceil(len(widths) / count)
        blocks = [range(at, min(at + size, len(widths))) for at in range(0, len(widths), size)]
        if size == 1 or all(sum(widths[at] for at in block) <= room for block in blocks):
            return blocks
    return []
