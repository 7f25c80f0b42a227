"""Foreground from attention, and objects from clusters that occur side by side: CBFE and community detection.

Source: Leopart and NeCo ``experiments/fully_unsup_seg/fully_unsup_seg.py`` and ``experiments/utils.py`` (LEO, NeCo
code; NeCo A.2 describes them). Everything streams: one image after another is added to tables whose size depends on the
number of clusters only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from densebench.ops import ties

QUARTER = math.pi / 4
ANGLES = (0.0, QUARTER, 2 * QUARTER, 3 * QUARTER, math.pi, 4 * math.pi / 3, 3 * math.pi / 2, 7 * math.pi / 4)
"""Directions of neighbours as published; the sixth was surely meant to be 5 pi / 4, and is so at distance 1."""
SEARCHED = (0.55, 0.75)
"""Shares of clusters that the threshold's search calls background, first and past the last (LEO, NeCo code)."""


def class_attention(attention: Tensor, prefix: int) -> Tensor:
    """Return how much the class token attends to each patch, (B, patches), averaged over heads.

    Args:
        attention: softmaxed attention (B, heads, N, N), rows = queries, prefix tokens first, the class token foremost.
        prefix: class token plus registers, dropped from the keys.
    """
    return attention[:, :, 0, prefix:].mean(1)


def attention_mask(
    attention: Tensor, mass: float, blur_sigma: float = 0.6, blur_kernel: int = 7, min_component: int = 3
) -> Tensor:
    """Return the bool foreground (B, h, w) of attention maps (B, h, w) >= 0: blurred, cut at a share of their mass.

    Args:
        attention: one map per image, in any unit.
        mass: share of an image's attention to keep, in (0, 1]; the weakest patches go first, of equal ones (by the
            rule of :mod:`densebench.ops.ties`) the first in the image.
        blur_sigma: deviation of the Gaussian, in patches.
        blur_kernel: odd side of the Gaussian, in patches; the border is reflected.
        min_component: 8-connected components of fewer patches become background.

    Raises:
        ValueError: the map is no larger than half the kernel, or ``mass`` is out of range.

    Source: NeCo code and LEO ``process_attentions``, after DINO's ``visualize_attention.py``.
    """
    half = blur_kernel // 2
    if min(attention.shape[-2:]) <= half:
        raise ValueError(
            f"a blur of {blur_kernel} patches reflects {half} of them at the border; "
            f"the attention map has {attention.shape[-2]}x{attention.shape[-1]}"
        )
    if not 0 < mass <= 1:
        raise ValueError(f"mass is in (0, 1], got {mass}")
    attention = attention.double()
    offsets = torch.linspace(-half, half, blur_kernel, dtype=attention.dtype, device=attention.device)
    bell = (-0.5 * (offsets / blur_sigma).square()).exp()
    bell = bell / bell.sum()
    padded = F.pad(attention[:, None], (half, half, half, half), mode="reflect")
    blurred = F.conv2d(padded, torch.outer(bell, bell)[None, None]).flatten(1)
    ranks = (blurred / ties.step_of(blurred.amax(1, keepdim=True))).round_()
    order = ranks.sort(dim=1, stable=True).indices
    weights = blurred.gather(1, order)
    kept = (weights / weights.sum(1, keepdim=True)).cumsum(1) > 1 - mass + ties.GRID
    mask = torch.zeros_like(kept).scatter_(1, order, kept).view(attention.shape)
    return drop_small_components(mask, min_component)


def drop_small_components(mask: Tensor, smallest: int) -> Tensor:
    """Return masks (B, h, w) without the 8-connected components of fewer than ``smallest`` cells."""
    kept = []
    for image in mask.cpu().numpy():
        components, _ = ndimage.label(image, structure=np.ones((3, 3)))
        large = np.bincount(components.ravel()) >= smallest
        kept.append(torch.from_numpy(image & large[components]))
    return torch.stack(kept).to(mask.device) if kept else mask


