"""A suite's tables as text: measured / printed / difference, and a footnote for what each pair differs in."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from densebench.core.text import plain
from densebench.leaderboard.cells import number
from densebench.leaderboard.markdown import literal, table_line
from densebench.suites.suite import Suite
from densebench.suites.table import SuiteTable, TableNumber, metric_names

LEGEND = "measured here / printed in the paper / difference"


class Footnotes:
    """Letters for sentences, in the order of their first use."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def marks(self, pair: TableNumber) -> str:
        """Return the letters of what a pair differs in, "" where nothing."""
        return ",".join(self._letter(each.text) for each in pair.differences)

    def _letter(self, text: str) -> str:
        count = len(self._letters)
        letters = string.ascii_lowercase
        name = letters[count % 26] * (1 + count // 26)
        return self._letters.setdefault(text, name)

    def lines(self) -> list[str]:
        """Return a line per letter."""
        return [f"{letter}: {text}" for text, letter in self._letters.items()]


def cell_text(pair: TableNumber, notes: Footnotes) -> str:
    """Return a cell: "78.8 / 80.5 / -1.7 a", "- / 80.5" where nothing was measured, "78.8" where nothing is printed."""
    unit = pair.measured.unit if pair.measured else ""
    printed = pair.printed.printed if pair.printed else ""
    if pair.measured is None:
        return f"- / {printed}" if printed else ""
    ours, gap = number(pair.measured.value, unit), pair.gap
    text = ours if gap is None else f"{ours} / {printed} / {'+' if gap >= 0 else ''}{number(gap, unit)}"
    return f"{text} {notes.marks(pair)}".rstrip()


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def text_tables(tables: Sequence[SuiteTable], notes: Footnotes) -> Iterator[TextTable]:
    """Yield the tables that have a number, as text."""
    for table in tables:
        if table.lines:
            lines = tuple((plain(model), *(cell_text(pair, notes) for pair in pairs)) for model, pairs in table.lines)
            yield TextTable(table.title, ("model", *metric_names(table)), lines)


def suite_markdown(suite: Suite, tables: Sequence[SuiteTable]) -> str:
    """Return a suite with its results as Markdown."""
    notes = Footnotes()
    lines = [f"# {suite.title}", ""]
    if suite.source:
        lines += [f"{suite.source}. Each cell: {LEGEND}.", ""]
    for table in text_tables(tables, notes):
        rows = [table.heads, ["---"] * len(table.heads), *table.lines]
        lines += [f"## {table.title}", "", *(table_line(map(literal, row)) for row in rows), ""]
    lines += [f"- {literal(line)}" for line in notes.lines()]
    return "\n".join(lines).rstrip() + "\n"
