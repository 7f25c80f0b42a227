"""Leaderboard rows as pictures: bars per metric, and lines where a metric is measured over a setting.

Figures are built without pyplot, so nothing global changes. A model has one colour in all figures; names stand
beside the lines instead of in a legend, and on the axis of the bars.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from densebench.leaderboard.markdown import elide, number, title
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.rows import Row, by_entry, tables
from densebench.results import slug

DPI = 160
INK, GREY, GRID = "#222222", "#6f6f6f", "#e4e4e4"
# Distinguishable with the common colour vision deficiencies, and against white: after Okabe & Ito, then Tol's "muted".
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99")
DASHES = ("-", (0, (5, 1.6)), (0, (1.5, 1.3)), (0, (6, 1.4, 1.2, 1.4)))
MARKERS = ("o", "s", "^", "D")
LONGEST_NAME = 34
NAME_SIZE = 8.5
BANDS_UP_TO = 4
"""Lines whose intervals are drawn as bands; more of them would hide each other, so they get error bars."""
LABEL_GAP = 0.165
"""Inches between names beside lines."""
REFERENCES = 6
"""Published models named beside a line plot: the best ones."""
PANELS_PER_ROW = 4


@dataclass(frozen=True)
class Sweep:
    """A quantity measured over a setting that metric names carry: "miou@1/8"."""

    name: str
    pattern: re.Pattern[str]
    axis: str
    log: bool


SWEEPS = (
    Sweep("memory", re.compile(r"miou@(\d+(?:/\d+)?)"), "share of the training images in memory", log=True),
    Sweep("clusters", re.compile(r"miou@K=(\d+)"), "number of clusters K", log=False),
)


@dataclass(frozen=True)
class Style:
    """How a model looks in every figure."""

    color: str
    dash: Any
    marker: str


@dataclass(frozen=True)
class _Line:
    name: str
    points: tuple[tuple[float, Row | PublishedRow], ...]


def figures(
    rows: Sequence[Row], published: Sequence[PublishedRow] = ()
) -> dict[tuple[str, str, str], dict[str, Figure]]:
    """Return the figures of each table (dataset, protocol, preset) by file name: bars, then a line plot per sweep."""
    looks = styles(rows)
    found: dict[tuple[str, str, str], dict[str, Figure]] = {}
    for table, members in tables(rows).items():
        if not any(math.isfinite(row.value) for row in members):
            continue
        stem = slug("--".join(table))
        found[table] = {stem: bars(members, looks)}
        printed = [row for row in published if (row.dataset, row.protocol, row.preset) == table]
        for sweep in SWEEPS:
            figure = lines(members, sweep, looks, printed)
            if figure is not None:
                found[table][f"{stem}--{sweep.name}"] = figure
    return found


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def styles(rows: Iterable[Row]) -> dict[str, Style]:
    """Return a style per label; a model keeps its colour, its variants differ in dash and marker."""
    looks: dict[str, Style] = {}
    labels = sorted({(row.model, row.label) for row in rows})
    models = sorted({model for model, _ in labels})
    for model, label in labels:
        index = models.index(model)
        turn = index // len(PALETTE) + [other for same, other in labels if same == model].index(label)
        looks[label] = Style(PALETTE[index % len(PALETTE)], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)])
    return looks


def bars(members: Sequence[Row], looks: Mapping[str, Style]) -> Figure:
    """Return a panel of horizontal bars per main metric of one table, best model on top, with 95 % intervals."""
    names = list(dict.fromkeys(row.metric for row in members if row.main)) or [members[0].metric]
    entries = by_entry(row for row in members if row.metric in names)
    labels = [elide(next(iter(entry.values())).label, LONGEST_NAME) for entry in entries]
    n_columns = min(len(names), PANELS_PER_ROW)
    n_rows = math.ceil(len(names) / n_columns)
    # inches: every bar is as thick, whether there is one model or fifty
    left, wide, tall = 0.3 + _width(labels, NAME_SIZE), 2.6 if n_columns < 3 else 2.0, 0.27 * len(entries)
    between, head, foot = 0.25, 0.88, 0.38
    width = max(4.6, left + n_columns * (wide + between))
    height = head + n_rows * (tall + foot) + (n_rows - 1) * 0.4
    figure = Figure(figsize=(width, height))
    for index, name in enumerate(names):
        row, column = divmod(index, n_columns)
        bottom = height - head - row * (tall + foot + 0.4) - tall
        place = (left + column * (wide + between)) / width, bottom / height, wide / width, tall / height
        axes = figure.add_axes(place)
        _bar_panel(axes, [entry.get(name) for entry in entries], looks)
        axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels), parse_math=False)
        axes.tick_params(axis="y", labelsize=NAME_SIZE, labelcolor=INK, length=0)
        axes.set_ylim(len(entries) - 0.5, -0.5)  # best on top
    _head(figure, members)
    return figure


def lines(
    members: Sequence[Row], sweep: Sweep, looks: Mapping[str, Style], published: Sequence[PublishedRow] = ()
) -> Figure | None:
    """Return one line per model over the sweep's setting; None where no model was measured at two settings.

    Published values of the same dataset and preset are grey; the best of them are named.
    """
    ours = [
        _Line(label, points)
        for label, points in (
            (next(iter(entry.values())).label, _points(entry.values(), sweep)) for entry in by_entry(members)
        )
        if points
    ]
    if not any(len(line.points) > 1 for line in ours):
        return None
    ours.sort(key=lambda line: -line.points[-1][1].value)
    settings = sorted({x for line in ours for x, _ in line.points})
    theirs = _references(published, sweep, settings)
    named = theirs[:REFERENCES]

    names = [elide(line.name, LONGEST_NAME) for line in (*ours, *named)]
    width = 5.75 + _width(names, NAME_SIZE)  # inches
    height = max(3.9, 1.3 + LABEL_GAP * 1.15 * len(names))
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.62 / width, 0.55 / height, 4.6 / width, 1 - 1.25 / height))
    _grid(axes, "both")
    if sweep.log:
        axes.set_xscale("log")
    axes.set_xticks(settings, [str(Fraction(x).limit_denominator(10000)) for x in settings])
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
    head = members[0]
    axes.set_ylabel(f"mIoU ({head.unit})", fontsize=9, color=INK)
    axes.set_xlabel(sweep.axis, fontsize=9, color=INK)
    _names_beside(axes, ours, named, looks)
    _head(figure, members, grey="grey: as printed by the papers" if theirs else "")
    return figure


def _bar_panel(axes: Axes, column: Sequence[Row | None], looks: Mapping[str, Style]) -> None:
    _grid(axes, "x")
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


def _names_beside(axes: Axes, ours: Sequence[_Line], named: Sequence[_Line], looks: Mapping[str, Style]) -> None:
    """Write each line's name right of its last point, moved apart where names would touch, with a thin leader."""
    low, high = axes.get_ylim()
    figure_height = axes.get_figure().get_size_inches()[1]  # type: ignore[union-attr]
    gap = LABEL_GAP / (axes.get_position().height * figure_height)
    entries = sorted([(line.points[-1][1].value, line) for line in (*ours, *named)], key=lambda entry: entry[0])
    wanted = [(value - low) / (high - low) for value, _ in entries]
    for place, (value, line) in zip(spread(wanted, gap), entries, strict=True):
        look = looks.get(line.name) if line in ours else None
        color = _darker(look.color) if look else GREY
        axes.annotate(
            elide(line.name, LONGEST_NAME),
            xy=(line.points[-1][0], value),
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            fontsize=NAME_SIZE if look else 7.5,
            color=color,
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.7,
                "alpha": 0.7,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Return ascending places at least `gap` apart and within [low, high], near the `wanted` ascending ones.

    Neighbours that touch form a block that is centred on what its members want. What does not fit is spaced evenly.
    """
    if (len(wanted) - 1) * gap >= high - low:
        step = (high - low) / max(1, len(wanted) - 1)
        return [low + step * index for index in range(len(wanted))]
    blocks: list[tuple[float, int]] = []  # (lowest place, members)
    for place in wanted:
        blocks.append((place, 1))
        while True:
            start, count = blocks[-1]
            start = min(max(start, low), high - (count - 1) * gap)
            blocks[-1] = (start, count)
            if len(blocks) == 1 or blocks[-2][0] + blocks[-2][1] * gap <= start:
                break
            (before, n_before), _ = blocks[-2], blocks.pop()
            total = n_before + count
            centred = (n_before * before + count * (start - n_before * gap)) / total
            blocks[-1] = (centred, total)
    return [start + index * gap for start, count in blocks for index in range(count)]


def _references(published: Sequence[PublishedRow], sweep: Sweep, settings: Sequence[float]) -> list[_Line]:
    grouped: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in published:
        grouped.setdefault((row.label, row.paper), []).append(row)
    found = []
    for (label, paper), members in grouped.items():
        points = tuple(point for point in _points(members, sweep) if point[0] in settings)
        if points:
            found.append(_Line(f"{label} ({paper})" if label.split()[0] != paper else label, points))
    return sorted(found, key=lambda line: (-line.points[-1][1].value, line.name))


def _points(rows: Iterable[Any], sweep: Sweep) -> tuple[tuple[float, Any], ...]:
    """Return (setting, row) of the rows that belong to the sweep, in ascending order of the setting."""
    found: dict[float, Any] = {}
    for row in rows:
        match = sweep.pattern.fullmatch(row.metric)
        if match and math.isfinite(row.value):
            found.setdefault(float(Fraction(match[1])), row)
    return tuple(sorted(found.items()))


def _xy(line: _Line) -> tuple[list[float], list[float]]:
    return [x for x, _ in line.points], [row.value for _, row in line.points]


def _grid(axes: Axes, which: Any) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis=which, color=GRID, linewidth=0.8)
    axes.tick_params(labelsize=8, colors=GREY, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def _head(figure: Figure, members: Sequence[Row], grey: str = "") -> None:
    dataset, protocol, preset = members[0].table
    images = " or ".join(map(str, sorted({row.n_images for row in members})))
    seeds = max((row.seed_count for row in members if row.main), default=1)
    facts = [f"preset {preset}", f"{images} images", "95 % intervals"]
    facts += [f"{seeds} seeds"] if seeds > 1 else []
    width, height = figure.get_size_inches()
    left = 0.12 / width
    figure.text(
        left, 1 - 0.12 / height, f"{protocol} on {dataset}", fontsize=11, fontweight="bold", color=INK, va="top"
    )
    text = " · ".join([*facts, grey] if grey else facts)
    figure.text(left, 1 - 0.36 / height, text, fontsize=8, color=GREY, va="top")


def _darker(color: str) -> str:
    """Return a colour dark enough for small letters on white."""
    red, green, blue = to_rgb(color)
    return to_hex((0.78 * red, 0.78 * green, 0.78 * blue))


def _width(texts: Iterable[str], size: float) -> float:
    """Return the width of the longest text in inches."""
    return max(TextPath((0, 0), text.replace("$", "S"), size=size).get_extents().width for text in texts) / 72
