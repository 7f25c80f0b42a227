"""Leaderboard rows as lines, where a metric is measured over a setting: one per model, published ones in grey.

Names stand beside the lines instead of in a legend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from densebench.leaderboard import drawing
from densebench.leaderboard.beside import Beside
from densebench.leaderboard.drawing import INK, LABEL_GAP, NAME_SIZE, PRINTED, REFERENCES, Name, Style
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row, by_entry

BANDS_UP_TO = 4
"""Lines whose intervals are drawn as bands; more of them would hide each other, so they get error bars."""


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
        except (ValueError, ZeroDivisionError):  # of a plugin whose coordinate is not a number
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


def lines(
    members: Sequence[Row], plot: LinePlot, looks: Mapping[str, Style], near: Sequence[Beside] = ()
) -> Figure | None:
    """Return one line per model over the coordinate of the plot; None where no model was measured at two settings.

    Published values are grey, of the nearest setting that has any: dashed where it is not ours, which the head says.
    The best of them are named.
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
    source, theirs = _references(near, plot, settings)
    named = theirs[:REFERENCES]

    names = [drawing.short(line.name) for line in (*ours, *named)]
    width = 5.75 + drawing.width_of(names, NAME_SIZE)  # inches
    above = drawing.Head.of(members, width, f"grey: {source.caption}" if source else "")
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
        look: dict[str, Any] = {"linestyle": "-" if source and source.same else "--"}
        if line not in named:
            look = {"linestyle": "none", "alpha": 0.6}
        axes.plot(xs, ys, color=PRINTED, linewidth=0.8, marker="_", markersize=8, zorder=1, **look)
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


def _references(near: Sequence[Beside], plot: LinePlot, settings: Sequence[float]) -> tuple[Beside | None, list[_Line]]:
    """Return the nearest published setting that has points of a plot, and its lines, best first."""
    for source in near:
        lines = [
            _Line(name, points)
            for name, entry in source.entries.items()
            if (points := tuple(point for point in _points(entry.values(), plot) if point[0] in settings))
        ]
        if lines:
            return source, sorted(lines, key=lambda line: (-line.points[-1][1].value, line.name))
    return None, []


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
