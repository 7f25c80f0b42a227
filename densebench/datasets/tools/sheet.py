"""A sheet of any dataset: some of its images with all that is known of them, to be looked at before a number is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.errors import UsageError
from densebench.core.paths import write_new
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset, Keypoints, Sample
from densebench.datasets.user.images import load_images
from densebench.datasets.user.toml import is_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 256
"""Pixels of the longer side of a picture: each is scaled to it, labels and depth to the nearest pixel."""
PANEL = 1.75
"""Inches of a picture on the sheet."""
ACROSS = 6
"""Pictures side by side, where an image has no more."""
NAMED = 48
"""Classes in the legend; those with the most pixels, where there are more."""
INK, GREY = "#24272e", "#ebebeb"


def sheet(data: DenseDataset, n: int = 12) -> bytes:
    """Return a PNG of `n` images spread evenly over a split: each beside its labels, its depth, with its keypoints.

    A dataset with a method `draw_sheet(n)` draws its own. Raises UsageError for none, DatasetError as its decoders do.
    """
    if n < 1:
        raise UsageError(f"--limit {n}: expected at least 1.")
    own = getattr(data, "draw_sheet", None)
    return own(n) if own is not None else _drawn(data, np.unique(np.linspace(0, len(data) - 1, n).astype(int)).tolist())


def write_sheet(
    name: str, out: Path | None, split: str | None, n: int, root: Path | None, overwrite: bool = False
) -> Path:
    """Write the sheet of what `--data` takes, of the split that is evaluated by default, and return its path.

    Raises UsageError for a file that exists, without `overwrite`, and for one that is no PNG.
    """
    if name.lower().endswith(".png"):
        raise UsageError(
            f"{name} is not a dataset; give the file as --out: `densebench data sheet scenes --out {name}`."
        )
    if out is not None and out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: expected a name that ends in .png.")
    if name in DATASETS or is_whole(name):
        name = resolve_dataset(name)
        data = load_dataset(name, split or DATASETS[name].info.val, root)
    else:
        data = load_images(name, split, root)
    path = out or Path(f"{Path(data.info.name).name}.png")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} exists and stays as it is; choose another --out, or give --overwrite.")
    write_new(path, sheet(data, n), overwrite)
    return path


def _drawn(data: DenseDataset, indices: Sequence[int]) -> bytes:
    from matplotlib.figure import Figure

    from densebench.figures.png import png

    samples = [_small(data.sample(index)) for index in indices]
    titles = list(_titles(data.info))
    across = max(1, min(ACROSS // len(titles), len(samples)))
    rows = -(-len(samples) // across)
    high = [max(_high(sample) for sample in samples[row * across : (row + 1) * across]) for row in range(rows)]
    figure = Figure(figsize=(PANEL * across * len(titles), PANEL * sum(high) + 0.2 * rows + 1.1), layout="constrained")
    figure.suptitle(f"{data.info.title}, {data.split}: {len(samples)} of {len(data)} images", fontsize=10, color=INK)
    grid = figure.subplots(rows, across * len(titles), squeeze=False, height_ratios=high)
    for axes in grid.flat:
        axes.set_axis_off()
    far = _far(samples)
    for place, sample in enumerate(samples):
        row, column = divmod(place, across)
        panels = grid[row, column * len(titles) : (column + 1) * len(titles)]
        for axes, title in zip(panels, titles, strict=True):
            _panel(axes, title, sample, data.info, far)
        panels[0].set_title(_shortened(sample.id), fontsize=7, color=INK, pad=2)
        for axes, title in itertools.islice(zip(panels, titles, strict=True), 1, None):
            axes.set_title(title if row == 0 else "", fontsize=7, color=INK, pad=2)
    _legend(figure, samples, data.info)
    if far:
        _depth_bar(figure, grid, far)
    return png(figure)


def _high(sample: Sample) -> float:
    """Return height over width of a picture, within what a row may have."""
    width, height = sample.image.size
    return min(max(height / width, 0.3), 1.5)


def _titles(info: DatasetInfo) -> Iterator[str]:
    """Yield what is drawn of each image of a dataset."""
    yield "image"
    if "mask" in info.targets:
        yield from ("labels over it", "labels")
    if "depth" in info.targets:
        yield "depth"


def _small(sample: Sample) -> Sample:
    """Return a sample at the sheet's size."""
    width, height = sample.image.size
    scale = SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    mask, depth = sample.mask, sample.depth
    if mask is not None:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    if depth is not None:
        depth = np.asarray(Image.fromarray(depth).resize(size, Image.Resampling.NEAREST))
    things = [_scaled(thing, scale) for thing in sample.keypoints]
    return Sample(sample.id, sample.image.resize(size), mask, depth, things)


