"""What enters the memory of patch retrieval: soft patch labels, which patches, and which images.

Source: open-hummingbird-eval ``hbird_eval.py`` (``_patchify_gt``, ``_get_patch_scores_and_mask``,
``_sample_features``) and, for the image subsets, NeCo appendix A.2 with the published file lists.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def patchify_labels(masks: Tensor, patch: int) -> Tensor:
    """Return the pixels of each patch, (B, h, w, patch * patch) row-major, of masks (B, H, W).

    Raises:
        ValueError: H or W is not a multiple of ``patch``.
    """
    n, height, width = masks.shape
    if height % patch or width % patch:
        raise ValueError(f"masks of {height}x{width} pixels do not divide into patches of {patch}")
    blocks = masks.reshape(n, height // patch, patch, width // patch, patch).transpose(2, 3)
    return blocks.reshape(n, height // patch, width // patch, patch * patch)


def soft_labels(
    masks: Tensor,
    patch: int,
    n_classes: int,
    void: int = 255,
    void_to: int | None = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the share of each class among the pixels of each patch, (B, h, w, C) in ``dtype``, rows summing to 1.

    Args:
        masks: (B, H, W) integers in [0, n_classes), or ``void``.
        patch: pixels per patch side.
        n_classes: number of classes C.
        void: the unlabelled value.
        void_to: the class that void pixels join. 0 is the published choice, whatever class 0 means; ``None``
            leaves them out, so a patch sums to its labelled share (and a void patch is all zero).
        dtype: that of what the labels meet; a share of 9 or 196 pixels is not exact in any.

    Raises:
        ValueError: a label lies outside the classes.
    """
    labels = masks.to(torch.int64)
    is_void = labels == void
    low, high = (int(v) for v in torch.aminmax(labels.masked_fill(is_void, 0))) if labels.numel() else (0, 0)
    if low < 0 or high >= n_classes:
        raise ValueError(f"labels span {low}..{high}, expected 0..{n_classes - 1} or void {void}")
    labels = labels.masked_fill(is_void, n_classes if void_to is None else void_to)
    patches = patchify_labels(labels, patch)
    n, h, w, pixels = patches.shape
    first_cell = torch.arange(n * h * w, device=masks.device)[:, None] * (n_classes + 1)
    cells = (patches.view(-1, pixels) + first_cell).view(-1)  # one spare class holds the void pixels left out
    tally = torch.bincount(cells, minlength=n * h * w * (n_classes + 1)).view(n, h, w, n_classes + 1)
    return tally[..., :n_classes].to(dtype) / pixels


def patch_scores(masks: Tensor, patch: int, n_classes: int, void: int = 255) -> Tensor:
    """Return how common the classes of each patch are in their image, (B, h, w) float32 >= 0.

    The score of a patch is the sum, over the classes it touches, of the number of patches of the image that touch
    the class. Low scores mark patches of rare classes, which sampling favours.
    """
    return scores_of(soft_labels(masks, patch, n_classes, void))


def scores_of(labels: Tensor) -> Tensor:
    """Return :func:`patch_scores` (B, h, w) from soft labels (B, h, w, C) that are already there."""
    touched = (labels > 0).float()
    return (touched * touched.sum((1, 2), keepdim=True)).sum(-1)


def scores_of_ids(ids: Tensor, n_ids: int) -> Tensor:
    """Return :func:`patch_scores` (B, h, w) from the ids (B, h, w, pixels) in [0, n_ids) of the pixels of each patch.

    DIP scores patches of depth so, by the histogram bins of their pixels.
    """
    touched = torch.zeros(*ids.shape[:3], n_ids, device=ids.device).scatter_(3, ids, 1.0)
    return (touched * touched.sum((1, 2), keepdim=True)).sum(-1)


def sample_patches(scores: Tensor, k: int, noise: Tensor) -> Tensor:
    """Return the indices (B, k) of the k patches with the smallest ``score * noise``, in ascending order of it.

    Args:
        scores: (B, h, w) or (B, P), from :func:`patch_scores`.
        k: patches per image; at most P are there to take (open-hummingbird-eval 2.0 fails above P, DIP caps).
        noise: (B, P), uniform in [0, 1). The reference draws it from torch's CPU generator image after image.
    """
    keys = scores.flatten(1) * noise.to(scores.device)
    return torch.sort(keys, dim=1, stable=True).indices[:, :k]


def patches_per_image(memory_size: int, n_images: int, epochs: int = 1, n_patches: int | None = None) -> int:
    """Return how many patches an image gives to a memory of ``memory_size`` rows, at least 1.

    ``n_images * epochs`` images share the memory evenly; no image is asked for more than its ``n_patches`` patches
    (DIP does so; open-hummingbird-eval 2.0 does not, and fails on small subsets).
    """
    share = max(1, memory_size // (n_images * epochs))
    return share if n_patches is None else min(share, n_patches)


def subset_size(n_images: int, factor: int, n_labels: int) -> int:
    """Return the number of images that :func:`draw_subset` aims for.

    The published lists hold ``n_labels * round(n_images / (factor * n_labels))`` images: 1320, 160 and 80 of the
    10582 of VOC (20 labels), 2550, 300 and 150 of the 20210 of ADE20K (150 labels). Below half an image per label
    the plain fraction ``max(1, round(n_images / factor))`` takes over.
    """
    quota = round(n_images / (factor * n_labels)) if n_labels else 0
    return min(n_images, quota * n_labels or max(1, round(n_images / factor)))


def draw_subset(presence: Tensor, factor: int, seed: int, exclude_labels: Iterable[int] = (0,)) -> Tensor:
    """Return sorted image indices of a random 1/factor subset with about equally many images for each label.

    Labels draw in turn, rarest first, so that their images are not gone when it is their turn: each takes its
    quota at random among the images that hold it and are not taken. A label short of images takes those it has,
    so the subset can be smaller than :func:`subset_size`. Without any label images are drawn uniformly.

    Args:
        presence: (N, C) bool, which image holds which label.
        factor: 1 keeps all images.
        seed: of numpy's default generator; equal seeds give equal subsets.
        exclude_labels: labels that draw no images, by default the background.

    Source: NeCo appendix A.2; quotas as in the published lists, see :func:`subset_size`. The lists themselves came
    from another random stream and are not reproduced.
    """
    held = presence.cpu().numpy().astype(bool)
    n_images, n_labels = held.shape
    if factor < 1:
        raise ValueError(f"factor is at least 1, got {factor}")
    if factor == 1 or not n_images:
        return torch.arange(n_images)
    labels = np.setdiff1d(np.arange(n_labels), list(exclude_labels))
    labels = labels[held[:, labels].any(0)]
    size = subset_size(n_images, factor, len(labels))
    rng = np.random.default_rng(seed)
    if not len(labels):
        return torch.from_numpy(np.sort(rng.choice(n_images, size, replace=False)))
    order = rng.permutation(labels)
    quota = max(1, size // len(labels))
    if size >= len(labels):
        order = order[np.argsort(held[:, order].sum(0), kind="stable")]
    taken = np.zeros(n_images, bool)
    for label in order:
        free = np.flatnonzero(held[:, label] & ~taken)
        wanted = min(quota, size - int(taken.sum()))
        taken[rng.choice(free, min(wanted, len(free)), replace=False)] = True
    return torch.from_numpy(np.flatnonzero(taken))
