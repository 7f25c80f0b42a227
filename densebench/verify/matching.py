"""Groups b and m: matching clusters to classes, and the counts and scores that follow.

Source of the vectors: ``PredsmIoU`` of open-hummingbird-eval and Leopart; Leopart's scoring of cluster maps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from densebench.ops.confusion import ConfusionMatrix, counts, mean_iou
from densebench.ops.matching import hungarian, many_to_one, scores
from densebench.ops.resize import resize_labels
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind

VOID = 255


def predsmiou(v: Golden) -> Iterator[GoldenCheck]:
    """Four ways to match, streamed in two updates; the table or the score matrices where the file has them."""
    gt, pred = v["gt"], v["pred"].long()
    n_gt, n_pred = v.integer("num_gt"), v.integer("num_pred")
    stream = ConfusionMatrix(n_pred, n_gt, VOID)
    for part in (slice(None, len(gt) // 3), slice(len(gt) // 3, None)):
        stream.update(pred[part], gt[part])
    table = stream.table
    mappings = {
        "hungarian": hungarian(table),
        "linear_probe": None,
        "m2o_iou": many_to_one(table, "iou"),
        "m2o_prec": many_to_one(table, "precision"),
    }
    visible = pred[gt != VOID]
    for tag, mapping in mappings.items():
        scored = stream.compute(mapping)
        for name, value in scored._asdict().items():
            yield v.exact(f"{tag}_{name}", value)
        yield v.close(f"{tag}_miou", mean_iou(*scored), 1e-12)
        reordered = visible if mapping is None else mapping.to(v.device)[visible]
        yield v.exact(f"{tag}_reordered", reordered)
        if f"{tag}_bg_fraction" in v:
            yield v.close(f"{tag}_bg_fraction", _background(tag, mapping, n_gt), 1e-12)
    if "confusion" in v:
        yield v.exact("confusion", table)
    if "score_iou" in v or "score_prec" in v:
        yield v.close("score_iou", scores(table, "iou"), 1e-12)
        yield v.close("score_prec", scores(table, "precision"), 1e-12)


def _background(tag: str, mapping: torch.Tensor | None, n_classes: int) -> float:
    """Return what the reference calls the share of background: of clusters where many go to one class."""
    if mapping is None:
        return 0.0
    return 1 / n_classes if tag == "hungarian" else float((mapping == 0).double().mean())


def overclustering(v: Golden) -> Iterator[GoldenCheck]:
    """Cluster maps against masks, both brought to one size; one-to-one where clusters are as many as classes."""
    n_classes, n_clusters, size = (v.integer(name) for name in ("num_classes", "K", "eval_size"))
    stream = ConfusionMatrix(n_clusters, n_classes, v.integer("ignore_index"))
    for clusters, mask in zip(v["cluster_map"], v["gt_masks"], strict=True):
        stream.update(resize_labels(clusters, size), resize_labels(mask, size))
    matching = hungarian if n_clusters == n_classes else many_to_one
    scored = counts(stream.table, matching(stream.table))
    for name, value in scored._asdict().items():
        yield v.exact(name, value)
    yield v.close("miou", mean_iou(*scored), 1e-12)


_TAGS = " ".join(f"{tag}_*" for tag in ("hungarian", "linear_probe", "m2o_iou", "m2o_prec"))

KINDS = (
    GoldenKind("b_hbird", "matching (open-hummingbird)", predsmiou, f"gt pred num_gt num_pred {_TAGS} confusion"),
    GoldenKind("b_leopart", "matching (Leopart)", predsmiou, f"gt pred num_gt num_pred {_TAGS} score_iou score_prec"),
    GoldenKind(
        "m_overcluster",
        "overclustering score",
        overclustering,
        "gt_masks cluster_map num_classes K ignore_index eval_size miou tp fp fn",
    ),
)
