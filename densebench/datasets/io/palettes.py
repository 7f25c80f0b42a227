"""Colours of classes where a dataset has none of its own: VOC's."""

from __future__ import annotations

import numpy as np


def voc_palette(n: int) -> tuple[tuple[int, int, int], ...]:
    """Return VOC's colours: bit i of a class id sets bit 7 - i//3 of channel i % 3."""
    ids = np.arange(n)
    colors = np.zeros((n, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return tuple((int(r), int(g), int(b)) for r, g, b in colors)