class ClusterPrecision:
    """How much of each cluster lies in a mask, averaged over the images that hold the cluster.

    The mask is the attention's: this reads no ground truth. Source: LEO and NeCo code ``get_cluster_precs``.
    """

    def __init__(self, n_clusters: int) -> None:
        self.images = torch.zeros(n_clusters, dtype=torch.int64)
        self.pixels = torch.zeros(n_clusters, dtype=torch.int64)
        self._sum = torch.zeros(n_clusters, dtype=torch.float64)

    def update(self, clusters: Tensor, mask: Tensor) -> None:
        """Add one image: cluster ids (H, W) and a bool mask of the same shape."""
        size, inside = _cluster_sizes(clusters, mask, len(self.images))
        self._sum += inside / size.clamp(min=1)
        self.images += size > 0
        self.pixels += size

    def compute(self) -> Tensor:
        """Return the (K,) float64 precisions in [0, 1]; a cluster that no image holds has 0.

        The published code stops at a cluster without an image. Such a cluster has no pixel either, so that it makes
        no difference to a mask on which side of the threshold it falls.
        """
        return self._sum / self.images.clamp(min=1)


class ThresholdSearch:
    """Streams ground truth to find the precision from which clusters are foreground; this is where labels are used.

    Candidates call the clusters of lowest precision background, from 55 % to 75 % of them, and are judged by the
    foreground's IoU averaged over images. Source: LEO and NeCo code ``find_good_threshold``.
    """

    def __init__(self, precisions: Tensor) -> None:
        self.precisions = precisions
        self.order = precisions.argsort(stable=True)
        n = len(precisions)
        first, end = (int(share * n) for share in SEARCHED)
        self.starts = torch.arange(first, max(end, first + 1))
        self._sum = torch.zeros(len(self.starts), dtype=torch.float64)
        self._images = torch.zeros(len(self.starts), dtype=torch.int64)

    def update(self, clusters: Tensor, foreground: Tensor) -> None:
        """Add one image: cluster ids (H, W) and the bool ground-truth foreground."""
        size, inside = (each[self.order] for each in _cluster_sizes(clusters, foreground, len(self.order)))
        hits, predicted = (each.flip(0).cumsum(0).flip(0)[self.starts] for each in (inside, size))
        union = foreground.sum().cpu() + predicted - hits
        self._sum += hits / union.clamp(min=1)
        self._images += union > 0

    def compute(self) -> tuple[float, float]:
        """Return the best threshold, rounded to a multiple of 0.05 as published, and the IoU it was chosen for.

        Of equal candidates the one with the most background wins. Where rounding up would leave no cluster at all,
        which the published code does not survive, the threshold stays as found.
        """
        scores = self._sum / self._images.clamp(min=1)
        best = int((scores == scores.max()).nonzero()[-1])
        found = float(self.precisions[self.order[self.starts[best]]])
        rounded = min((0.05 * i for i in range(20)), key=lambda grid: abs(grid - found))
        threshold = rounded if bool((self.precisions >= rounded).any()) else found
        return threshold, float(scores[best])


def foreground_iou(pred: Tensor, target: Tensor) -> Tensor:
    """Return the IoU of bool masks (B, H, W) per image, (B,) float64 in [0, 1]; NaN where both are empty.

    The published number is their mean over images, ``nanmean`` here: the code ends in NaN at such an image.
    Source: LEO and NeCo code ``eval_jac``.
    """
    intersection, union = (each.flatten(1).sum(1).double() for each in (pred & target, pred | target))
    return intersection / torch.where(union > 0, union, torch.nan)


def label_foreground(labels: Tensor, with_boundary: bool = True) -> Tensor:
    """Return the bool foreground of label maps, any shape: all that is not background, class 0.

    ``with_boundary`` counts void pixels (255), VOC's object borders, as foreground, as LEO and NeCo code do when they
    choose the threshold and when they score it (``eval_jac(..., with_boundary=True)``).
    """
    return labels != 0 if with_boundary else (labels != 0) & (labels != 255)


