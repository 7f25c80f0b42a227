"""A contact sheet: images beside their masks, parts and depth, a legend, and keypoints that correspond."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from densebench.datasets.scenes.labels import CLASSES, IGNORE, PALETTE, PARTS
from densebench.datasets.scenes.render import ObjectKeypoints, Scene, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

_INK = "#24272e"
_FAR = 20.0  # metres; the end of the depth colours


def class_colors() -> NDArray[np.uint8]:
    """Display colour of every mask value, (256, 3); ignored pixels are white."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(PALETTE)] = PALETTE
    table[IGNORE] = 255
    return table


def part_colors() -> NDArray[np.uint8]:
    """Display colour of every part id, (256, 3); "none" is dark."""
    table = np.full((256, 3), 58, dtype=np.uint8)
    for part in range(1, len(PARTS)):
        rgb = colorsys.hsv_to_rgb(part * 0.381966 % 1.0, (0.55, 0.75, 0.4)[part % 3], (0.95, 0.8, 0.88)[part % 3])
        table[part] = [round(255 * c) for c in rgb]
    return table


def contact_sheet(
    rows: int = 4,
    *,
    split: str = "val",
    seed: int = 0,
    size: int = 160,
    indices: Sequence[int] | None = None,
) -> bytes:
    """Return a PNG of 2 * rows scenes (the first ones, or `indices`) and three keypoint pairs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = list(range(2 * rows) if indices is None else indices)
    rows = (len(shown) + 1) // 2
    figure = Figure(figsize=(12.8, 1.6 * rows + 3.5), dpi=78, facecolor="white")
    FigureCanvasAgg(figure)
    whole = figure.add_gridspec(
        3, 1, left=0.008, right=0.992, top=0.975, bottom=0.07, hspace=0.06, height_ratios=[1.6 * rows, 0.5, 2.0]
    )
    grid = whole[0].subgridspec(rows, 8, wspace=0.03, hspace=0.03)
    for cell, index in enumerate(shown):
        pictures = _pictures(render(index, split, seed, size))
        for column, (title, picture) in enumerate(pictures.items()):
            axes = _panel(figure, grid[cell // 2, 4 * (cell % 2) + column])
            axes.imshow(picture, interpolation="nearest")
            if cell < 2:
                axes.set_title(title, fontsize=9, color=_INK, pad=3)
    _legend(_panel(figure, whole[1]))
    pairs = list(_pairs(split, seed, size))
    if pairs:
        places = whole[2].subgridspec(1, len(pairs), wspace=0.04)
        for place, (name, pair) in enumerate(pairs):
            _draw_pair(_panel(figure, places[place]), name, *pair)
    _depth_bar(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"optimize": True})
    return buffer.getvalue()


def _pictures(scene: Scene) -> dict[str, NDArray[np.uint8]]:
    from matplotlib import colormaps

    arrays = (scene.image, scene.mask, scene.parts, scene.depth)
    image, mask, parts, metres = (np.asarray(a) for a in arrays)
    depth = colormaps["magma_r"](np.clip(metres / _FAR, 0, 1))[..., :3]
    depth[metres == 0] = 0.87
    return {
        "image": image,
        "classes": class_colors()[mask],
        "parts": part_colors()[parts],
        "depth": (255 * depth).astype(np.uint8),
    }


def _panel(figure: Figure, place: SubplotSpec) -> Axes:
    axes: Axes = figure.add_subplot(place)
    axes.set_axis_off()
    return axes


def _legend(axes: Axes) -> None:
    from matplotlib.patches import Patch

    colors = class_colors() / 255
    handles = [Patch(facecolor=colors[i], edgecolor="#9aa0a8", label=name) for i, name in enumerate(CLASSES)]
    handles.append(Patch(facecolor="white", edgecolor="#9aa0a8", label="ignored"))
    axes.legend(
        handles=handles, ncols=12, loc="center", fontsize=8.5, frameon=False, handlelength=1.1, handleheight=1.0,
        columnspacing=1.3, labelcolor=_INK,
    )  # fmt: skip


def _depth_bar(figure: Figure) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
        ScalarMappable(Normalize(0, _FAR), colormaps["magma_r"]),
        cax=figure.add_axes((0.36, 0.04, 0.28, 0.013)),
        orientation="horizontal",
    )
    bar.set_label("depth in metres (sky has none: grey)", fontsize=8.5, color=_INK, labelpad=1)
    bar.ax.tick_params(labelsize=8, color=_INK, labelcolor=_INK, length=2, pad=1)
    bar.outline.set_visible(False)


_View = tuple[Scene, ObjectKeypoints]


def _pairs(split: str, seed: int, size: int) -> Iterator[tuple[str, tuple[_View, _View]]]:
    """For three classes the two scenes, among some, in which most keypoints are seen in both."""
    names = ("horse", "bicycle", "chair")
    views: dict[str, list[_View]] = {name: [] for name in names}
    for index in range(150):
        scene = render(index, split, seed, size, ("keypoints",))
        for view in scene.keypoints:
            x0, y0, x1, y1 = view.bbox
            if CLASSES[view.cls] in names and 0.3 * size < max(x1 - x0, y1 - y0) < 0.95 * size:
                views[CLASSES[view.cls]].append((scene, view))
    for name in names:
        best = sorted(views[name], key=lambda v: (-int(v[1].visible.sum()), v[1].bbox[0] - v[1].bbox[2]))[:2]
        if len(best) == 2 and best[0][0].index != best[1][0].index:
            a, b = ((render(v[0].index, split, seed, size, ("image",)), v[1]) for v in best)
            yield name, (a, b)


def _draw_pair(axes: Axes, name: str, a: _View, b: _View) -> None:
    """Two scenes side by side with lines between the keypoints seen in both."""
    from matplotlib import colormaps

    left, right = np.asarray(a[0].image), np.asarray(b[0].image)
    height, width = left.shape[:2]
    gap = width // 16
    axes.imshow(np.concatenate([left, np.full((height, gap, 3), 255, np.uint8), right], 1))
    both = np.flatnonzero(a[1].visible & b[1].visible)
    for place, k in enumerate(both):
        (x0, y0), (x1, y1) = a[1].xy[k], b[1].xy[k]
        tint = colormaps["turbo"]((place + 0.5) / len(both))
        axes.plot([x0, x1 + width + gap], [y0, y1], "-", color="white", linewidth=2.2, alpha=0.6)
        axes.plot([x0, x1 + width + gap], [y0, y1], "o-", color=tint, linewidth=1.1, markersize=4.5,
                  markeredgecolor="white", markeredgewidth=0.7)  # fmt: skip
    axes.set_xlim(-0.5, 2 * width + gap - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_title(f"keypoints: {name}", fontsize=9, color=_INK, pad=3)
