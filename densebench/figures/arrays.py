"""Pictures as arrays: maps in colour, enlarged, laid over images, with frames."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
Picture = NDArray[np.uint8]
"""(H, W, 3)."""
UNKNOWN = (235, 235, 235)
"""What has no value."""


class Scale(NamedTuple):
    """How values become colours, the same for all maps of a picture."""

    label: str
    low: float
    high: float
    colors: str = "viridis"

    def paint(self, values: NDArray[np.floating]) -> Picture:
        """Return values (H, W) in colour; those beyond the ends have the ends' colours, NaN is light grey."""
        span = self.high - self.low
        part = np.clip((values - self.low) / span, 0, 1) if span > 0 else np.zeros_like(values, dtype=float)
        painted = (255 * colormaps[self.colors](np.nan_to_num(part))[..., :3]).round().astype(np.uint8)
        painted[np.isnan(values)] = UNKNOWN
        return painted


def scale_of(
    label: str, maps: list[NDArray[np.floating]], cut: float = 0.0, high: float | None = None, colors: str = "viridis"
) -> Scale:
    """Return the scale from the least to the greatest finite value of `maps`, without `cut` percent at either end."""
    found = [m[np.isfinite(m)] for m in maps]
    values = np.concatenate(found) if found else np.empty(0)
    if not values.size:
        return Scale(label, 0.0, 1.0 if high is None else high, colors)
    low, top = np.percentile(values, [cut, 100 - cut]).tolist()
    return Scale(label, low, top if high is None else high, colors)


def enlarge(picture: NDArray[T], size: tuple[int, ...]) -> NDArray[T]:
    """Return an array (h, w, ...) at `size` (H, W), each pixel the nearest of it: patches stay squares."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(picture.shape[:2], size, strict=True)
    )
    return picture[rows][:, columns]


def framed(picture: Picture, box: tuple[int, int, int, int], color: tuple[int, int, int] = (255, 255, 255)) -> Picture:
    """Return a copy with a frame around `box` (top, left, height, width), black outside of `color`: seen on any ground.

    The box itself stays as it is; of the frame, what lies in the picture is drawn.
    """
    out, (top, left, height, width) = picture.copy(), box
    line = max(1, round(min(picture.shape[:2]) / 100))
    for reach, value in ((2 * line, (0, 0, 0)), (line, color)):
        rows = slice(max(0, top - reach), top + height + reach)
        out[rows, max(0, left - reach) : left + width + reach] = value
    inside = slice(top, top + height), slice(left, left + width)
    out[inside] = picture[inside]
    return out


def dotted(picture: Picture, place: tuple[float, float], color: tuple[int, int, int]) -> Picture:
    """Return a copy with a disc of `color` in a black rim at `place` (x, y)."""
    out, radius = picture.copy(), max(2.0, min(picture.shape[:2]) / 40)
    y, x = np.ogrid[: picture.shape[0], : picture.shape[1]]
    distance = np.hypot(x - place[0], y - place[1])
    out[distance <= 1.5 * radius] = 0
    out[distance <= radius] = color
    return out


def overlay(image: Picture, colors: Picture, strength: float = 0.65) -> Picture:
    """Return an image (H, W, 3) in grey under `colors` (H, W, 3), which cover `strength` of it."""
    grey = image.astype(float).mean(-1, keepdims=True)
    return ((1 - strength) * grey + strength * colors).round().clip(0, 255).astype(np.uint8)


def edged(picture: Picture, regions: NDArray[np.integer], color: tuple[int, int, int] = (255, 255, 255)) -> Picture:
    """Return a copy with a line of one pixel where `regions` (H, W) change."""
    edges = np.zeros(regions.shape, dtype=bool)
    edges[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    edges[1:] |= regions[1:] != regions[:-1]
    out = picture.copy()
    out[edges] = color
    return out
