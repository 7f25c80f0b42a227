"""Clusters over images, in the colours of the classes they are matched with (PaKA figures 4 and 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from densebench.figures.arrays import Picture, edged, enlarge, overlay

Palette = Sequence[tuple[int, int, int]]
SHADES = 0.45
"""How far the lightest and darkest cluster of a class are from its colour, as a share of the way to white and black."""


def cluster_colors(mapping: NDArray[np.int64], palette: Palette) -> Picture:
    """Return a colour per cluster, (K, 3) uint8: its class's, lighter or darker where a class has several clusters.

    They are shaded in their order, evenly from dark to light; K is not bounded.
    """
    colors = np.asarray(palette, dtype=float)[mapping]
    for label in np.unique(mapping):
        mine = np.flatnonzero(mapping == label)
        shades = np.linspace(-SHADES, SHADES, len(mine)) if len(mine) > 1 else np.zeros(1)
        ends = np.where(shades > 0, 255.0, 0.0)[:, None]
        colors[mine] += np.abs(shades)[:, None] * (ends - colors[mine])
    return colors.round().clip(0, 255).astype(np.uint8)


def cluster_overlay(
    image: Picture, clusters: NDArray[np.int64], mapping: NDArray[np.int64], palette: Palette
) -> Picture:
    """Return an image (H, W, 3) under its clusters (h, w) in colour, a line where the class changes."""
    large = enlarge(clusters, image.shape[:2])
    return edged(overlay(image, cluster_colors(mapping, palette)[large]), mapping[large])
