"""Group p: DIP's retrieval of labels and of depth, and its training loss.

Source of the vectors: DIP ``hummingbird/src/hbird_eval.py`` and ``models/dipnet.py``. Unlike group a, neighbours are
searched by squared distance of raw features, and weighted by cosine.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops.confusion import confusion, counts, iou, mean_iou
from densebench.ops.depth import ERRORS, depth_errors, histogram_bins, unpatchify
from densebench.ops.dip import add_distractors, in_context_loss, patch_labels, predict_in_context
from densebench.ops.retrieval import attend, upsample_argmax
from densebench.ops.sampling import patch_scores, patchify_labels, soft_labels
from densebench.ops.search import ExactIndex
from densebench.verify import ties
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind


def _neighbours(v: Golden) -> Iterator[GoldenCheck]:
    keys, queries = v["train_feats"].flatten(0, 1), v["val_feats"].flatten(0, 1)
    for backend in v.backends:
        index = ExactIndex(keys, backend, "l2")  # type: ignore[arg-type]
        yield ties.neighbours(v, index.search(queries, v.integer("k")).indices, queries, keys, "l2", backend)


def _attend(v: Golden, labels: Tensor) -> Tensor:
    """Return label_hat (n, P, C) of the stored neighbours: ours are equal to them up to ties, see `ties.neighbours`."""
    keys, queries = v["train_feats"].flatten(0, 1), v["val_feats"].flatten(0, 1)
    hat = attend(queries, v["nn_index"], labels, keys=keys, temperature=v.number("beta"))
    return hat.unflatten(0, v["val_feats"].shape[:2])


def segmentation(v: Golden) -> Iterator[GoldenCheck]:
    """Neighbours, soft labels, class maps, counts and scores without absent classes."""
    n_classes, side, patch = (v.integer(name) for name in ("num_classes", "S", "patch_size"))
    yield from _neighbours(v)
    hat = _attend(v, soft_labels(v["train_masks"], patch, n_classes).flatten(0, 2))
    yield v.close("label_hat", hat, 1e-5)
    maps = hat.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    size = (side * patch, side * patch)
    yield v.close("argmax_margin_min", ties.margins(maps, size).min(), 1e-5)
    finding, pred = ties.argmax(v, "argmax", upsample_argmax(maps, size), maps)
    yield finding
    table = confusion(pred, v["val_masks"], n_classes, n_classes)
    yield v.exact("confusion", table)
    scored = counts(table)
    yield v.close("iou", iou(*scored, absent="skip"), 1e-5)  # the reference divides in float32
    yield v.close("miou_nanmean", mean_iou(*scored, absent="skip"), 1e-5)


def depth(v: Golden) -> Iterator[GoldenCheck]:
    """Patches of depth, their bins and sampling scores, neighbours, and both readings of the retrieved patches."""
    side, patch, n_bins = (v.integer(name) for name in ("S", "patch_size", "num_bins"))
    patches = patchify_labels(v["train_depth"], patch)
    yield v.exact("patchified", patches)
    bins = histogram_bins(patches, n_bins)
    yield v.exact("binned", bins)
    yield v.exact("sampling_scores", patch_scores(unpatchify(bins, patch), patch, n_bins + 1, void=-1).flatten(1))
    yield from _neighbours(v)
    hat = _attend(v, patches.flatten(0, 2))
    yield v.close("label_hat", hat, 1e-5)
    grid = hat.unflatten(1, (side, side))
    sensible = unpatchify(grid, patch)
    as_coded = F.interpolate(grid.permute(0, 3, 1, 2), v["val_depth"].shape[1:], mode="bilinear").mean(1)
    yield v.close("unpatchified", sensible, 1e-5)
    yield v.close("resized_channel_mean", as_coded, 1e-5)
    for name, pred in (("rmse_unpatchified", sensible), ("rmse_channel_mean", as_coded)):
        yield v.close(name, depth_errors(pred, v["val_depth"])[ERRORS.index("rmse")].float(), 1e-5)


def training_loss(v: Golden) -> Iterator[GoldenCheck]:
    """Predictions from own and distracting patches, the loss, and its gradients, in float64."""
    query, reference = v["query_feats"].requires_grad_(), v["ref_feats"].requires_grad_()
    patch, n_classes, side = (v.integer(name) for name in ("patch_size", "num_classes", "S"))
    permutations = v["distractor_permutations"]
    yield v.exact("n_distractors", len(permutations))
    labels = patch_labels(v["ref_labels"], patch, n_classes)
    prediction = predict_in_context(
        query, add_distractors(reference, permutations), add_distractors(labels, permutations), v.number("beta")
    )
    yield v.close("prediction", prediction.mT.unflatten(-1, (side, side)), 1e-10)
    loss = in_context_loss(prediction, patch_labels(v["query_labels"], patch, n_classes))
    yield v.close("loss", loss, 1e-10)
    for name, gradient in zip(("grad_query", "grad_ref"), torch.autograd.grad(loss, (query, reference)), strict=True):
        yield v.close(name, gradient, 1e-10)


KINDS = (
    GoldenKind(
        "p_dip_retrieval_seg",
        "DIP retrieval of labels",
        segmentation,
        "train_feats train_masks val_feats val_masks S patch_size num_classes k beta nn_index label_hat argmax "
        "argmax_margin_min confusion iou miou_nanmean",
    ),
    GoldenKind(
        "p_dip_retrieval_depth",
        "DIP retrieval of depth",
        depth,
        "train_feats val_feats train_depth val_depth S patch_size k beta num_bins patchified binned sampling_scores "
        "nn_index label_hat resized_channel_mean unpatchified rmse_unpatchified rmse_channel_mean",
    ),
    GoldenKind(
        "p_dip_train_loss",
        "DIP training loss",
        training_loss,
        "query_feats ref_feats ref_labels query_labels S patch_size num_classes n_distractors beta "
        "distractor_permutations prediction loss grad_query grad_ref",
    ),
)
