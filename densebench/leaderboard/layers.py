"""Studies of all layers as lines, one panel per facet and quantity, one line per model; and correlations over them.

`studies.py` finds them among records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from densebench.core.text import elide
from densebench.leaderboard import drawing
from densebench.leaderboard.cells import title
from densebench.leaderboard.drawing import GREY, INK, LABEL_GAP, LONGEST_NAME, NAME_SIZE, Name, Style
from densebench.leaderboard.positional import CHARTS, Sweep, correlations, points
from densebench.leaderboard.row import Row
from densebench.leaderboard.studies import Study, parts_of


def figure(members: Sequence[Row], found: Sequence[Study], looks: Mapping[str, Style]) -> Figure:
    """Return the studies of one table: a row of panels per quantity, a column per facet, names right of the last.

    Models of different depths share an axis in parts of the depth. A ring marks the layer that is reported.
    """
    quantities = list(dict.fromkeys(quantity for study in found for quantity, _ in study.lines))
    facets = list(dict.fromkeys(facet for study in found for _, facet in study.lines))
    having = {facet: sum(facet in {name for _, name in study.lines} for study in found) for facet in facets}
    facets.sort(key=lambda facet: (having[facet], facet == "token"))  # all models have the last, beside their names
    heads = {
        parts[0]: title(parts[0], row.unit, row.higher_is_better)
        for row in members
        for parts in [parts_of(row)]
        if parts
    }
    wide, tall, between, left, top, foot = 2.3, max(1.9, 1.2 * LABEL_GAP * len(found)), 0.2, 0.62, 0.85, 0.3
    names = [drawing.short(study.label) for study in found]
    width = max(5.0, left + len(facets) * (wide + between) + 0.25 + drawing.width_of(names, NAME_SIZE))
    above = drawing.Head.of(members, width, "ring: the layer that is reported", intervals=False)
    top += above.extra
    height = top + len(quantities) * (tall + between) + foot
    shares = len({study.depth for study in found}) > 1
    drawn = Figure(figsize=(width, height))
    for line, quantity in enumerate(quantities):
        shown = [study.lines.get((quantity, facet), ()) for study in found for facet in facets]
        values = [value for points in shown for _, value in points]
        margin = 0.08 * (max(values) - min(values)) or 0.01
        for at, facet in enumerate(facets):
            bottom = height - top - (line + 1) * tall - line * between
            place = (left + at * (wide + between)) / width, bottom / height, wide / width, tall / height
            axes = drawn.add_axes(place)
            drawing.grid(axes, "both")
            axes.set_ylim(min(values) - margin, max(values) + margin)
            for study in found:
                _draw(axes, study, quantity, facet, looks[study.label], shares)
            _axes(axes, found, shares, bottom=line == len(quantities) - 1, first=at == 0)
            if line == 0:
                axes.set_title(facet, fontsize=9, fontweight="bold", color=INK, loc="left")
            if at == 0:
                axes.set_ylabel(heads[quantity], fontsize=9, color=INK)
        column = quantity, facets[-1]
        ends = [(study, study.lines[column][-1]) for study in found if column in study.lines]
        drawing.names_beside(
            axes, [Name(study.label, study.at(layer, shares), y, looks[study.label]) for study, (layer, y) in ends]
        )
    above.draw(drawn)
    return drawn


def correlation(sweeps: Sequence[Sweep], members: Sequence[Row], looks: Mapping[str, Style]) -> Figure:
    """Return the points as charts with the pooled coefficients, a colour per model, names right of the last chart.

    `members` are the rows of the table, for the head, and `looks` is by model. Without attention there is no locality,
    and one chart only.
    """
    pooled, charts = correlations(sweeps), {name: series for name, series in points(sweeps).items() if series}
    names = [elide(sweep.model, LONGEST_NAME) for sweep in sweeps]
    wide, between, left, top, foot = 3.1, 0.6, 0.62, 1.05, 0.5  # inches
    tall = max(2.5, LABEL_GAP * 1.1 * len(sweeps))
    width = max(5.0, left + len(charts) * (wide + between) + drawing.width_of(names, NAME_SIZE))
    above = drawing.Head.of(members, width, "a point per layer and facet", intervals=False)
    top += above.extra
    height = top + tall + foot
    drawn = Figure(figsize=(width, height))
    for at, (name, series) in enumerate(charts.items()):
        axes = drawn.add_axes(((left + at * (wide + between)) / width, foot / height, wide / width, tall / height))
        drawing.grid(axes, "both")
        for model, pairs in series.items():
            look = looks[model]
            xs, ys = zip(*pairs, strict=True)
            axes.scatter(xs, ys, s=14, alpha=0.8, linewidths=0, color=look.color, marker=look.marker)
        (heading, x, y), found = CHARTS[name], pooled[name]
        text = f"{heading}\nn = {found.n}, Pearson {found.pearson:.2f}, Spearman {found.spearman:.2f}"
        axes.set_title(text, fontsize=8.5, color=INK, loc="left")
        axes.set_xlabel(x, fontsize=9, color=INK)
        axes.set_ylabel(y, fontsize=9, color=INK)
    for line, (sweep, name) in enumerate(zip(sweeps, names, strict=True)):
        look = looks[sweep.model]
        place = (left + len(charts) * (wide + between) - between + 0.2) / width, (height - top - 0.1) / height
        drawn.text(
            place[0],
            place[1] - line * LABEL_GAP / height,
            name,
            fontsize=NAME_SIZE,
            color=drawing.darker(look.color),
            va="center",
            parse_math=False,
        )
    above.draw(drawn)
    return drawn


def _draw(axes: Axes, study: Study, quantity: str, facet: str, look: Style, shares: bool) -> None:
    points = study.lines.get((quantity, facet), ())
    places, values = [study.at(layer, shares) for layer, _ in points], [value for _, value in points]
    axes.plot(places, values, color=look.color, linestyle=look.dash, linewidth=1.4, marker=look.marker, markersize=2.5)
    ring: dict[str, Any] = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "linestyle": "none"}
    for layer, value in points:
        if layer == study.best.get(facet):
            axes.plot([study.at(layer, shares)], [value], markeredgecolor=look.color, markeredgewidth=1.2, **ring)


def _axes(axes: Axes, found: Sequence[Study], shares: bool, *, bottom: bool, first: bool) -> None:
    deepest = 1 if shares else max(study.depth for study in found)
    axes.set_xlim(0 if shares else 0.5, deepest * 1.04 if shares else deepest + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=not shares, prune="lower" if shares else None))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelleft=first, labelbottom=bottom)
    if bottom:
        axes.set_xlabel("layer, as a share of the depth" if shares else "layer", fontsize=8, color=GREY)
