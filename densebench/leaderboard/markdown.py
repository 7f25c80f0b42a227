"""Leaderboard rows as text: Markdown for a repository or a paper's draft, a table for the terminal."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from densebench.core.text import degrade
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.rows import Row, Table, by_entry, leaderboard_rows, tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from densebench.results.schema import Key, Record

DIGITS = {"%": 1, "px": 1}
"""Decimals shown by unit; three for the others."""
EVEN = 0.25
"""An interval is written as ± where its sides differ by less than this share of the half-width."""
PADDING = 3
"""Characters between columns of a terminal table."""
READABLE = 28
"""Characters of a model name that a terminal table gives intervals lines of their own for."""
SHORTEST = 12
"""Characters of a model name that a terminal table leaves room for."""
LONGEST = 40
"""Characters of a model name before its middle is left out."""


def markdown(
    rows: Sequence[Row],
    published: Sequence[PublishedRow] = (),
    pictures: Mapping[Table, Sequence[str]] | None = None,
) -> str:
    """Return the leaderboard as Markdown: a section per dataset, in it a table per protocol and setting.

    `published` values of a whole dataset and protocol that has results follow below their tables; `pictures` are paths
    by (data, protocol, setting), relative to where the text will lie.
    """
    grouped = tables(rows)
    lines = ["# Leaderboard", ""]
    if not grouped:
        lines += ["No complete results yet; `densebench run` makes them.", ""]
    else:
        lines += [
            "Values with 95 % intervals over validation images. **Bold**: the best. ≈: its interval overlaps that of "
            "the best. `docs/results.md` says how to read them.",
            "",
        ]
    for index, (key, members) in enumerate(grouped.items()):
        data, protocol, setting = (literal(text) for text in key)
        earlier, later = list(grouped)[:index], list(grouped)[index + 1 :]
        if key[0] not in {name for name, _, _ in earlier}:
            lines += [f"## {data}", ""]
        lines += [f"### {protocol}, preset {setting}", "", *_markdown_table(members), "", _footnote(members), ""]
        for picture in (pictures or {}).get(key, ()):
            lines += [f"![{protocol} on {data}, preset {setting}]({picture})", ""]
        if key[:2] not in {other[:2] for other in later}:
            printed = [row for row in published if (row.dataset, row.protocol) == key[:2]]
            lines += _published_tables(printed, list(_columns(members)))
    return "\n".join(lines).rstrip() + "\n"


def console_table(records: Iterable[Record], console: Console) -> None:
    """Print the main metrics of records, a table per dataset, protocol and setting, no wider than the console.

    Records of --limit runs are shown, in tables that say so. What the console's encoding cannot carry is in ASCII.
    """
    for index, members in enumerate(tables(leaderboard_rows(records, limited=True)).values()):
        if index:
            console.print()
        for table in _rich_tables(members, console.width, console.encoding):
            console.print(table)


def elide(text: str, longest: int = LONGEST) -> str:
    """Return `text` with its middle left out where it is longer than `longest` characters.

    >>> elide("timm/vit_small_patch14_reg4_dinov2.lvd142m", 20)
    'timm/vit_s…2.lvd142m'
    """
    if len(text) <= longest:
        return text
    head = longest // 2
    return f"{text[:head]}…{text[len(text) - (longest - head - 1) :]}"


def literal(text: str) -> str:
    """Return a text that Markdown shows as it is: no HTML, no links, no emphasis.

    >>> literal("[a](http://b) <b>*c*")
    '\\\\[a\\\\](http://b) &lt;b&gt;\\\\*c\\\\*'
    """
    return re.sub(r"([\\`*\[\]])", r"\\\1", html.escape(text, quote=False))


def number(value: float, unit: str) -> str:
    """Return a value with the decimals its unit deserves."""
    return "–" if math.isnan(value) else f"{value:.{DIGITS.get(unit, 3)}f}"


def title(metric: str, unit: str, higher_is_better: bool) -> str:
    """Return a column head: name, unit where there is one, and which way is better."""
    return f"{metric}{'' if unit == '1' else f' ({unit})'} {'↑' if higher_is_better else '↓'}"


def ties(column: Sequence[Row]) -> tuple[Row | None, list[Row]]:
    """Return the best row of one metric, and those whose interval overlaps that of the best.

    Models are compared on the same images, so their errors go together and this is lenient: overlapping intervals do
    not show that two models are equally good.
    """
    finite = [row for row in column if not math.isnan(row.value)]
    if len(finite) < 2:
        return None, []
    best = (max if finite[0].higher_is_better else min)(finite, key=lambda row: row.value)
    if best.ci95_low is None or best.ci95_high is None:
        return best, [row for row in finite if row is not best and row.value == best.value]
    low, high = best.ci95_low, best.ci95_high
    return best, [
        row
        for row in finite
        if row is not best
        and row.ci95_low is not None
        and row.ci95_high is not None
        and row.ci95_low <= high
        and low <= row.ci95_high
    ]


def _even(column: Iterable[Row]) -> bool:
    """Whether all intervals of a column can be written as ± without bending them."""
    for row in column:
        if row.ci95_low is None or row.ci95_high is None:
            continue
        below, above = row.value - row.ci95_low, row.ci95_high - row.value
        if not abs(above - below) <= EVEN * (below + above) / 2:
            return False
    return True


def _interval(row: Row, even: bool) -> str:
    """Return what the images leave open, and beside it what the seeds do."""
    seeds = "" if row.seed_sd is None else f"(sd {number(row.seed_sd, row.unit)})"
    if row.ci95_low is None or row.ci95_high is None:
        return seeds
    images = f"[{number(row.ci95_low, row.unit)}, {number(row.ci95_high, row.unit)}]"
    if even:
        images = f"± {number((row.ci95_high - row.ci95_low) / 2, row.unit)}"
    return f"{images} {seeds}".rstrip()


def _columns(members: Sequence[Row]) -> dict[Key, list[Row]]:
    """Return the rows of each main metric of a table, of all metrics where none is main."""
    columns: dict[Key, list[Row]] = {}
    for row in [row for row in members if row.main] or members:
        columns.setdefault(row.key, []).append(row)
    return columns


def _markdown_table(members: Sequence[Row]) -> list[str]:
    columns = _columns(members)
    even = {name: _even(column) for name, column in columns.items()}
    marks = {name: ties(column) for name, column in columns.items()}
    heads = [title(column[0].metric, column[0].unit, column[0].higher_is_better) for column in columns.values()]
    lines = [_line(["model", *heads, "record"]), _line(["---", *["---:"] * len(heads), "---"])]
    for entry in by_entry(members):
        cells = []
        for name in columns:
            row = entry.get(name)
            if row is None:
                cells.append("")
                continue
            best, close = marks[name]
            value = number(row.value, row.unit)
            value = f"**{value}**" if row is best else value
            cells.append(" ".join(filter(None, (value, _interval(row, even[name]), "≈" if row in close else ""))))
        first = next(iter(entry.values()))
        records = " ".join(f"`{row.score_hash[:8]}`" for row in first.each)
        lines.append(_line([literal(first.label), *cells, records]))
    return lines


def _footnote(members: Sequence[Row]) -> str:
    def listing(values: Iterable[int]) -> str:
        return " or ".join(str(value) for value in sorted(set(values)))

    seeds = listing(row.seed_count for row in members if row.main) or listing(row.seed_count for row in members)
    images = listing(row.n_images for row in members)
    said = f"{images} validation images; {seeds} seed{'' if seeds == '1' else 's'} per value; 95 % intervals"
    return f"{said}, sd over seeds." if any(row.seed_sd is not None for row in members) else f"{said}."


def _published_tables(printed: Sequence[PublishedRow], ours: Sequence[Key]) -> list[str]:
    """Return the papers' values, columns in the order of ours; metrics that no row has together are tables apart."""
    entries: dict[tuple[str, str, str, str], dict[Key, PublishedRow]] = {}
    for row in printed:
        apart = row.note if row.key in entries.get((row.label, row.source, row.preset, ""), {}) else ""
        entries.setdefault((row.label, row.source, row.preset, apart), {})[row.key] = row
    lines = ["#### As printed by the papers", ""] if printed else []
    heads = {row.key: row.metric for row in printed}
    groups = [sorted(keys, key=lambda key: _place(key, ours)) for keys in _together(entries.values())]
    for keys in sorted(groups, key=lambda keys: _place(keys[0], ours)):
        lines += [_line(["model", *(heads[key] for key in keys), "source", "preset", "note"])]
        lines += [_line(["---", *["---:"] * len(keys), "---", "---", "---"])]
        for (label, source, preset, _), values in entries.items():
            if not set(keys) & set(values):
                continue
            cells = [values[key].printed if key in values else "" for key in keys]
            notes = "; ".join(dict.fromkeys(row.note for key, row in values.items() if row.note and key in keys))
            lines.append(_line([label, *cells, source, preset, notes]))
        lines.append("")
    return lines


