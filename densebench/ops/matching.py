"""Turning cluster ids into class ids: one-to-one by IoU, many-to-one by precision or IoU, or the one after the other.

All read a confusion table (C, K), rows = ground truth, and return ``mapping`` (K,) for
:func:`densebench.ops.confusion.counts`. As in open-hummingbird-eval and Leopart (``PredsmIoU``), a cluster that
finds no class becomes class 0, and the matching is one for the whole evaluation set.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def scores(table: Tensor, by: Literal["precision", "iou"]) -> Tensor:
    """Return how well each cluster covers each class, (C, K) float64 in [0, 1].

    ``precision`` is the share of a cluster's pixels that lie in the class, ``iou`` their intersection over union;
    an empty cluster scores 0 everywhere.
    """
    hits = table.double()
    size = hits.sum(0, keepdim=True)
    if by == "precision":
        return hits / size.clamp(min=1e-8)
    if by == "iou":
        return hits / (size + hits.sum(1, keepdim=True) - hits).clamp(min=1e-8)
    raise ValueError(f"by is 'precision' or 'iou', got {by!r}")


def hungarian(table: Tensor) -> Tensor:
    """Return the (K,) mapping of the one-to-one assignment with the greatest sum of IoU.

    With more clusters than classes the K - C left over become class 0; with fewer, some classes stay empty. Sums
    within 1e-6 are tied, as those of absent classes always are: low clusters are matched before high ones, and to low
    classes. That is a rule of ours, so that no solver's order of work enters a score.
    """
    iou = scores(table, "iou").cpu().numpy()
    n_classes, n_clusters = iou.shape
    # the greatest sum of products is that of the lowest of both, in order (rearrangement inequality)
    order = np.outer(np.arange(n_classes, 0, -1) / n_classes, np.arange(n_clusters, 0, -1) / n_clusters)
    iou += 1e-6 / min(iou.shape) * order
    classes, clusters = linear_sum_assignment(iou, maximize=True)
    mapping = torch.zeros(table.shape[1], dtype=torch.int64)
    mapping[torch.from_numpy(clusters)] = torch.from_numpy(classes)
    return mapping


def many_to_one(table: Tensor, by: Literal["precision", "iou"] = "precision") -> Tensor:
    """Return the (K,) mapping that gives each cluster its best class on its own.

    Ties go to the lowest class id, empty clusters to class 0. The public code of NeCo and Leopart uses precision
    for overclustering, and nothing after it (``eval_overcluster.py``).
    """
    return torch.from_numpy(scores(table, by).cpu().numpy().argmax(0))  # numpy's argmax is the first maximum


def greedy_hungarian(table: Tensor) -> Tensor:
    """Return the (K,) mapping of `many_to_one` by precision with its groups matched again, one to one by IoU.

    As the texts of PaKA (5.2, A.2) and NeCo (A.2) describe overclustering: clusters with one best class are merged, and
    Hungarian matches the merged ones with classes. Their public code does the one or the other. A group may move to
    another class, even to one that no cluster had as its best, so the sum of IoU over classes never falls.
    """
    greedy = many_to_one(table, "precision")
    grouped = torch.zeros_like(table[:, :1]).repeat(1, len(table)).index_add_(1, greedy.to(table.device), table)
    return hungarian(grouped)[greedy]