def _panel(axes: Axes, title: str, sample: Sample, info: DatasetInfo, far: float) -> None:
    """Draw one picture of an image."""
    from matplotlib import colormaps

    from densebench.figures.kit import colorize

    image = np.asarray(sample.image)
    if title == "depth" and sample.depth is not None:
        colors = colormaps["viridis_r"].with_extremes(bad=GREY)
        axes.imshow(np.ma.masked_less_equal(sample.depth, 0), cmap=colors, vmin=0, vmax=far, interpolation="nearest")
        return
    if title != "image" and sample.mask is not None:
        labels = colorize(sample.mask, info.palette)
        plain = np.isin(sample.mask, [VOID, *info.background])[..., None]
        over = np.where(plain, image, 0.45 * image + 0.55 * labels).astype(np.uint8)
        image = labels if title == "labels" else over
    axes.imshow(image, interpolation="nearest")
    if title == "image":
        _draw_points(axes, sample)


def _scaled(thing: Keypoints, scale: float) -> Keypoints:
    """Return an object in the pixels of a picture that is `scale` times as large; pixel centres are whole numbers."""
    x1, y1, x2, y2 = (float((v + 0.5) * scale - 0.5) for v in thing.bbox)
    return Keypoints(thing.category, (thing.xy + 0.5) * scale - 0.5, thing.visible, (x1, y1, x2, y2))


def _draw_points(axes: Axes, sample: Sample) -> None:
    """Draw the box of each object, its name, and its points; a point has one colour in all objects of a category."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    width, height = sample.image.size
    for thing in sample.keypoints:
        x1, y1, x2, y2 = thing.bbox
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=1))
        axes.text(x1, y1, thing.category, fontsize=5, color=INK, backgroundcolor="#ffffffb0", va="bottom")
        tints = colormaps["turbo"]((np.arange(len(thing.xy)) + 0.5) / max(len(thing.xy), 1))
        seen = thing.visible
        axes.scatter(thing.xy[seen, 0], thing.xy[seen, 1], s=14, c=tints[seen], edgecolors="white", linewidths=0.6)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _far(samples: Sequence[Sample]) -> float:
    """Return the metres at the end of the depth colours, 0 where there is no depth."""
    seen = [sample.depth[sample.depth > 0] for sample in samples if sample.depth is not None]
    metres = np.concatenate(seen) if seen else np.empty(0)
    return float(np.percentile(metres, 99)) if metres.size else float(bool(seen))


def _legend(figure: Figure, samples: Sequence[Sample], info: DatasetInfo) -> None:
    """Name the classes that are on the sheet, those with the most pixels first to be kept, and what is not a class."""
    from matplotlib.patches import Patch

    from densebench.figures.kit import VOID_COLOR

    masks = [sample.mask.ravel() for sample in samples if sample.mask is not None]
    pixels = np.bincount(np.concatenate(masks), minlength=256) if masks else np.zeros(256, dtype=int)
    held = [label for label in range(info.n_classes) if pixels[label]]
    named = sorted(sorted(held, key=lambda label: -pixels[label])[:NAMED])
    colors = {info.classes[label]: info.palette[label] for label in named}
    if pixels.any() and pixels[VOID]:
        colors["no class"] = VOID_COLOR
    if not colors:
        return
    more = f"and {len(held) - len(named)} more classes" if len(held) > len(named) else None
    handles = [
        Patch(facecolor=(red / 255, green / 255, blue / 255), edgecolor="#9aa0a8", label=_shortened(name, 22))
        for name, (red, green, blue) in colors.items()
    ]
    figure.legend(
        handles=handles, title=more, loc="outside lower center", ncols=min(8, len(handles)), fontsize=7,
        title_fontsize=7, frameon=False, handlelength=1.1, handleheight=1.0, columnspacing=1.2, labelcolor=INK,
    )  # fmt: skip


def _depth_bar(figure: Figure, grid: NDArray[Any], far: float) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, far), colormaps["viridis_r"])
    bar = figure.colorbar(scale, ax=list(grid.flat), shrink=0.6, aspect=40, pad=0.01, extend="max")
    bar.set_label("metres (grey: not measured)", fontsize=7, color=INK)
    bar.ax.tick_params(labelsize=6)


def _shortened(text: str, most: int = 30) -> str:
    """Return a text that fits above a picture; its end tells ids apart."""
    return text if len(text) <= most else f"...{text[3 - most :]}"
