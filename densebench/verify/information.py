"""Groups g and o: mutual information of positions and tokens, and the cosine k-means.

Source of the vectors: the formulas of "Unsupervised Semantic Segmentation Facilitates Model Understanding" in float64;
STEGO ``src/modules.py`` (``ClusterLookup``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops.cosine_kmeans import CosineKMeans, assign_cosine, cosine_kmeans_step
from densebench.ops.information import (
    PositionCounts,
    aggregate_map,
    attention_mutual_information,
    mutual_information,
)
from densebench.verify import ties
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind

GROUPS = 5  # of images: more than one, so that adding the groups up is verified too


def positions(v: Golden) -> Iterator[GoldenCheck]:
    """Counts of labels per position, their information, and the picture of mean colours."""
    labels = v["labels"]
    height, width = labels.shape[1:]
    stream = PositionCounts(height * width, v.integer("num_classes"), GROUPS)
    for image, label_map in enumerate(labels):
        stream.update(image, label_map)
    counts = stream.total().to(v.device)
    yield v.exact("counts", counts)
    found = mutual_information(counts)
    yield v.close("classwise_mi", found.classwise, 1e-10)
    for name, value in (("mi", found.total), ("entropy", found.entropy), ("nmi", found.nmi)):
        yield v.close(name, value, 1e-10)
    yield v.close("aggregate_map", aggregate_map(counts, v["palette"], (height, width)), 1e-10)


def locality(v: Golden) -> Iterator[GoldenCheck]:
    """Information between query and key tokens, per head and of the mean head."""
    attention = v["attention"]
    yield v.close("mi_per_head", attention_mutual_information(attention), 1e-10)
    yield v.close("mi_head_averaged", attention_mutual_information(attention.mean(0)), 1e-10)


def cluster_probe(v: Golden) -> Iterator[GoldenCheck]:
    """Loss, gradient and assignment of one step; the losses of a run of Adam; the map after it."""
    maps, lr = v["features"], v.number("adam_lr")
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    start, was_stored = _start(v, rows)
    loss, gradient = cosine_kmeans_step(rows, start)
    yield v.close("loss", loss, 1e-5)
    yield v.close("grad", gradient, 1e-5)
    yield _assigned(v, "assignment", start, (maps.shape[2], maps.shape[3]))

    trace, after = v.matches(r"loss_trace_(\d+)_steps")[0], v.matches(r"centroids_after_(\d+)_steps")[0]
    steps, fit = int(trace[1]), CosineKMeans(start, lr)
    yield v.close(trace[0], torch.stack([fit.step(rows) for _ in range(steps)]), 1e-5)
    centroids = fit.centroids
    height, width = v["upsampled_size"].tolist()
    yield _assigned(v, "upsampled_assignment", centroids, (height, width))
    if was_stored:
        yield v.close("centroids", start, 1e-5)
        yield v.close(after[0], centroids, 1e-5)
        return
    fitted = CosineKMeans(centroids, lr)
    for _ in range(steps):
        fitted.step(rows)
    yield v.close("centroids", fitted.centroids, 1e-5)
    yield v.close(after[0], fitted.centroids, 1e-5)


def _assigned(v: Golden, name: str, centroids: Tensor, size: tuple[int, int]) -> GoldenCheck:
    products = torch.einsum("bdhw,kd->bkhw", v["features"], F.normalize(centroids, dim=1))
    return ties.argmax(v, name, assign_cosine(v["features"], centroids, size), products)[0]


def _start(v: Golden, rows: Tensor) -> tuple[Tensor, bool]:
    """Return the centroids (K, D) before the first step, float32, and whether they are what ``centroids`` holds.

    The published file holds there a view of a parameter that was trained on, twice the steps of its trace: neither the
    start nor the end of the trace. The stored gradient implies the start. With unit features u and N of them, centroid
    k has the gradient g = (s - (s.v) v) / r, where s = -(sum of its u) / N, v is its direction and r its length; g is
    orthogonal to v, so r = s.g / g.g, and v points along r g - s. A centroid without features never moves.
    """
    stored = v["centroids"]
    loss, _ = cosine_kmeans_step(rows, stored)
    if v.close("loss", loss, 1e-5).ok:
        return stored, True
    units, nearest = F.normalize(rows.double(), dim=1), v["assignment"].flatten()
    found = stored.double().clone()
    for k, g in enumerate(v["grad"].double()):
        mine = nearest == k
        if bool(mine.any()):
            s = -units[mine].sum(0) / len(units)
            r = (s @ g) / (g @ g)
            found[k] = r * F.normalize(r * g - s, dim=0)
    return found.float(), False


KINDS = (
    GoldenKind(
        "g_nmi",
        "position information",
        positions,
        "labels num_classes counts classwise_mi mi entropy nmi palette aggregate_map",
    ),
    GoldenKind("g_locality", "locality of attention", locality, "attention mi_head_averaged mi_per_head"),
    GoldenKind(
        "o_cluster",
        "cosine k-means",
        cluster_probe,
        "features centroids loss assignment grad adam_lr loss_trace_*_steps centroids_after_*_steps upsampled_size "
        "upsampled_assignment",
    ),
)
