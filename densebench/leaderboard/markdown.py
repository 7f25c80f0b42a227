"""Leaderboard rows as Markdown, for a repository or a paper's draft."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from densebench.leaderboard.beside import Beside, beside, marks
from densebench.leaderboard.cells import Cell, Grid, footnote_of, title
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row, Table, tables
from densebench.results.schema import Key

ENTRY = ["label", "source", "preset"]
"""What the values of one line of a paper's table share."""


def markdown(
    rows: Sequence[Row],
    published: Sequence[PublishedRow] = (),
    pictures: Mapping[Table, Sequence[str]] | None = None,
) -> str:
    """Return the leaderboard as Markdown: a section per dataset, in it a table per protocol and setting.

    `published` values of a dataset and protocol that has results follow below their tables, whatever their setting;
    each table says in what a setting that is printed differs from its own. `pictures` are paths by (data, protocol,
    setting), relative to where the text will lie.
    """
    grouped = tables(rows)
    near = {key: beside(members, published) for key, members in grouped.items()}
    lines = ["# Leaderboard", ""]
    if not grouped:
        lines += ["No complete results yet; `densebench run` makes them.", ""]
    else:
        lines += [
            "Values with 95 % intervals over validation images. **Bold**: the best. ≈: may be as good as the best. "
            "#: the rank, 1 + how many are better. `docs/results.md` and `docs/compare.md` say how to read them.",
            "",
        ]
    for index, (key, members) in enumerate(grouped.items()):
        data, protocol, setting = (literal(text) for text in key)
        earlier, later = list(grouped)[:index], list(grouped)[index + 1 :]
        if key[0] not in {name for name, _, _ in earlier}:
            lines += [f"## {data}", ""]
        told = marks((near[other] for other in grouped if other[:2] == key[:2]), published)
        lines += [f"### {protocol}, preset {setting}", "", *_table(members), "", footnote_of(members), ""]
        lines += _differences(near[key], told)
        for picture in (pictures or {}).get(key, ()):
            lines += [f"![{protocol} on {data}, preset {setting}]({picture})", ""]
        if key[:2] not in {other[:2] for other in later}:
            printed = [row for row in published if (row.dataset, row.protocol) == (members[0].dataset, key[1])]
            ours = Grid.of(members).keys
            lines += _published("As printed by the papers", [row for row in printed if not row.variant], ours, told)
            lines += _published("Ablations of the papers", [row for row in printed if row.variant], ours, told)
    return "\n".join(lines).rstrip() + "\n"


def literal(text: str) -> str:
    """Return a text that Markdown shows as it is: no HTML, no links, no emphasis.

    >>> literal("[a](http://b) <b>*c*")
    '\\\\[a\\\\](http://b) &lt;b&gt;\\\\*c\\\\*'
    """
    return re.sub(r"([\\`*\[\]])", r"\\\1", html.escape(text, quote=False))


def _table(members: Sequence[Row]) -> Iterator[str]:
    grid = Grid.of(members)
    heads = [title(row.metric, row.unit, row.higher_is_better) for row in grid.columns]
    yield table_line(["model", *heads, "record"])
    yield table_line(["---", *["---:"] * len(heads), "---"])
    for first, cells in grid.lines:
        records = " ".join(f"`{row.score_hash[:8]}`" for row in first.each)
        yield table_line([literal(first.label), *map(_cell, cells), records])


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value = f"**{cell.value}**" if cell.best else cell.value
    return " ".join(
        filter(None, (value, cell.interval, "≈" if cell.close else "", f"#{cell.rank}" if cell.rank else ""))
    )


def _differences(near: Sequence[Beside], told: Mapping[str, str]) -> Iterator[str]:
    """Yield a line per published setting that has a mark: in what it differs from that of the table above."""
    marked = [each for each in near if each.setting in told]
    order = list(told)
    for each in sorted(marked, key=lambda each: order.index(each.setting)):
        yield f"- {told[each.setting]} {literal(each.text)}"
    yield from [""] if marked else []


def _published(
    head: str, printed: Sequence[PublishedRow], ours: Sequence[Key], told: Mapping[str, str]
) -> Iterator[str]:
    """Yield the papers' values, columns in the order of ours; metrics that no row has together are tables apart.

    `told` are the marks of settings that are not those of all tables above.
    """
    import pandas as pd
    from scipy.sparse.csgraph import connected_components

    if not printed:
        return
    lines = [(row.label, row.source, row.preset, row.metric, row.printed, row.note) for row in printed]
    values = pd.DataFrame(lines, columns=[*ENTRY, "metric", "printed", "note"])
    values["apart"] = values.note.where(values.duplicated([*ENTRY, "metric"]), "")  # a second value of one metric
    places = {row.metric: _place(row.key, ours) for row in printed}
    table = values.groupby([*ENTRY, "apart", "metric"], sort=False).printed.last().unstack(sort=False)
    order: list[str] = sorted(places, key=lambda metric: places[metric])
    table = table[order]
    has = table.notna().to_numpy(int)
    _, group = connected_components(has.T @ has, directed=False)
    yield from (f"#### {head}", "")
    for number in dict.fromkeys(group):
        names = list(table.columns[group == number])
        own = values[values.metric.isin(names)]
        notes = own.groupby([*ENTRY, "apart"]).note.agg(lambda found: "; ".join(filter(None, found.unique()))).to_dict()
        yield table_line(["model", *names, "source", "preset", "note"])
        yield table_line(["---", *["---:"] * len(names), "---", "---", "---"])
        for entry, *cells in table[names].dropna(how="all").fillna("").itertuples(name=None):
            label, source, preset, _ = entry
            yield table_line([label, *cells, source, f"{preset} {told.get(preset, '')}".rstrip(), notes[entry]])
        yield ""


def _place(key: Key, ours: Sequence[Key]) -> tuple[int, bool]:
    """Return where a published metric belongs among ours: in its own place, or behind that of its coordinates."""
    if key in ours:
        return ours.index(key), False
    coordinates = [at for _, at in ours]
    return coordinates.index(key[1]) if key[1] and key[1] in coordinates else len(ours), True


def table_line(cells: Iterable[str]) -> str:
    """Return cells as a line of a table."""
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(escaped) + " |"
