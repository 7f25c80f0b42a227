"""Comparisons as tables for the terminal: differences, what else differs, classes, and of several models who wins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from densebench.core.text import degrade, elide, plain
from densebench.leaderboard.cells import number
from densebench.leaderboard.comparison import Compared, Comparison
from densebench.leaderboard.differences import Difference
from densebench.results.compare import ALPHA

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table as RichTable

VERDICT = "verdict"
"""The one column that may wrap."""
NAME, CLASS = 14, 18
"""Characters of a model's name in the head of a column, and of a class's."""


def print_compared(found: Compared, console: Console, classes: bool = False) -> None:
    """Print a table per cell and pair of models; of more than two models how often each wins, and their ranks."""
    encoding = console.encoding
    blocks: list[RenderableType] = []
    alone = found.lines
    if found.several:
        blocks += _standings(found, encoding)
        alone = tuple(line for line in found.lines if line.printed)
    for _, group in itertools.groupby(alone, lambda line: (line.model_a, line.model_b, line.cell)):
        blocks += _pair(list(group), encoding, classes)
    for index, block in enumerate(blocks):
        if index:
            console.print()
        console.print(block)


def _pair(lines: Sequence[Comparison], encoding: str, classes: bool) -> Iterator[RenderableType]:
    """Yield the table of one cell of two models, what else differs, and its classes where asked for."""
    first = lines[0]
    heads = ["metric", _short(first.model_a), _short(first.model_b), "difference", "p", VERDICT]
    table = _table(heads, encoding)
    for line in lines:
        p = line.paired.p if line.paired else None
        cells = [line.metric, number(line.a, line.unit), number(line.b, line.unit)]
        cells += [difference_text(line), "" if p is None else p_text(p), line.verdict]
        _add(table, cells, encoding, bold=bool(line.winner))
    yield _titled(_named(first.cell), table, _caption(lines), encoding)
    if first.differences:
        yield from _listed("What else differs, by its known effect:", first.differences, encoding)
    for reason in dict.fromkeys(line.reason for line in lines if line.reason):
        yield degrade(f"Not paired: {plain(reason)}.", encoding)
    if classes:
        yield from (_classes(line, encoding) for line in lines if line.paired and line.paired.classes)


def _classes(line: Comparison, encoding: str) -> RenderableType:
    assert line.paired is not None
    caption = f"{line.paired.n_tested} classes are tested; adjusted p accounts for that (Holm)."
    heads = [
        "class",
        _short(line.model_a),
        _short(line.model_b),
        "difference",
        "p",
        "adjusted",
        line.paired.unit,
    ]
    table = _table(heads, encoding)
    for each in line.paired.classes:
        ends = "" if each.low is None or each.high is None else f" {_ends(each.low, each.high, line.unit)}"
        p, adjusted = ("" if value is None else p_text(value) for value in (each.p, each.adjusted))
        cells = [elide(plain(each.name), CLASS), number(each.a, line.unit), number(each.b, line.unit)]
        cells += [signed(each.difference, line.unit) + ends, p, adjusted, str(each.n)]
        _add(table, cells, encoding, bold=each.adjusted is not None and each.adjusted < ALPHA)
    return _titled(f"{line.metric} by class", table, caption, encoding)


def _standings(found: Compared, encoding: str) -> Iterator[RenderableType]:
    """Yield, of more than two models, their values with ranks in every cell, and how often each beats each."""
    for cell, of_cell in _by_cell(found.lines).items():
        metrics = list(dict.fromkeys(line.metric for line in of_cell))
        table = _table(["model", *metrics], encoding)
        for model in found.names:
            cells = [_standing(model, [line for line in of_cell if line.metric == metric]) for metric in metrics]
            if any(cells):
                _add(table, [_short(model), *cells], encoding)
        yield _titled(_named(cell), table, "In brackets the rank: 1 + how many are better.", encoding)
    told = [line for line in found.lines if line.paired and not line.differences]
    table = _table(["", *map(_short, found.names)], encoding)
    for model in found.names:
        cells = []
        for other in found.names:
            both = [line for line in told if {line.model_a, line.model_b} == {model, other} and model != other]
            wins = sum(winner_of(line) == model for line in both)
            cells.append(f"{wins} of {len(both)}" if both else "")
        _add(table, [_short(model), *cells], encoding)
    yield _titled("Of how many values the row is better than the column", table, "", encoding)
    rest = [line for line in found.lines if not line.printed and (line.differences or line.paired is None)]
    if rest:
        pairs = len({(line.model_a, line.model_b, line.cell) for line in rest})
        yield degrade(
            f"{pairs} pairs of cells cannot be paired, or differ in more: compare two of the models.", encoding
        )


def winner_of(line: Comparison) -> str:
    """Return the name of the better model, "" where they cannot be told apart."""
    return {"a": line.model_a, "b": line.model_b, "": ""}[line.winner]


def _standing(model: str, lines: Sequence[Comparison]) -> str:
    """Return a model's value in one metric of one cell, with its rank."""
    own = [line for line in lines if model in (line.model_a, line.model_b) and not line.differences]
    if not own:
        return ""
    value = own[0].a if own[0].model_a == model else own[0].b
    rank = 1 + sum(winner_of(line) not in ("", model) for line in own)
    return f"{number(value, own[0].unit)} ({rank})"


