"""Group k: foreground masks from attention, what clusters have in common with them and with each other, and their IoU.

Source of the vectors: NeCo and Leopart ``experiments/utils.py`` (``process_attentions``, ``get_cluster_precs``,
``create_matrix``, ``eval_jac``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from densebench.ops.cbfe import (
    ClusterPrecision,
    CoOccurrence,
    attention_mask,
    foreground_iou,
    label_foreground,
    strong_edges,
)
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind


def attention_masks(v: Golden) -> Iterator[GoldenCheck]:
    """Masks that keep as many percent of an image's attention as their names say."""
    blur = v.number("blur_sigma"), v.integer("blur_kernel"), v.integer("min_component")
    for match in v.matches(r"mask_(\d+)"):
        mask = attention_mask(v["attention"].flatten(0, 1), int(match[1]) / 100, *blur)
        yield v.exact(match[0], mask.view(v["attention"].shape))


def co_occurrence(v: Golden) -> Iterator[GoldenCheck]:
    """Precision of clusters in the masks, their neighbours, and the edges that follow: two nodes and a weight."""
    n_clusters, maps = v.integer("k"), v["clusters"].flatten(0, 1)
    precision, neighbours = ClusterPrecision(n_clusters), CoOccurrence(n_clusters, v["distances"].tolist())
    for clusters, mask in zip(maps, v["fg_mask"].flatten(0, 1).bool(), strict=True):
        precision.update(clusters, mask)
        neighbours.update(clusters)
    yield v.close("cluster_precisions", precision.compute(), 1e-7)
    matrix = neighbours.compute()
    yield v.close("cooccurrence", matrix, 1e-7)
    edges = strong_edges(matrix, v.number("weight_threshold"))
    yield v.close("edges", torch.cat([edges.nodes.double(), edges.weights[:, None]], dim=1), 1e-7)


def foreground(v: Golden) -> Iterator[GoldenCheck]:
    """IoU of the foreground, averaged over images, with borders of objects counted as foreground or not."""
    pred, labels = v["pred"].flatten(0, 1).bool(), v["gt"].flatten(0, 1)
    for name, boundary in (("with_boundary", True), ("without_boundary", False)):
        target = label_foreground(labels, with_boundary=boundary)
        yield v.close(name, foreground_iou(pred, target).mean(), 1e-6)


KINDS = (
    GoldenKind(
        "k_process",
        "masks from attention",
        attention_masks,
        "attention blur_sigma blur_kernel min_component mask_*",
    ),
    GoldenKind(
        "k_cbfe",
        "clusters and foreground",
        co_occurrence,
        "clusters fg_mask k cluster_precisions cooccurrence weight_threshold edges distances",
    ),
    GoldenKind("k_eval_jac", "foreground IoU", foreground, "gt pred with_boundary without_boundary"),
)
