"""Leaderboard rows as pictures: bars per metric, published ones in grey below, and what goes with each table.

`curves.py` draws lines where a metric is measured over a setting, `layers.py` studies of all layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from densebench.leaderboard import drawing, layers
from densebench.leaderboard.beside import Beside, beside
from densebench.leaderboard.cells import number, title
from densebench.leaderboard.curves import LINE_PLOTS, lines
from densebench.leaderboard.drawing import GREY, INK, NAME_SIZE, PRINTED, REFERENCES, Style
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row, Table, by_entry, tables
from densebench.leaderboard.studies import Study, studies
from densebench.results.schema import Key, Record
from densebench.results.store import slug

PANELS_PER_ROW = 4
APART = 0.5
"""Bars' width between ours and published ones."""


def figures(
    rows: Sequence[Row],
    published: Sequence[PublishedRow] = (),
    records: Iterable[Record] = (),
    report: Callable[[str], None] | None = None,
) -> dict[Table, dict[str, Figure]]:
    """Return the figures of each table (data, protocol, setting) by file name: bars, then line plots.

    `records` are what the rows were made of; those that hold the scores of many layers add a line plot over layers.
    With `report`, a table that cannot be drawn is told of, and costs only its own figures.
    """
    looks = drawing.styles(rows)
    sweeps = studies(rows, records)
    found: dict[Table, dict[str, Figure]] = {}
    for table, members in tables(rows).items():
        if not any(math.isfinite(row.value) for row in members):
            continue
        try:
            found[table] = _figures(members, looks, beside(members, published), sweeps.get(table, ()))
        except Exception as error:  # such as letters that no font has
            if report is None:
                raise
            report(f"{' / '.join(table)}: no plots ({type(error).__name__}: {error}).")
    return found


def _figures(
    members: Sequence[Row],
    looks: Mapping[str, Style],
    near: Sequence[Beside],
    sweeps: Sequence[Study],
) -> dict[str, Figure]:
    """Return the figures of one table by file name."""
    stem = slug("--".join(members[0].table))
    found = {stem: bars(members, looks, near)}
    for plot in LINE_PLOTS:
        figure = lines(members, plot, looks, near)
        if figure is not None:
            found[f"{stem}--{plot.name}"] = figure
    if sweeps:
        found[f"{stem}--layers"] = layers.figure(members, sweeps, looks)
    return found


def bars(members: Sequence[Row], looks: Mapping[str, Style], near: Sequence[Beside] = ()) -> Figure:
    """Return a panel of horizontal bars per main metric of one table, best model on top, with 95 % intervals.

    Below them, in grey, stand the best published ones of the nearest setting that has any of the metrics.
    """
    keys, n_columns = _arrange(list(dict.fromkeys(row.key for row in members if row.main)) or [members[0].key])
    entries = by_entry(row for row in members if row.key in keys)
    source, printed = _printed(near, [row for row in members if row.key in keys])
    labels = [drawing.short(next(iter(entry.values())).label) for entry in entries] + [*map(drawing.short, printed)]
    places = [index + APART * (index >= len(entries)) for index in range(len(labels))]
    n_rows = math.ceil(len(keys) / n_columns)
    # inches: every bar is as thick, whether there is one model or fifty
    left, wide, tall = 0.3 + drawing.width_of(labels, NAME_SIZE), 2.6 if n_columns < 3 else 2.0, 0.27 * (places[-1] + 1)
    between, foot = 0.25, 0.38
    width = max(4.6, left + n_columns * (wide + between))
    several = any(row.members for row in members)
    more = ["dots: single seeds"] * several + [f"grey: {source.caption}" for source in [source] if source]
    above = drawing.Head.of(members, width, " · ".join(more))
    head = 0.88 + above.extra
    height = head + n_rows * (tall + foot) + (n_rows - 1) * 0.4
    figure = Figure(figsize=(width, height))
    for index, key in enumerate(keys):
        row, column = divmod(index, n_columns)
        bottom = height - head - row * (tall + foot + 0.4) - tall
        place = (left + column * (wide + between)) / width, bottom / height, wide / width, tall / height
        axes = figure.add_axes(place)
        _bar_panel(axes, [entry.get(key) for entry in entries], looks, [entry.get(key) for entry in printed.values()])
        axes.set_yticks(places, labels if column == 0 else [""] * len(labels), parse_math=False)
        axes.tick_params(axis="y", labelsize=NAME_SIZE, labelcolor=INK, length=0)
        for tick in axes.get_yticklabels()[len(entries) :]:
            tick.set_color(GREY)
        axes.set_ylim(places[-1] + 0.5, -0.5)  # best on top
    above.draw(figure)
    return figure


