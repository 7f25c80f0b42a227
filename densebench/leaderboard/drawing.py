"""What the figures of a leaderboard share: looks of models, names beside lines, heads, PNG.

Figures are built without pyplot, so nothing global changes. A model has one colour in all figures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from densebench.core.text import elide
from densebench.leaderboard.row import Row

DPI = 160
INK, GREY, GRID = "#222222", "#6f6f6f", "#e4e4e4"
PRINTED = "#b5b5b5"
"""Of published values."""
REFERENCES = 6
"""Published models named in a plot: the best ones."""
# Distinguishable with the common colour vision deficiencies, and against white: after Okabe & Ito, then Tol's "muted".
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#44AA99")
DASHES = ("-", (0, (5, 1.6)), (0, (1.5, 1.3)), (0, (6, 1.4, 1.2, 1.4)))
MARKERS = ("o", "s", "^", "D")
LONGEST_NAME = 34
NAME_SIZE = 8.5
LABEL_GAP = 0.165
"""Inches between names beside lines."""


@dataclass(frozen=True)
class Style:
    """How a model looks in every figure."""

    color: str
    dash: Any
    marker: str


class Name(NamedTuple):
    """A name to write beside a line, and the last point of the line."""

    text: str
    x: float
    y: float
    style: Style | None
    """None: a published value, in grey."""


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


def names_beside(axes: Axes, names: Sequence[Name]) -> None:
    """Write each name right of the last point of its line, moved apart where names would touch, with a thin leader."""
    low, high = axes.get_ylim()
    figure_height = axes.get_figure().get_size_inches()[1]  # type: ignore[union-attr]
    gap = LABEL_GAP / (axes.get_position().height * figure_height)
    ordered = sorted(names, key=lambda name: name.y)
    wanted = [(name.y - low) / (high - low) for name in ordered]
    for place, name in zip(spread(wanted, gap), ordered, strict=True):
        color = darker(name.style.color) if name.style else GREY
        axes.annotate(
            short(name.text),
            xy=(name.x, name.y),
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            fontsize=NAME_SIZE if name.style else 7.5,
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


def grid(axes: Axes, which: Any) -> None:
    """Draw faint lines along "x", "y" or "both", and no frame."""
    axes.set_axisbelow(True)
    axes.grid(axis=which, color=GRID, linewidth=0.8)
    axes.tick_params(labelsize=8, colors=GREY, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


@dataclass(frozen=True)
class Head:
    """What stands above a figure: protocol and data, then preset, images and more, in lines that fit its width."""

    title: tuple[str, ...]
    facts: tuple[str, ...]

    @classmethod
    def of(cls, members: Sequence[Row], width: float, more: str = "", *, intervals: bool = True) -> Head:
        """Return the head of a figure of so many inches."""
        data, protocol, setting = members[0].table
        images = " or ".join(map(str, sorted({row.n_images for row in members})))
        seeds = max((row.seed_count for row in members if row.main), default=1)
        facts = [f"preset {setting}", f"{images} images"]
        facts += ["95 % intervals"] if intervals and any(row.ci95_low is not None for row in members) else []
        facts += [f"{seeds} seeds"] if seeds > 1 else []
        facts += [more] if more else []
        return cls(_wrapped(f"{protocol} on {data}", width, 11), _wrapped(" · ".join(facts), width, 8))

    @property
    def extra(self) -> float:
        """Inches that it is higher than one of a line each."""
        return 0.18 * (len(self.title) - 1) + 0.14 * (len(self.facts) - 1)

    def draw(self, figure: Figure) -> None:
        """Write it at the top of a figure."""
        width, height = figure.get_size_inches()
        below = 1 - (0.36 + 0.18 * (len(self.title) - 1)) / height
        bold: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK, "linespacing": 1.1}
        for place, lines, look in (
            (1 - 0.12 / height, self.title, bold),
            (below, self.facts, {"fontsize": 8, "color": GREY}),
        ):
            figure.text(0.12 / width, place, "\n".join(lines), va="top", parse_math=False, **look)


def _wrapped(text: str, width: float, size: float) -> tuple[str, ...]:
    """Return a text in lines of so many inches; the letters of one size are about 0.6 of it wide, bold ones 0.7."""
    letters = (width - 0.2) * 72 / (size * (0.7 if size > 10 else 0.6))
    return tuple(textwrap.wrap(text, max(20, int(letters)))) or ("",)


def short(label: str) -> str:
    """Return a label that fits beside a figure; of a model with a variant both keep their ends.

    >>> short("timm/vit_small_patch14_reg4_dinov2.lvd142m (neighbours=50)")
    'timm/vit_s…2.lvd142m (neighbours=50)'
    """
    model, apart, variant = label.partition(" (")
    return f"{elide(model, 20)} ({elide(variant, LONGEST_NAME)}" if apart else elide(label, LONGEST_NAME)


def darker(color: str) -> str:
    """Return a colour dark enough for small letters on white."""
    red, green, blue = to_rgb(color)
    return to_hex((0.78 * red, 0.78 * green, 0.78 * blue))


def width_of(texts: Iterable[str], size: float) -> float:
    """Return the width of the longest text in inches."""
    paths = [TextPath((0, 0), text.replace("$", "S"), size=size) for text in texts if not text.isspace() and text]
    return max((path.get_extents().width for path in paths), default=0.0) / 72