def _by_cell(lines: Iterable[Comparison]) -> dict[tuple[str, str, str], list[Comparison]]:
    cells: dict[tuple[str, str, str], list[Comparison]] = {}
    for line in lines:
        cells.setdefault(line.cell, []).append(line)
    return cells


def signed(value: float, unit: str) -> str:
    """Return a difference with its sign and one decimal more than its values have."""
    return f"{'+' if value > 0 else ''}{number(value, unit, extra=1)}".replace("-", "−")


def difference_text(line: Comparison) -> str:
    """Return a line's difference with its interval."""
    return f"{signed(line.difference, line.unit)} {interval_text(line)}".rstrip()


def interval_text(line: Comparison) -> str:
    """Return the ends of a line's interval, "" where it has none."""
    if line.paired is None or line.paired.low is None or line.paired.high is None:
        return ""
    return _ends(line.paired.low, line.paired.high, line.unit)


def _ends(low: float, high: float, unit: str) -> str:
    return f"[{signed(low, unit)}, {signed(high, unit)}]"


def p_text(p: float) -> str:
    """Return a p-value with as many digits as it has."""
    return f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def _caption(lines: Sequence[Comparison]) -> str:
    found = [line.paired for line in lines if line.paired]
    if not found:
        return ""
    units = sorted({f"{each.n} {each.unit}" for each in found})
    said = f"difference: {_short(lines[0].model_b)} - {_short(lines[0].model_a)}; paired over {' or '.join(units)}"
    if any(any(each.left_out) for each in found):
        said += ", those that both saw"
    seeds = [
        f"{line.metric} {number(sd, line.unit, 1)}" for line in lines if (sd := line.paired and line.paired.seed_sd)
    ]
    over = f" sd of the difference over seeds, which intervals do not hold: {', '.join(seeds)}." if seeds else ""
    return f"{said}; 95 % intervals over them, p by swapping the models.{over}"


def _named(cell: tuple[str, str, str]) -> str:
    data, protocol, setting = cell
    return f"{protocol} on {data}, preset {setting}"


def _listed(heading: str, found: Iterable[Difference], encoding: str) -> Iterator[str]:
    lines = [heading]
    for each in found:
        lines.append(f"  {each.text}" + (f"; known effect: {each.effect}" if each.effect else ""))
    yield degrade("\n".join(lines), encoding)


def _short(name: str) -> str:
    return elide(plain(name), NAME)


def _table(heads: Sequence[str], encoding: str) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for index, head in enumerate(heads):
        words = index == 0 or head == VERDICT
        table.add_column(Text(degrade(head, encoding)), justify="left" if words else "right", no_wrap=head != VERDICT)
    return table


def _titled(title: str, table: RichTable, caption: str, encoding: str) -> RenderableType:
    """Return a table between its title and what holds for all of it, which a narrow table would wrap."""
    from rich.console import Group
    from rich.text import Text

    below = [Text(degrade(caption, encoding), "dim italic")] if caption else []
    return Group(Text(degrade(title, encoding), "bold"), table, *below)


def _add(table: RichTable, cells: Sequence[str], encoding: str, bold: bool = False) -> None:
    from rich.text import Text

    table.add_row(*(Text(degrade(cell, encoding), "bold" if bold else "") for cell in cells))