def _together(entries: Iterable[Mapping[Key, PublishedRow]]) -> list[list[Key]]:
    """Return metrics in groups: two are in one group if some entry has both, or through others."""
    groups: list[list[Key]] = []
    for entry in entries:
        touched = [group for group in groups if set(group) & set(entry)]
        merged = list(dict.fromkeys(key for keys in (*touched, entry) for key in keys))
        groups = [group for group in groups if group not in touched] + [merged]
    return groups


def _place(key: Key, ours: Sequence[Key]) -> tuple[int, bool]:
    """Return where a published metric belongs among ours: in its own place, or behind that of its coordinates."""
    if key in ours:
        return ours.index(key), False
    coordinates = [at for _, at in ours]
    return coordinates.index(key[1]) if key[1] and key[1] in coordinates else len(ours), True


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def _rich_tables(members: Sequence[Row], width: int, encoding: str) -> list[RichTable]:
    """Return a table as wide as the terminal at most, or several below each other where its columns do not fit."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    columns = _columns(members)
    even = {name: _even(column) for name, column in columns.items()}
    marks = {name: ties(column) for name, column in columns.items()}
    entries = by_entry(members)

    # percent goes without saying: the terminal is narrow
    heads = [
        degrade(title(column[0].metric, column[0].unit.strip("%") or "1", column[0].higher_is_better), encoding)
        for column in columns.values()
    ]
    cells: list[list[tuple[str, str, bool]]] = []  # value, interval, whether the best
    for entry in entries:
        found = [(entry.get(name), name) for name in columns]
        cells.append(
            [
                (
                    degrade(number(row.value, row.unit), encoding),
                    degrade(_interval(row, even[name]), encoding),
                    row is marks[name][0],
                )
                if row is not None
                else ("", "", False)
                for row, name in found
            ]
        )

    def widths(apart: str) -> list[int]:
        """Characters that each column but the first takes, with values and intervals on one line or two."""
        found = []
        for at, head in enumerate(heads):
            lengths = [(len(line[at][0]), len(line[at][1])) for line in cells]
            texts = [sum(pair) + 1 if apart == " " else max(pair) for pair in lengths]
            found.append(max(len(head), *texts) + PADDING)
        return found

    names = [degrade(next(iter(entry.values())).label, encoding) for entry in entries]
    wanted = min(max(len(name) for name in names), READABLE)
    apart = " " if sum(widths(" ")) + PADDING + 2 + wanted <= width else "\n"
    blocks = _blocks(widths(apart), width - PADDING - 2 - min(wanted, SHORTEST))

    data, protocol, setting = members[0].table
    heading = degrade(f"{protocol} on {data}, preset {setting}", encoding)
    footnote = degrade(_footnote(members), encoding)
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


def _blocks(widths: Sequence[int], room: int) -> list[range]:
    """Return columns as runs that fit into `room` characters, of as equal length as can be; one at least in each."""
    for count in range(1, len(widths) + 1):
        size = math.ceil(len(widths) / count)
        blocks = [range(at, min(at + size, len(widths))) for at in range(0, len(widths), size)]
        if size == 1 or all(sum(widths[at] for at in block) <= room for block in blocks):
            return blocks
    return []
