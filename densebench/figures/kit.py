"""Pictures that protocols leave beside their numbers: numpy arrays in, PNG bytes out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from densebench.core.text import elide
from densebench.figures.arrays import Scale
from densebench.figures.clusters import Palette
from densebench.figures.png import png

VOID_COLOR = (235, 235, 235)
FACET_COLORS = {"token": "#1b1b1b", "key": "#d62728", "query": "#ff9f1c", "value": "#1f77b4"}
"""One colour per facet in every chart."""
OTHER_COLORS = ("#7b3fa0", "#2a9d5c", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22", "#9467bd")
"""For series that are not facets."""


def colorize(labels: NDArray[np.integer], palette: Palette) -> NDArray[np.uint8]:
    """Return an RGB picture (H, W, 3) of a label map (H, W); labels outside the palette are light grey."""
    table = np.full((256, 3), VOID_COLOR, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[np.clip(labels, 0, 255)]


def aggregate(maps: Mapping[str, NDArray[np.floating]], classes: Sequence[str], palette: Palette) -> bytes:
    """Return aggregated class maps (H, W, 3; 0..255) side by side under their titles, with a legend."""
    figure = Figure(figsize=(3.1 * len(maps) + 1.9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, (title, picture) in zip(axes, maps.items(), strict=True):
        axis.imshow(np.clip(picture, 0, 255).astype(np.uint8))
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    _legend(figure, classes, palette, range(len(classes)))
    return png(figure)


def segmentations(
    rows: Sequence[tuple[NDArray[np.uint8], NDArray[np.integer], NDArray[np.integer]]],
    classes: Sequence[str],
    palette: Palette,
    titles: Sequence[str] = ("image", "ground truth", "prediction"),
) -> bytes:
    """Return a grid with one column per example: image, ground truth and prediction below each other."""
    figure = Figure(figsize=(1.35 * max(len(rows), 1) + 1.9, 4.4), layout="constrained")
    axes = figure.subplots(len(titles), max(len(rows), 1), squeeze=False)
    shown: set[int] = set()
    for column, (image, truth, prediction) in enumerate(rows):
        pictures = (image, colorize(truth, palette), colorize(prediction, palette))
        shown |= {int(v) for labels in (truth, prediction) for v in np.unique(labels) if v < len(classes)}
        for axis, picture in zip(axes[:, column], pictures, strict=True):
            axis.imshow(picture)
    for row, title in zip(axes, titles, strict=True):
        row[0].set_ylabel(title, fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    _legend(figure, classes, palette, sorted(shown))
    return png(figure)


class Marked(NamedTuple):
    """An image (H, W, 3) with a square in it, (left, top, side) in pixels, and a word below it."""

    image: NDArray[np.uint8]
    box: tuple[int, int, int]
    caption: str
    color: str = "black"


def marked_patches(rows: Sequence[Sequence[Marked]], titles: Sequence[str]) -> bytes:
    """Return rows of images, each with a patch marked and a caption in the colour of its mark, under titles."""
    figure = Figure(figsize=(1.6 * len(titles), 1.85 * len(rows) + 0.2), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, shown in zip(line, row, strict=False):
            left, top, side = shown.box
            axis.set_axis_on()
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.imshow(shown.image)
            margin = shown.image.shape[1] / 50  # the patch itself stays visible
            corner, length = (left - 0.5 - margin, top - 0.5 - margin), side + 2 * margin
            for color, width in ((shown.color, 2.4), ("white", 0.8)):  # visible on any ground
                axis.add_patch(Rectangle(corner, length, length, fill=False, edgecolor=color, linewidth=width))
            axis.set_xlabel(shown.caption, fontsize=7, color=shown.color)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return png(figure)


class Links(NamedTuple):
    """Points of one image found in another; both lie beside each other in one picture."""

    picture: NDArray[np.uint8]
    """(H, W, 3)."""
    title: str
    start: NDArray[np.floating]
    """(N, 2) x and y in pixels of the picture, as the next two."""
    end: NDArray[np.floating]
    truth: NDArray[np.floating]
    hits: NDArray[np.bool_]
    """(N,) whether `end` is near enough to `truth`."""


def links(panels: Sequence[Links]) -> bytes:
    """Return pairs of images as PNG, two a row: a green line for a point that is found, a red one for another.

    Crosses are the true places.
    """
    rows = max(1, -(-len(panels) // 2))
    figure = Figure(figsize=(11, 2.7 * rows), layout="constrained")
    for axis, found in zip(figure.subplots(rows, 2, squeeze=False).flat, panels, strict=False):
        axis.imshow(found.picture)
        for a, b, hit in zip(found.start, found.end, found.hits, strict=True):
            color = "#21a84a" if hit else "#d62728"
            axis.plot((a[0], b[0]), (a[1], b[1]), color=color, linewidth=1, marker="o", markersize=3)
        for color, width in (("black", 2.5), ("white", 1.0)):  # visible on any ground
            axis.plot(*found.truth.T, linestyle="none", marker="+", color=color, markersize=6, markeredgewidth=width)
        axis.set_title(found.title, fontsize=8)
    for axis in figure.axes:
        axis.set_axis_off()
    return png(figure)


def depths(examples: Sequence[tuple[NDArray[Any], Sequence[NDArray[Any]]]], titles: Sequence[str]) -> bytes:
    """Return images (H, W, 3), and depth maps (H, W) in metres below each, in one colour bar; 0 is grey.

    The bar spans the first map of every example, the truth, without its outermost hundredths. `titles` name the rows.
    """
    truths = [maps[0][maps[0] > 0] for _, maps in examples]
    seen = np.concatenate(truths) if truths else np.empty(0)
    low, high = np.percentile(seen, [1, 99]) if seen.size else (0.0, 1.0)
    colors = colormaps["viridis_r"].with_extremes(bad="#ebebeb")
    figure = Figure(figsize=(1.6 * len(examples) + 1.2, 1.45 * len(titles)), layout="constrained")
    axes = figure.subplots(len(titles), len(examples), squeeze=False)
    for column, (image, maps) in enumerate(examples):
        axes[0, column].imshow(image)
        for axis, depth in zip(axes[1:, column], maps, strict=True):
            drawn = axis.imshow(np.ma.masked_less_equal(depth, 0), cmap=colors, vmin=low, vmax=high)
    for row, title in zip(axes, titles, strict=True):
        row[0].set_ylabel(title, fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, extend="both")
    bar.set_label("metres (grey: not measured)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return png(figure)


def curves(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    xlabel: str,
    levels: Mapping[str, tuple[str, float]] | None = None,
) -> bytes:
    """Return line charts side by side, {title: {series: {x: y}}}; `levels` adds a dashed (name, y) by title."""
    figure = Figure(figsize=(3.7 * len(panels), 3.0), layout="constrained")
    for axis, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for color, (name, line) in zip(_colors(series), series.items(), strict=True):
            xs = sorted(line)
            axis.plot(xs, [line[x] for x in xs], marker="o", markersize=3, color=color, label=name)
        if levels and title in levels:
            name, y = levels[title]
            axis.axhline(y, color="#7f7f7f", linestyle="--", linewidth=1, label=name)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(xlabel, fontsize=8)
        _quiet(axis)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=7, frameon=False)
    return png(figure)


def bars(panels: Mapping[str, Mapping[str, float]], ylabel: str) -> bytes:
    """Return bar charts below each other on one scale, {title: {name: value}}, a bar of one name below the other."""
    names = list(dict.fromkeys(name for values in panels.values() for name in values))
    size = (max(4.0, 0.24 * len(names) + 0.8), 1.5 * len(panels) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axis, color, (title, values) in zip(axes, _colors(panels), panels.items(), strict=True):
        axis.bar(range(len(names)), [values.get(name, 0.0) for name in names], color=color, width=0.75)
        axis.set_title(_shortened(title, 60), fontsize=8)
        axis.set_ylabel(ylabel, fontsize=7)
        _quiet(axis)
    axes[-1].set_xticks(range(len(names)), [elide(name, 24) for name in names], rotation=90, fontsize=7)
    return png(figure)


def scatters(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], labels: Mapping[str, tuple[str, str]]
) -> bytes:
    """Return point charts side by side, {title: {series: [(x, y)]}}, with the (x, y) labels of each title.

    A point that is not finite is left out.
    """
    figure = Figure(figsize=(3.9 * len(panels), 3.3), layout="constrained")
    for axis, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for color, (name, points) in zip(_colors(series), series.items(), strict=True):
            xs, ys = zip(*points, strict=True) if points else ((), ())
            area = min(16.0, max(2.0, 8000 / max(1, len(points))))  # many points shall not hide each other
            axis.scatter(xs, ys, s=area, alpha=0.8, linewidths=0, color=color, label=name)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(labels[title][0], fontsize=8)
        axis.set_ylabel(labels[title][1], fontsize=8)
        _quiet(axis)
        axis.legend(fontsize=7, frameon=False)
    return png(figure)


def picture_grid(
    rows: Mapping[str, Sequence[NDArray[np.uint8] | None]],
    columns: Sequence[str] = (),
    legend: tuple[Sequence[str], Palette, Sequence[int]] | None = None,
    scale: Scale | None = None,
) -> bytes:
    """Return pictures (H, W, 3) in a grid with names of rows and columns; None leaves a place empty.

    `legend` is (class names, palette, which of them are shown), `scale` what a colour bar says. Names are shortened
    to what there is room for; a cell is as wide as the first picture of its column.
    """
    n = max(len(row) for row in rows.values())
    side = 1.15 if n > 8 else 1.35
    width = 1.9 if legend else 1.3 if scale else 0.5
    size = (side * n + width, side * len(rows) + 0.3 * bool(columns))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.07))  # or names of rows lose their upper edge
    axes = figure.subplots(len(rows), n, squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, picture in zip(line, row, strict=False):
            if picture is not None:
                axis.imshow(picture)
        line[0].set_ylabel(_shortened(name, int(18 * side)), fontsize=7)
    for axis, name in zip(axes[0], columns, strict=False):
        axis.set_title(_shortened(name, int(18 * side)), fontsize=7)
    if legend:
        _legend(figure, *legend)
    if scale:
        _bar(figure, axes, scale)
    return png(figure)


def _shortened(name: str, longest: int) -> str:
    """Return a name with each of its lines shortened to so many characters."""
    return "\n".join(elide(line, longest) for line in name.split("\n"))


def _bar(figure: Figure, axes: Any, scale: Scale) -> None:
    """Draw a colour bar beside the axes."""
    drawn = ScalarMappable(Normalize(scale.low, scale.high), scale.colors)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30)
    bar.set_label(scale.label, fontsize=7)
    bar.ax.tick_params(labelsize=6)


def _colors(series: Iterable[str]) -> list[str]:
    """Return the colour of each series: a facet's own, else the next of the others."""
    others = itertools.cycle(OTHER_COLORS)
    return [FACET_COLORS.get(name) or next(others) for name in series]


def _quiet(axis: Any) -> None:
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.grid(alpha=0.25, linewidth=0.5)


def _legend(figure: Figure, classes: Sequence[str], palette: Palette, labels: Sequence[int]) -> None:
    """Draw the names of classes at the right of a figure, which grows by as much as their columns need."""
    handles = [Patch(facecolor="#{:02x}{:02x}{:02x}".format(*palette[i]), label=classes[i]) for i in labels]
    if handles:
        width, height = figure.get_size_inches()
        columns = -(-len(handles) // 26)
        needed = columns * (0.5 + 0.05 * max(len(classes[i]) for i in labels))  # inches of colour and name
        figure.set_size_inches(width + max(0, needed - 1.9), max(height, 0.147 * min(26, len(handles))))
        figure.legend(handles=handles, loc="outside right center", fontsize=6.5, frameon=False, ncols=columns)