def _arrange(keys: Sequence[Key]) -> tuple[list[Key], int]:
    """Return metrics in the order of their panels, and how many stand in a row.

    Every quantity at all coordinates ("rmse@linear1" to "delta1@linear4") makes a grid.
    """
    quantities, places = (list(dict.fromkeys(part)) for part in zip(*keys, strict=True))
    long, short = max(len(quantities), len(places)), min(len(quantities), len(places))
    if short < 2 or long > PANELS_PER_ROW or len(keys) != long * short:
        return list(keys), min(len(keys), PANELS_PER_ROW)
    if len(places) == long:
        return sorted(keys, key=lambda key: quantities.index(key[0])), long
    return sorted(keys, key=lambda key: places.index(key[1])), long


def _printed(near: Sequence[Beside], ours: Sequence[Row]) -> tuple[Beside | None, dict[str, dict[Key, PublishedRow]]]:
    """Return the nearest published setting with any metric of ours, and its best models by name, the best first."""
    for source in near:
        found = source.entries
        main = next((row for row in ours if any(row.key in entry for entry in found.values())), None)
        if main is not None:
            sign = -1 if main.higher_is_better else 1
            values = {name: sign * entry[main.key].value for name, entry in found.items() if main.key in entry}
            return source, {name: found[name] for name in sorted(values, key=values.__getitem__)[:REFERENCES]}
    return None, {}


def _bar_panel(
    axes: Axes, column: Sequence[Row | None], looks: Mapping[str, Style], printed: Sequence[PublishedRow | None] = ()
) -> None:
    drawing.grid(axes, "x")
    present = [(at, row) for at, row in enumerate(column) if row is not None and math.isfinite(row.value)]
    if not present:
        axes.set_visible(False)
        return
    far = 0.0
    for at, row in present:
        axes.barh(at, row.value, height=0.68, color=looks[row.label].color, zorder=2)
        end = row.value
        if row.ci95_low is not None and row.ci95_high is not None:
            ends = [row.ci95_low, row.ci95_high]
            axes.plot(ends, [at, at], color="white", linewidth=2.8, zorder=3)  # seen on dark bars too
            axes.plot(ends, [at, at], color=INK, linewidth=1.3, zorder=4)
            end = max(end, row.ci95_high)
        if row.members:
            values = [member.value for member in row.members]
            axes.plot(values, [at + 0.22] * len(values), "o", markersize=3, color="white", mec=INK, zorder=5)
            end = max(end, *values)
        text = number(row.value, row.unit)
        axes.annotate(text, (end, at), (4, 0), textcoords="offset points", va="center", fontsize=8, color=INK, zorder=4)
        far = max(far, end)
    for at, theirs in enumerate(printed, len(column)):
        if theirs is None:
            continue
        axes.barh(at + APART, theirs.value, height=0.5, color=PRINTED, zorder=2)
        look: dict[str, Any] = {"va": "center", "fontsize": 7.5, "color": GREY}
        axes.annotate(theirs.printed, (theirs.value, at + APART), (4, 0), textcoords="offset points", **look)
        far = max(far, theirs.value)
    axes.set_xlim(min(0.0, min(row.value for _, row in present)), (far or 1.0) * 1.25)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    first = present[0][1]
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(
        title(first.metric, first.unit, first.higher_is_better), fontsize=9, fontweight="bold", color=INK, loc="left"
    )
    axes.spines["left"].set_visible(True)