class CoOccurrence:
    """Streams cluster maps into the share of a cluster's neighbours that belong to each other cluster.

    Neighbours lie at the given distances in eight directions, one of them odd (:data:`ANGLES`), rounded to whole
    pixels as in scikit-image's ``graycomatrix``. Neighbours of the same cluster do not count; rows are normalised per
    image and averaged over the images in which the cluster has any neighbour. Source: LEO and NeCo code
    ``create_matrix``.
    """

    def __init__(self, n_clusters: int, distances: Sequence[int] = (1, 2)) -> None:
        self.n_clusters = n_clusters
        self.offsets = [
            (_round(math.sin(angle) * distance), _round(math.cos(angle) * distance))
            for angle in ANGLES
            for distance in distances
        ]
        self._sum = torch.zeros(n_clusters, n_clusters, dtype=torch.float64)
        self._images = torch.zeros(n_clusters, dtype=torch.int64)

    def update(self, clusters: Tensor) -> None:
        """Add the cluster ids (H, W) of one image."""
        pairs = []
        for rows, columns in self.offsets:
            here = clusters[_window(-rows), _window(-columns)]
            there = clusters[_window(rows), _window(columns)]
            pairs.append((here * self.n_clusters + there).flatten())
        counts = torch.bincount(torch.cat(pairs), minlength=self.n_clusters**2).view(self.n_clusters, -1).cpu()
        counts.fill_diagonal_(0)
        total = counts.sum(1)
        self._sum += counts / total.clamp(min=1)[:, None]
        self._images += total > 0

    def compute(self) -> Tensor:
        """Return the (K, K) float64 matrix; rows sum to 1, or to 0 for a cluster without neighbours."""
        return self._sum / self._images.clamp(min=1)[:, None]


class Edges(NamedTuple):
    """An undirected graph: pairs of nodes (E, 2), the lower one first, and their weights (E,) float64."""

    nodes: Tensor
    weights: Tensor


def strong_edges(matrix: Tensor, threshold: float) -> Edges:
    """Return the edges between clusters that each make up at least ``threshold`` of the other's neighbours.

    An edge weighs the smaller of the two shares. Source: LEO and NeCo code ``start_unsup_seg``.
    """
    weakest = torch.minimum(matrix, matrix.T).triu(1)
    nodes = ((weakest >= threshold) & (weakest > 0)).nonzero()
    return Edges(nodes, weakest[nodes[:, 0], nodes[:, 1]])


def communities(
    edges: Edges, n_clusters: int, *, seed: int, markov_time: float, preferred: int | None = None
) -> Tensor:
    """Return the community (K,) int64 of every cluster, from 1; 0 for clusters without an edge.

    Args:
        edges: the graph.
        n_clusters: K, nodes without an edge included.
        seed: of Infomap's search, >= 1.
        markov_time: scale of the random walk; longer walks find fewer and larger communities.
        preferred: number of communities to aim at.

    Two-level, undirected, as published. Raises ModuleNotFoundError without the package ``infomap``.
    """
    assigned = torch.zeros(n_clusters, dtype=torch.int64)
    if not len(edges.nodes):
        return assigned
    infomap = load_infomap()
    links = [(a, b, weight) for (a, b), weight in zip(edges.nodes.tolist(), edges.weights.tolist(), strict=True)]
    result = infomap.run(
        links,
        options=infomap.Options(
            two_level=True,
            directed=False,
            seed=seed,
            markov_time=markov_time,
            preferred_number_of_modules=preferred,
            silent=True,
        ),
    )
    for cluster, community in result.modules().items():
        assigned[cluster] = community
    return assigned


def has_infomap() -> bool:
    """Return whether the package infomap is installed, without importing it."""
    return find_spec("infomap") is not None


def load_infomap() -> Any:
    """Return the infomap module; raises ModuleNotFoundError where it is not installed."""
    # Both are wrapped by SWIG, whose types they share: faiss imported after infomap ends in a segmentation fault.
    with suppress(ImportError):
        import_module("faiss")
    return import_module("infomap")  # optional, and without types where it is not installed


def _cluster_sizes(clusters: Tensor, mask: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """Return the pixels of each cluster, and those of them inside the mask, (K,) int64 on the CPU."""
    ids = clusters.flatten().long()
    size, inside = (torch.bincount(some, minlength=n_clusters).cpu() for some in (ids, ids[mask.flatten()]))
    return size, inside


def _window(offset: int) -> slice:
    """Return the part of an axis that, moved back by ``offset``, stays inside."""
    return slice(offset, None) if offset > 0 else slice(0, offset or None)


def _round(value: float) -> int:
    """Round half away from zero, as C does and Python does not."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))
