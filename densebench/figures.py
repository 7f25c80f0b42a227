"""Pictures that protocols leave beside their numbers: numpy arrays in, PNG bytes out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

Palette = Sequence[tuple[int, int, int]]
VOID_COLOR = (235, 235, 235)


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


def _legend(figure: Figure, classes: Sequence[str], palette: Palette, labels: Sequence[int]) -> None:
    handles = [Patch(facecolor="#{:02x}{:02x}{:02x}".format(*palette[i]), label=classes[i]) for i in labels]
    if handles:
        figure.legend(
            handles=handles, loc="outside right center", fontsize=6.5, frameon=False, ncols=-(-len(handles) // 26)
        )


def png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
