"""Groups a, h and i: Hummingbird from patch features to scores, and the two steps that fill its memory.

Source of the vectors: open-hummingbird-eval ``hbird/hbird_eval.py`` with an exact search.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from densebench.ops.confusion import confusion, counts, iou, mean_iou
from densebench.ops.matching import hungarian
from densebench.ops.retrieval import attend, normalise_keys, upsample_argmax
from densebench.ops.sampling import patch_scores, patches_per_image, patchify_labels, sample_patches, soft_labels
from densebench.ops.search import ExactIndex
from densebench.verify import ties
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind, holds

BLOCKS = ((None, None), (7, 32), (1, 96))
"""Queries and keys that the torch search takes at a time: by default all of so few, and twice in parts."""


def draw_noise(n_images: int, n_patches: int, seed: int) -> Tensor:
    """Return the (n_images, n_patches) uniform draws of the reference, from torch's CPU generator, image by image."""
    return torch.rand(n_images, n_patches, generator=torch.Generator().manual_seed(seed))


def memory(v: Golden) -> tuple[Tensor, Tensor]:
    """Return unit keys (N, D) and soft labels (N, C), sampled with the reference's draws where it samples."""
    masks, patch, n_classes = v["train_masks"], v.integer("patch_size"), v.integer("num_classes")
    features, labels = v["train_feats"], soft_labels(masks, patch, n_classes).flatten(1, 2)
    n_images, n_patches, _ = features.shape
    if "memory_size" in v:
        noise = draw_noise(n_images, n_patches, v.integer("torch_seed"))
        chosen = sample_patches(patch_scores(masks, patch, n_classes), _share(v), noise)
        image = torch.arange(n_images, device=v.device)[:, None]
        features, labels = features[image, chosen], labels[image, chosen]
    return normalise_keys(features.flatten(0, 1)), labels.flatten(0, 1)


def _share(v: Golden) -> int:
    n_images, n_patches, _ = v["train_feats"].shape
    return patches_per_image(v.integer("memory_size"), n_images, 1, n_patches)


def hummingbird(v: Golden) -> Iterator[GoldenCheck]:
    """Memory, neighbours on every backend, soft labels, class maps, counts and scores."""
    yield holds("S * patch_size is the side of a mask", _sides(v) == tuple(v["val_masks"].shape[1:]))
    if "memory_size" in v:
        yield v.exact("num_sampled_features", _share(v))
    keys, labels = memory(v)
    yield v.close("memory_features", keys, 1e-6)
    yield v.close("memory_labels", labels, 1e-6)
    maps: list[Tensor] = []
    for backend in v.backends:
        for rows, columns in BLOCKS if backend == "torch" else BLOCKS[:1]:
            label = f"{backend}, {rows}x{columns} at a time" if rows else backend
            index = ExactIndex(keys, backend, query_block=rows, key_block=columns)  # type: ignore[arg-type]
            found = index.search(v["val_feats"].flatten(0, 1), v.integer("k"))
            yield ties.neighbours(v, found.indices, v["val_feats"].flatten(0, 1), keys, "ip", label)
            yield v.close("nn_score", found.scores, 1e-5, label)
            hat = _soft_labels(v, labels, scores=found.scores)
            yield v.close("label_hat", hat, 1e-5, label)
            maps.append(hat)
    yield v.close("label_hat", _soft_labels(v, labels, keys=keys), 1e-5, "keys gathered")
    yield from _scores(v, maps[0])


def _sides(v: Golden) -> tuple[int, int]:
    side = v.integer("S") * v.integer("patch_size")
    return side, side


def _soft_labels(v: Golden, labels: Tensor, scores: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
    """Return label_hat (n, P, C) of the stored neighbours: ours are equal to them up to ties, see `ties.neighbours`."""
    hat = attend(
        v["val_feats"].flatten(0, 1),
        v["nn_index"],
        labels,
        scores=scores,
        keys=keys,
        temperature=v.number("beta"),
        chunk=31,
    )
    return hat.unflatten(0, v["val_feats"].shape[:2])


def _scores(v: Golden, hat: Tensor) -> Iterator[GoldenCheck]:
    n_classes = v.integer("num_classes")
    maps = hat.unflatten(1, (v.integer("S"), v.integer("S"))).permute(0, 3, 1, 2)
    yield v.close("argmax_margin_min", ties.margins(maps, _sides(v)).min(), 1e-5)
    finding, pred = ties.argmax(v, "argmax", upsample_argmax(maps, _sides(v)), maps)
    yield finding
    table = confusion(pred, v["val_masks"], n_classes, n_classes, v.integer("ignore_index"))
    yield v.exact("confusion", table)
    for tag, mapping in ("identity", None), ("hungarian", hungarian(table)):
        scored = counts(table, mapping)
        for name, value in scored._asdict().items():
            yield v.exact(f"{name}_{tag}", value)
        yield v.close(f"iou_{tag}", iou(*scored), 1e-12)
        yield v.close(f"miou_{tag}", mean_iou(*scored), 1e-12)
    scored = counts(table)
    yield v.close("iou_nan_identity", iou(*scored, absent="skip"), 1e-12)
    yield v.close("miou_nanmean_identity", mean_iou(*scored, absent="skip"), 1e-12)


def labels_of_patches(v: Golden) -> Iterator[GoldenCheck]:
    """Pixels of each patch, and their mean one-hot labels."""
    masks, patch = v["masks"], v.integer("patch_size")
    pixels = patchify_labels(masks, patch)
    yield v.exact("patchified", pixels.masked_fill(pixels == 255, 0))  # the reference fills first
    yield v.close("soft_labels", soft_labels(masks, patch, v.integer("num_classes")), 1e-7)


def sampling(v: Golden) -> Iterator[GoldenCheck]:
    """Scores of patches, the reference's draws, and which patches they select."""
    scores = patch_scores(v["masks"], v.integer("patch_size"), v.integer("num_classes"))
    yield v.exact("scores", scores)
    yield v.exact("nonempty", scores > 0)
    n_images, n_patches = v["noise"].shape
    yield v.exact("noise", draw_noise(n_images, n_patches, v.integer("torch_seed")))
    chosen = sample_patches(scores, v.integer("K"), v["noise"])
    yield v.exact("sampled_indices", chosen)
    yield v.exact("sampled_features", v["features"][torch.arange(n_images, device=v.device)[:, None], chosen])


KINDS = (
    GoldenKind(
        "a_hbird",
        "in-context retrieval",
        hummingbird,
        "train_feats train_masks val_feats val_masks S patch_size num_classes k beta ignore_index memory_features "
        "memory_labels nn_index nn_score label_hat argmax argmax_margin_min confusion miou_hungarian tp_hungarian "
        "fp_hungarian fn_hungarian iou_hungarian miou_identity tp_identity fp_identity fn_identity iou_identity "
        "iou_nan_identity miou_nanmean_identity",
    ),
    GoldenKind("h_soft", "soft labels", labels_of_patches, "masks patch_size num_classes patchified soft_labels"),
    GoldenKind(
        "i_sampling",
        "patch sampling",
        sampling,
        "masks patch_size num_classes scores nonempty K torch_seed noise features sampled_features sampled_indices",
    ),
)
