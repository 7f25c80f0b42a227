"""Polygons and run lengths to masks, by the rule of COCO's own tools and without these.

Source of the rule: cocoapi `common/maskApi.c:rleFrPoly`. A ring is drawn on a grid five times as fine; where its
outline crosses the centre line of a column of pixels, everything below in column-major order changes side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FINER = 5
"""Grid points per pixel."""
FARTHEST = 100_000
"""Pixels; a point farther away than the side of any image is a mistake, and its outline would fill the memory."""


def polygons_mask(rings: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union (H, W) of the insides of rings (2n,), x and y by turns in pixels; `size` is (H, W).

    Raises ValueError for numbers that are not finite, or far out of the image.
    """
    inside = np.zeros(size[::-1], dtype=bool)
    for ring in rings:
        numbers = np.asarray(ring, dtype=np.float64)
        far = numbers[~(np.abs(numbers) <= FARTHEST)]
        if far.size:
            raise ValueError(f"a polygon has a point at {far[0]:g} px in an image of {size[0]} x {size[1]}")
        _add_ring(inside, numbers.reshape(-1, 2))
    return inside.T


def ring_area(ring: NDArray[np.float64]) -> float:
    """Return the area inside a ring (2n,) that does not cross itself, in square pixels (the shoelace formula)."""
    x, y = ring.reshape(-1, 2).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def runs_mask(counts: Sequence[int] | NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of run lengths in column-major order that begin outside; raises ValueError for others."""
    lengths = np.asarray(counts, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"runs of {lengths.sum()} pixels for an image of {size[0]} x {size[1]}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size[::-1]).T


def _add_ring(inside: NDArray[np.bool_], points: NDArray[np.float64]) -> None:
    """Add the inside of a ring of points (n, 2) to a mask (W, H)."""
    width, height = inside.shape
    corners = np.trunc(FINER * points + 0.5).astype(np.int64)
    x, y = _outline(corners, np.roll(corners, -1, axis=0))
    crossing = np.flatnonzero(x[1:] != x[:-1]) + 1
    left = np.minimum(x[crossing], x[crossing - 1])  # of the two columns of grid points that a step lies between
    top = np.minimum(y[crossing], y[crossing - 1])
    half = FINER // 2
    column = (left - half) // FINER
    kept = ((left - half) % FINER == 0) & (column >= 0) & (column < width)  # on the centre line of a column of pixels
    if not kept.any():
        return
    column, row = column[kept], np.clip(-((half - top[kept]) // FINER), 0, height)
    first, end = int(column.min()), min(int(column.max()) + 2, width)  # a change below the last row is in the next one
    changes = np.bincount((column - first) * height + row, minlength=(end - first) * height)[: (end - first) * height]
    odd = np.add.accumulate(changes.astype(np.uint8), dtype=np.uint8) & 1  # wraps around, which keeps what is odd
    inside[first:end] |= odd.reshape(-1, height).view(bool)
    # an odd number of changes would go on to the end of the image; rings are closed, so there is none


def _outline(start: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return x and y of all grid points on the edges from `start` to `end` (n, 2), in order, ends included.

    A point lies on every grid line that the edge crosses along its longer side; its place along the other is rounded
    as seen from the end with the smaller coordinate, so that both directions give the same points.
    """
    span = np.abs(end - start)
    axis = (span[:, 1] > span[:, 0]).astype(np.int64)  # 0: along x, also where both are equal
    edges = np.arange(len(start))
    backwards = start[edges, axis] > end[edges, axis]
    low = np.where(backwards[:, None], end, start)
    high = np.where(backwards[:, None], start, end)
    length = span[edges, axis]
    rise = (high - low)[edges, 1 - axis]
    slope = np.divide(rise, length, out=np.zeros(len(edges)), where=length > 0)
    edge = np.repeat(edges, length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(backwards[edge], length[edge] - step, step)
    along = low[edge, axis[edge]] + step
    across = np.trunc(low[edge, 1 - axis[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(axis[edge] == 0, along, across), np.where(axis[edge] == 0, across, along)
