"""Leaderboard rows as pictures: bars per metric, and lines where a metric is measured over a setting.

Names stand beside the lines instead of in a legend, and on the axis of the bars.
`layers.py` draws studies of all layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from densebench.leaderboard import drawing, layers
from densebench.leaderboard.cells import number, title
from densebench.leaderboard.drawing import INK, LABEL_GAP, NAME_SIZE, Name, Style
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row, Table, by_entry, tables
from densebench.results.schema import Key, Record
from densebench.results.store import slug

BANDS_UP_TO = 4
"""Lines whose intervals are drawn as bands; more of them would hide each other, so they get error bars."""
REFERENCES = 6
"""Published models named beside a line plot: the best ones."""
PANELS_PER_ROW = 4


@dataclass(frozen=True)
class LinePlot:
    """A quantity measured over its one coordinate."""

    name: str
    """In the name of the file."""
    quantity: str
    coordinate: str
    axis: str
    title: str = "mIoU"
    log: bool = False

    def place(self, row: Row | PublishedRow) -> float | None:
        """Return where a row stands on the axis, None where it does not belong to the plot."""
        if row.quantity != self.quantity or set(row.at) != {self.coordinate}:
            return None
        try:
            return float(Fraction(row.at[self.coordinate]))
        except (ValueError, ZeroDivisionError):  # of a plugin whose coordinate is no number
            return None


LINE_PLOTS = (
    LinePlot("memory", "miou", "fraction", "share of the training images in memory", log=True),
    LinePlot("clusters", "miou", "clusters", "number of clusters K"),
    LinePlot("alpha", "pck", "alpha", "alpha: distance allowed, as a share of the box's longer side", "PCK"),
)


@dataclass(frozen=True)
class _Line:
    name: str
    points: tuple[tuple[float, Row | PublishedRow], ...]


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
    studies = layers.studies(rows, records)
    found: dict[Table, dict[str, Figure]] = {}
    for table, members in tables(rows).items():
        if not any(math.isfinite(row.value) for row in members):
            continue
        whole = members[0].data, members[0].protocol, members[0].setting
        printed = [row for row in published if (row.dataset, row.protocol, row.preset) == whole]
        try:
            found[table] = _figures(members, looks, printed, studies.get(table, ()))
        except Exception as error:  # such as letters that no font has
            if report is None:
                raise
            report(f"{' / '.join(table)}: no plots ({type(error).__name__}: {error}).")
    return found


def _figures(
    members: Sequence[Row],
    looks: Mapping[str, Style],
    printed: Sequence[PublishedRow],
    studies: Sequence[layers.Study],
) -> dict[str, Figure]:
    """Return the figures of one table by file name."""
    stem = slug("--".join(members[0].table))
    found = {stem: bars(members, looks)}
    for plot in LINE_PLOTS:
        figure = lines(members, plot, looks, printed)
        if figure is not None:
            found[f"{stem}--{plot.name}"] = figure
    if studies:
        found[f"{stem}--layers"] = layers.figure(members, studies, looks)
    return found


def bars(members: Sequence[Row], looks: Mapping[str, Style]) -> Figure:
    """Return a panel of horizontal bars per main metric of one table, best model on top, with 95 % intervals."""
    keys, n_columns = _arrange(list(dict.fromkeys(row.key for row in members if row.main)) or [members[0].key])
    entries = by_entry(row for row in members if row.key in keys)
    labels = [drawing.short(next(iter(entry.values())).label) for entry in entries]
    n_rows = math.ceil(len(keys) / n_columns)
    # inches: every bar is as thick, whether there is one model or fifty
    left, wide, tall = 0.3 + drawing.width_of(labels, NAME_SIZE), 2.6 if n_columns < 3 else 2.0, 0.27 * len(entries)
    between, foot = 0.25, 0.38
    width = max(4.6, left + n_columns * (wide + between))
    several = any(row.members for row in members)
    above = drawing.Head.of(members, width, "dots: single seeds" if several else "")
    head = 0.88 + above.extra
    height = head + n_rows * (tall + foot) + (n_rows - 1) * 0.4
    figure = Figure(figsize=(width, height))
    for index, key in enumerate(keys):
        row, column = divmod(index, n_columns)
        bottom = height - head - row * (tall + foot + 0.4) - tall
        place = (left + column * (wide + between)) / width, bottom / height, wide / width, tall / height
        axes = figure.add_axes(place)
        _bar_panel(axes, [entry.get(key) for entry in entries], looks)
        axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels), parse_math=False)
        axes.tick_params(axis="y", labelsize=NAME_SIZE, labelcolor=INK, length=0)
        axes.set_ylim(len(entries) - 0.5, -0.5)  # best on top
    above.draw(figure)
    return figure


def lines(
    members: Sequence[Row], plot: LinePlot, looks: Mapping[str, Style], published: Sequence[PublishedRow] = ()
) -> Figure | None:
    """Return one line per model over the coordinate of the plot; None where no model was measured at two settings.

    Published values of the same dataset and preset are grey; the best of them are named.
    """
    ours = [
        _Line(label, points)
        for label, points in (
            (next(iter(entry.values())).label, _points(entry.values(), plot)) for entry in by_entry(members)
        )
        if points
    ]
    if not any(len(line.points) > 1 for line in ours):
        return None
    ours.sort(key=lambda line: -line.points[-1][1].value)
    settings = sorted({x for line in ours for x, _ in line.points})
    theirs = _references(published, plot, settings)
    named = theirs[:REFERENCES]

    names = [drawing.short(line.name) for line in (*ours, *named)]
    width = 5.75 + drawing.width_of(names, NAME_SIZE)  # inches
    above = drawing.Head.of(members, width, "grey: as printed by the papers" if theirs else "")
    height = max(3.9, 1.3 + LABEL_GAP * 1.15 * len(names)) + above.extra
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.62 / width, 0.55 / height, 4.6 / width, 1 - (1.25 + above.extra) / height))
    drawing.grid(axes, "both")
    if plot.log:
        axes.set_xscale("log")
    texts = [str(Fraction(x).limit_denominator(10000)) if plot.log else f"{x:g}" for x in settings]
    axes.set_xticks(settings, texts)
    axes.minorticks_off()

    for line in theirs:
        xs, ys = _xy(line)
        faint: dict[str, Any] = {} if line in named else {"linestyle": "none", "alpha": 0.6}
        axes.plot(xs, ys, color="#b5b5b5", linewidth=0.8, marker="_", markersize=8, zorder=1, **faint)
    for line in ours:
        _draw(axes, line, looks[line.name], crowded=len(ours) > BANDS_UP_TO)

    rows = [row for line in ours for _, row in line.points]
    limits = [row.value for line in (*ours, *named) for _, row in line.points]
    limits += [end for row in rows if isinstance(row, Row) for end in (row.ci95_low, row.ci95_high) if end is not None]
    low, high = min(limits), max(limits)
    margin = 0.06 * (high - low) or 1.0
    axes.set_ylim(max(low - margin, min(0.0, low)), high + margin)
    axes.set_ylabel(f"{plot.title} ({members[0].unit})", fontsize=9, color=INK)
    axes.set_xlabel(plot.axis, fontsize=9, color=INK)
    last = [(line, *line.points[-1]) for line in (*ours, *named)]
    drawing.names_beside(
        axes, [Name(line.name, x, row.value, looks[line.name] if line in ours else None) for line, x, row in last]
    )
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


def _bar_panel(axes: Axes, column: Sequence[Row | None], looks: Mapping[str, Style]) -> None:
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
    axes.set_xlim(min(0.0, min(row.value for _, row in present)), (far or 1.0) * 1.25)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    first = present[0][1]
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(
        title(first.metric, first.unit, first.higher_is_better), fontsize=9, fontweight="bold", color=INK, loc="left"
    )
    axes.spines["left"].set_visible(True)


def _draw(axes: Axes, line: _Line, look: Style, *, crowded: bool) -> None:
    xs, ys = _xy(line)
    axes.plot(
        xs,
        ys,
        color=look.color,
        linestyle=look.dash,
        linewidth=1.2 if crowded else 1.7,
        marker=look.marker,
        markersize=3.0 if crowded else 4.5,
        zorder=3,
    )
    known = [
        (x, row.ci95_low, row.ci95_high)
        for x, row in line.points
        if isinstance(row, Row) and row.ci95_low is not None and row.ci95_high is not None
    ]
    if not known:
        return
    places, low, high = (list(side) for side in zip(*known, strict=True))
    if len(known) > 1 and not crowded:
        axes.fill_between(places, low, high, color=look.color, alpha=0.15, linewidth=0, zorder=2)
    else:
        axes.vlines(places, low, high, color=look.color, linewidth=1.0, zorder=3)


def _references(published: Sequence[PublishedRow], plot: LinePlot, settings: Sequence[float]) -> list[_Line]:
    """Return the published lines, best first; of those that one paper quotes of another, and of ablations, none."""
    grouped: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in published:
        grouped.setdefault((row.label, row.paper), []).append(row)
    found = []
    seen = set()
    for (label, paper), members in grouped.items():
        points = tuple(point for point in _points(members, plot) if point[0] in settings)
        values = label, tuple((place, row.value) for place, row in points)
        if points and values not in seen and not members[0].variant:
            seen.add(values)
            found.append(_Line(f"{label} ({paper})" if label.split()[0] != paper else label, points))
    return sorted(found, key=lambda line: (-line.points[-1][1].value, line.name))


def _points(rows: Iterable[Any], plot: LinePlot) -> tuple[tuple[float, Any], ...]:
    """Return (setting, row) of the rows that belong to the plot, in ascending order of the setting."""
    found: dict[float, Any] = {}
    for row in rows:
        place = plot.place(row)
        if place is not None and math.isfinite(row.value):
            found.setdefault(place, row)
    return tuple(sorted(found.items()))


def _xy(line: _Line) -> tuple[list[float], list[float]]:
    return [x for x, _ in line.points], [row.value for _, row in line.points]
