"""Segments of one image from its patch features."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEGMENTS = 12
"""Segments of an image that `merge_patches` stops at."""


def merge_patches(
    features: NDArray[np.float32], image: NDArray[np.uint8] | None = None, segments: int = SEGMENTS
) -> NDArray[np.integer[Any]]:
    """Return connected segments (h, w), numbered from 0: neighbours that differ least are merged until few are left.

    What a merger costs is the rise of the squared distances to the segments' means (Ward 1963), over neighbours in the
    patch grid only; neither scale nor offset of the features plays a part. `image` is not looked at.
    """
    h, w, d = features.shape
    n = h * w
    means = np.empty((2 * n, d))  # segment n + i is what the i-th merger made
    means[:n] = features.reshape(n, d)
    sizes = np.ones(2 * n)
    near: dict[int, set[int]] = {i: set() for i in range(n)}
    grid = np.arange(n).reshape(h, w)
    edges = np.concatenate([
        np.stack([grid[:, :-1].ravel(), grid[:, 1:].ravel()], 1),
        np.stack([grid[:-1].ravel(), grid[1:].ravel()], 1),
    ])  # fmt: skip
    costs = np.square(means[edges[:, 0]] - means[edges[:, 1]]).sum(1) / 2
    heap = [(cost, a, b) for cost, (a, b) in zip(costs.tolist(), edges.tolist(), strict=True)]
    heapq.heapify(heap)
    for _, a, b in heap:
        near[a].add(b)
        near[b].add(a)
    parent = np.arange(2 * n)
    made = n
    while len(near) > segments:
        _, a, b = heapq.heappop(heap)
        if a not in near or b not in near:
            continue  # one of them is part of a larger segment by now
        sizes[made] = sizes[a] + sizes[b]
        means[made] = (sizes[a] * means[a] + sizes[b] * means[b]) / sizes[made]
        parent[[a, b]] = made
        others = sorted((near.pop(a) | near.pop(b)) - {a, b})
        near[made] = set(others)
        costs = np.square(means[others] - means[made]).sum(1) * sizes[others] / (sizes[others] + sizes[made])
        for other, cost in zip(others, (costs * sizes[made]).tolist(), strict=True):
            near[other] = (near[other] - {a, b}) | {made}
            heapq.heappush(heap, (cost, other, made))
        made += 1
    for i in range(made - 2, -1, -1):  # parents have higher numbers
        parent[i] = parent[parent[i]]
    return np.unique(parent[:n], return_inverse=True)[1].reshape(h, w)
