"""Matching and scoring: PredsmIoU of open-hummingbird-eval and Leopart, and Leopart's overclustering score."""

import pytest
import torch

from densebench.ops.confusion import ConfusionMatrix, counts, mean_iou
from densebench.ops.matching import hungarian, many_to_one, scores
from densebench.ops.resize import resize_labels

MATCHINGS = {
    "hungarian": hungarian,
    "linear_probe": lambda table: None,
    "m2o_iou": lambda table: many_to_one(table, "iou"),
    "m2o_prec": lambda table: many_to_one(table, "precision"),
}


@pytest.mark.golden("b_*")
@pytest.mark.parametrize("tag", MATCHINGS)
def test_predsmiou(vectors, tag, close):
    gt, pred = vectors["gt"], vectors["pred"].long()
    n_gt, n_pred = int(vectors["num_gt"]), int(vectors["num_pred"])
    stream = ConfusionMatrix(n_pred, n_gt)
    for part in (slice(None, 7001), slice(7001, None)):
        stream.update(pred[part], gt[part])
    mapping = MATCHINGS[tag](stream.table)
    scored = stream.compute(mapping)
    for name in scored._fields:
        assert torch.equal(getattr(scored, name), vectors[f"{tag}_{name}"])
    close(mean_iou(*scored), vectors[f"{tag}_miou"], 1e-12)
    visible = pred[gt != 255]
    assert torch.equal(visible if mapping is None else mapping[visible], vectors[f"{tag}_reordered"].long())


@pytest.mark.golden("b_hbird_*")
def test_confusion_table(vectors):
    stream = ConfusionMatrix(int(vectors["num_pred"]), int(vectors["num_gt"]))
    stream.update(vectors["pred"], vectors["gt"])
    assert torch.equal(stream.table, vectors["confusion"])


@pytest.mark.golden("b_leopart_*")
def test_score_matrices(vectors, close):
    stream = ConfusionMatrix(int(vectors["num_pred"]), int(vectors["num_gt"]))
    stream.update(vectors["pred"], vectors["gt"])
    close(scores(stream.table, "iou"), vectors["score_iou"], 1e-12)
    close(scores(stream.table, "precision"), vectors["score_prec"], 1e-12)


@pytest.mark.golden("m_*")
def test_overclustering_score(vectors, close):
    n_classes, n_clusters, size = (int(vectors[name]) for name in ("num_classes", "K", "eval_size"))
    stream = ConfusionMatrix(n_clusters, n_classes, int(vectors["ignore_index"]))
    for clusters, mask in zip(vectors["cluster_map"], vectors["gt_masks"], strict=True):
        stream.update(resize_labels(clusters, size), resize_labels(mask, size))
    matching = hungarian if n_clusters == n_classes else many_to_one
    scored = counts(stream.table, matching(stream.table))
    for name in scored._fields:
        assert torch.equal(getattr(scored, name), vectors[name])
    close(mean_iou(*scored), vectors["miou"], 1e-12)
