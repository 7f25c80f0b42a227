"""A linear classifier of patches, trained and read at pixels.

Published code upsamples features and classifies every pixel of them (NeCo, Leopart `linear_finetune.py`). Both steps
are linear and a bias is kept by weights that sum to 1, so classifying first and upsampling C maps of logits instead of
D maps of features is the same function with the same gradient, for a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.ops.resize import resize_labels

IGNORED = -100
"""What `pixel_targets` writes where no loss is taken."""


def linear_head(channels: int, n_classes: int, seed: int) -> nn.Conv2d:
    """Return a 1x1 convolution with bias and torch's default initialisation, drawn from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Conv2d(channels, n_classes, 1)


def class_maps(head: nn.Conv2d, features: Tensor) -> Tensor:
    """Return logits (C, h, w) of one image's features (D, h, w).

    One image at a time: the rounding of a product over a batch can depend on the batch's size.
    """
    weight = head.weight.flatten(1)
    bias = torch.zeros_like(weight[:, 0]) if head.bias is None else head.bias
    return torch.addmm(bias[:, None], weight, features.flatten(1)).unflatten(1, features.shape[1:])


def bilinear_matrix(n_in: int, n_out: int) -> Tensor:
    """Return the (n_out, n_in) float32 matrix of bilinear resizing along one side, with half-pixel centres.

    Positions are rounded to float32 as torch rounds them. Upsampling with it is two products, R maps Q^T, equal to
    ``ops.resize.resize_maps`` but for rounding. Their gradient is a product too, hence the same in every run; that of
    ``F.interpolate`` is not on a GPU.
    """
    scale = torch.tensor(n_in, dtype=torch.float32) / n_out
    source = ((torch.arange(n_out, dtype=torch.float32) + 0.5) * scale - 0.5).clamp_(min=0)
    below = source.floor().long().clamp_(max=n_in - 1)
    share = source - below
    matrix, rows = torch.zeros(n_out, n_in), torch.arange(n_out)
    matrix[rows, below] = 1 - share
    matrix[rows, (below + 1).clamp_(max=n_in - 1)] += share
    return matrix


def pixel_targets(masks: Tensor, size: int | tuple[int, int], n_classes: int, ignored: Iterable[int]) -> Tensor:
    """Return classes (B, H, W) int64 of label maps at ``size`` by nearest neighbour (floor rule), `IGNORED` elsewhere.

    Args:
        masks: (B, h, w) integers.
        size: side, or height and width.
        n_classes: labels from here on are ignored too.
        ignored: labels that are not trained on, such as 255.
    """
    labels = resize_labels(masks, size).long()
    dropped = (labels < 0) | (labels >= n_classes)
    for label in ignored:
        dropped |= labels == label
    return labels.masked_fill(dropped, IGNORED)


def add_gradient(head: nn.Conv2d, features: Tensor, target: Tensor, upsample: tuple[Tensor, Tensor]) -> Tensor:
    """Add the gradient of one image's summed cross-entropy to the head's own, and return that sum, a scalar.

    Over the images of a batch, and divided by their valid pixels in the end, sum and gradient are those of the mean
    over all valid pixels of the batch, while the logits of one image only are held. The order of the images fixes
    every bit of the sums; how they were grouped when their features were made does not enter.

    Args:
        head: the classifier.
        features: (D, h, w), no gradient wanted.
        target: (H, W) classes, `IGNORED` where there is none.
        upsample: `bilinear_matrix` of the rows, (H, h), and of the columns, (W, w).
    """
    rows, columns = upsample
    pixels = rows @ class_maps(head, features) @ columns.T  # (C, H, W)
    # as a list of pixels: on a GPU the loss of images (B, C, H, W) is summed in no fixed order
    loss = F.cross_entropy(pixels.flatten(1).T, target.flatten(), ignore_index=IGNORED, reduction="sum")
    loss.backward()
    return loss.detach()


def mean_gradient_step(head: nn.Conv2d, optimiser: torch.optim.Optimizer, n_valid: int) -> None:
    """Divide the gradient gathered by `add_gradient` by the batch's valid pixels, take a step, and forget it.

    A batch without a valid pixel, whose mean the published code makes NaN, has gradient zero.
    """
    for parameter in head.parameters():
        if parameter.grad is not None:
            parameter.grad /= max(n_valid, 1)
    optimiser.step()
    optimiser.zero_grad()
