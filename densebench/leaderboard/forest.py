"""Differences of models with their intervals as a picture: a forest plot, an axis per cell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from densebench.core.text import elide, plain
from densebench.figures.png import png
from densebench.leaderboard.comparison import Comparison
from densebench.leaderboard.comparison_text import interval_text, signed
from densebench.leaderboard.drawing import DPI, GREY, GRID, INK, PALETTE

LINE, HEAD, FOOT = 0.24, 0.42, 0.74
"""Inches of a line, above an axis and below it."""
MOST = 200
"""Lines that are drawn; a picture of more cannot be read."""
NAME = 30


def forest(lines: Sequence[Comparison]) -> bytes:
    """Return a PNG of differences (b - a) with 95 % intervals, the better model to its side of the line at 0.

    What cannot be told apart is grey; hollow is what is not paired, or differs in more than the model.
    """
    groups = [
        list(group)
        for _, group in itertools.groupby(lines[:MOST], lambda line: (line.model_a, line.model_b, line.cell, line.unit))
    ]
    heights = [LINE * len(group) + HEAD + FOOT for group in groups]
    figure = Figure(figsize=(8.2, sum(heights)))
    figure.patch.set_facecolor("white")
    reach = {unit: _reach([line for line in lines if line.unit == unit]) for unit in {line.unit for line in lines}}
    top = 1.0
    for group, height in zip(groups, heights, strict=True):
        share = height / sum(heights)
        bottom = top - share + FOOT / sum(heights)
        axes = figure.add_axes((0.2, bottom, 0.5, LINE * len(group) / sum(heights)))
        _draw(axes, group, reach[group[0].unit])
        top -= share
    return png(figure, DPI)


def _reach(lines: Sequence[Comparison]) -> float:
    """Return how far from 0 an axis goes."""
    ends = [abs(line.difference) for line in lines]
    ends += [
        abs(end) for line in lines if line.paired for end in (line.paired.low, line.paired.high) if end is not None
    ]
    return 1.08 * max(ends, default=0.0) or 1.0


def _draw(axes: Axes, lines: Sequence[Comparison], reach: float) -> None:
    first = lines[0]
    data, protocol, setting = first.cell
    # data and settings are others' words: no mathematics is made of them
    axes.text(
        0, 1, f"{protocol} on {data}, {setting}", transform=_above(axes), parse_math=False,
        fontsize=9, fontweight="bold", color=INK, va="bottom",
    )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    for place, line in enumerate(lines):
        y = len(lines) - 1 - place
        color = {"a": PALETTE[1], "b": PALETTE[0], "": GREY}[line.winner]
        full = line.paired is not None and not line.differences
        if line.paired and line.paired.low is not None and line.paired.high is not None:
            axes.plot([line.paired.low, line.paired.high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot([line.difference], [y], "o", color=color, markersize=5.5, mfc=color if full else "white")
        text = f"{signed(line.difference, line.unit)}  {interval_text(line)}"
        axes.annotate(
            text, (1.02, y), xycoords=("axes fraction", "data"), fontsize=8, va="center", color=INK, parse_math=False
        )
    axes.set_yticks(range(len(lines)), [plain(line.metric) for line in reversed(lines)], fontsize=8.5, parse_math=False)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xlim(-reach, reach)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, colors=GREY)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    left, right = (first.model_a, first.model_b) if first.higher_is_better else (first.model_b, first.model_a)
    for text, x, align in (
        (f"← {elide(plain(left), NAME)} better", 0.0, "left"),
        (f"{elide(plain(right), NAME)} better →", 1.0, "right"),
    ):
        axes.annotate(
            text, (x, 0), xycoords="axes fraction", xytext=(0, -19), textcoords="offset points",
            fontsize=8, ha=align, va="top", color=GREY, parse_math=False,
        )  # fmt: skip
    unit = "" if first.unit == "1" else f" ({first.unit if first.unit != '%' else 'points'})"
    axes.annotate(
        f"difference{unit}", (0.5, 0), xycoords="axes fraction", xytext=(0, -31), textcoords="offset points",
        fontsize=8, ha="center", va="top", color=GREY,
    )  # fmt: skip


def _above(axes: Axes) -> object:
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None
    return axes.transAxes + ScaledTranslation(0, 5 / 72, figure.dpi_scale_trans)
