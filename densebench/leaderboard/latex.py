r"""Leaderboard rows as LaTeX: one booktabs table per data, protocol and setting, ready for \input.

Needs the packages booktabs and xcolor. The best value is bold, the second underlined; those whose interval overlaps
that of the best share its mark. Published values follow in grey and are not ranked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from densebench.leaderboard.beside import beside
from densebench.leaderboard.cells import Cell, Grid, footnote_of, ties
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row, tables
from densebench.results.schema import Key

HEAD = r"% \usepackage{booktabs} \usepackage[table]{xcolor}"
UP, DOWN = r"$\uparrow$", r"$\downarrow$"
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "…": r"\ldots{}",
}


def latex(rows: Sequence[Row], published: Sequence[PublishedRow] = ()) -> str:
    """Return all tables of rows as LaTeX; `published` values of the same data and protocol follow in grey."""
    return "\n\n".join([HEAD, *("\n".join(_table(members, published)) for members in tables(rows).values())]) + "\n"


def literal(text: str) -> str:
    r"""Return a text that LaTeX prints as it is.

    >>> print(literal("vit_s & 50%"))
    vit\_s \& 50\%
    """
    return "".join(SPECIAL.get(char, char) for char in text)


def _table(members: Sequence[Row], published: Sequence[PublishedRow]) -> Iterator[str]:
    grid = Grid.of(members)
    data, protocol, setting = members[0].table
    second = {row.key: _second([each for each in members if each.key == row.key]) for row in grid.columns}
    heads = [f"{literal(row.metric)} {UP if row.higher_is_better else DOWN}" for row in grid.columns]
    yield r"\begin{table}"
    yield r"\centering"
    yield rf"\caption{{{literal(f'{protocol} on {data}, preset {setting}. {footnote_of(members)}')}}}"
    yield rf"\begin{{tabular}}{{l{'r' * len(heads)}}}"
    yield r"\toprule"
    yield _line(["model", *heads])
    yield r"\midrule"
    for first, cells in grid.lines:
        ranked = [
            _cell(cell, (first.label, first.score_hash) in second[key])
            for cell, key in zip(cells, grid.keys, strict=True)
        ]
        yield _line([literal(first.label), *ranked])
    printed = list(_printed(members, published, grid.keys))
    yield from [r"\midrule", *printed] if printed else []
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield r"\end{table}"


def _second(column: Sequence[Row]) -> set[tuple[str, str]]:
    """Return which rows of one metric come after the best and those that tie with it: the next, and its own ties."""
    best, close = ties(column)
    rest = [row for row in column if row is not best and row not in close]
    next_best, its_ties = ties(rest)
    if next_best is None:
        its_ties = [row for row in rest if row.value == row.value and not row.withdrawn] if best else []
    return {(row.label, row.score_hash) for row in (next_best, *its_ties) if row is not None}


def _cell(cell: Cell | None, is_second: bool) -> str:
    if cell is None:
        return "--"
    value = literal(cell.value)
    if cell.best or cell.close:
        value = rf"\textbf{{{value}}}"
    elif is_second:
        value = rf"\underline{{{value}}}"
    return f"{value} {{\\scriptsize {literal(cell.interval)}}}" if cell.interval else value


def _printed(members: Sequence[Row], published: Sequence[PublishedRow], keys: Sequence[Key]) -> Iterator[str]:
    """Yield a grey line per published model that has one of the metrics, with what its setting differs in."""
    for near in beside(members, published):
        entries = {name: entry for name, entry in near.entries.items() if entry.keys() & set(keys)}
        for name, entry in entries.items():
            cells = [name, *(entry[key].printed if key in entry else "–" for key in keys)]
            yield _line(rf"\textcolor{{gray}}{{{literal(cell)}}}" for cell in cells)
        if entries:
            said = rf"\scriptsize\textcolor{{gray}}{{{literal(near.caption)}}}"
            yield rf"\multicolumn{{{len(keys) + 1}}}{{l}}{{{said}}} \\"


def _line(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
