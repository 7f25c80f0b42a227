"""Monocular depth: from bins to metres, the losses that heads are trained with, and the errors that are reported.

Sources, by the names used below: DINOv2 is dinov2 ``hub/depth`` and ``eval/depth/models/losses``, DINOv3 is dinov3
``eval/depth``, MDE is the Monocular-Depth-Estimation-Toolbox (``core/evaluation/metrics.py``, ``datasets/nyu.py``),
DIP is ``hummingbird/src/hbird_eval.py``. Depth is in metres; 0 in ground truth is a pixel without a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from densebench.ops.choices import BinNorm as BinNorm
from densebench.ops.choices import Schedule as Schedule
from densebench.ops.jackknife import GROUPS, GroupSums
from densebench.ops.resize import resize_maps

LINEAR_FLOOR = 0.1
"""Added to every rectified logit, so that no weight is zero; it pulls depth towards the middle of the range
(DINOv2)."""
LOG_FLOOR = 1e-3
"""Metres added before every logarithm of a loss (DINOv2)."""
MEAN_SHARE = 0.15
"""Weight of the squared mean log error beside its variance (DINOv2 SigLoss)."""

ERRORS = ("a1", "a2", "a3", "abs_rel", "rmse", "log_10", "rmse_log", "silog", "sq_rel")
"""What `depth_errors` returns, in MDE's order and by its names."""


def uniform_bins(n: int, min_depth: float, max_depth: float) -> Tensor:
    """Return n equally spaced depths (n,) float32 in metres, both ends included (DINOv2 "UD").

    Raises:
        ValueError: fewer than two bins, or an empty range.
    """
    if n < 2 or not min_depth < max_depth:
        raise ValueError(f"expected at least 2 bins over a range, got {n} over {min_depth}..{max_depth} m")
    return torch.linspace(min_depth, max_depth, n)


def concat_tokens(maps: Sequence[Tensor], class_tokens: Sequence[Tensor] = ()) -> Tensor:
    """Return the channels that a linear head reads, (B, C, h, w): layer by layer the patches, then the class token.

    Args:
        maps: (B, D, h, w) per layer, all of one grid.
        class_tokens: (B, D) per layer, spread over all positions; empty leaves them out.
    """
    if not class_tokens:
        return torch.cat(list(maps), dim=1)
    parts = []
    for patches, token in zip(maps, class_tokens, strict=True):
        parts += [patches, token[:, :, None, None].expand_as(patches)]
    return torch.cat(parts, dim=1)


def linear_logits(x: Tensor, weight: Tensor, bias: Tensor, upsample: int = 1) -> Tensor:
    """Return the logits (B, K, upsample * h, upsample * w) of a 1x1 convolution on upsampled maps (B, C, h, w).

    The published head upsamples bilinearly, then convolves. Bilinear weights sum to 1, so the two may trade places:
    here the convolution goes first, which costs upsample^2 times less and differs by rounding alone.

    Args:
        x: (B, C, h, w), see :func:`concat_tokens`.
        weight: (K, C).
        bias: (K,).
        upsample: whole factor; 4 in DINOv2, 1 in DINOv3.
    """
    logits = torch.einsum("bchw,kc->bkhw", x, weight) + bias[:, None, None]
    return logits if upsample == 1 else resize_maps(logits, (upsample * x.shape[2], upsample * x.shape[3]))


def decode_bins(logits: Tensor, centres: Tensor, norm: BinNorm = "linear") -> Tensor:
    """Return depth (B, 1, h, w) in metres: the mean of the bins' depths, weighted by the logits (B, K, h, w).

    Args:
        logits: one per bin.
        centres: (K,) depths of the bins.
        norm: see :data:`BinNorm`; "linear" is AdaBins' and the default of DINOv2 and DINOv3.

    Raises:
        ValueError: another norm, or another number of bins.
    """
    if logits.shape[1] != len(centres):
        raise ValueError(f"{logits.shape[1]} logits for {len(centres)} bins")
    if norm == "linear":
        weights, floor = torch.relu(logits), LINEAR_FLOOR
    elif norm == "softmax":
        weights, floor = torch.softmax(logits, dim=1), 0.0
    elif norm == "sigmoid":
        weights, floor = torch.sigmoid(logits), 0.0
    else:
        raise ValueError(f"norm is 'linear', 'softmax' or 'sigmoid', got {norm!r}")
    # sums of w * depth and of w in one product; the floor enters them as a constant, not once per pixel
    both = torch.stack([centres, torch.ones_like(centres)])
    sums = (both @ weights.flatten(2)).unflatten(2, logits.shape[2:]) + floor * both.sum(1)[:, None, None]
    return sums[:, :1] / sums[:, 1:]


def finish_depth(depth: Tensor, min_depth: float, max_depth: float, size: tuple[int, int]) -> Tensor:
    """Return depth (B, 1, H, W): clamped to the range, then bilinear to ``size`` (DINOv2 ``encode_decode``)."""
    return resize_maps(depth.clamp(min_depth, max_depth), size)


def sig_loss(pred: Tensor, target: Tensor, max_depth: float | None = None, warm_up: bool = False) -> Tensor:
    """Return the scale-invariant log loss, a scalar >= 0: sqrt(var(g) + 0.15 mean(g)^2) with g = log pred - log target.

    Args:
        pred: metres > 0, any shape.
        target: the same shape; pixels without measurement (0) or beyond ``max_depth`` are left out.
        max_depth: None keeps all measured pixels.
        warm_up: leave the variance out, as DINOv2 and DINOv3 do in the first 100 steps.

    Without two valid pixels the loss is 0 (the reference is NaN there).
    """
    valid = target > 0 if max_depth is None else (target > 0) & (target <= max_depth)
    if int(valid.sum()) < 2:
        return (pred * 0).sum()
    g = torch.log(pred[valid] + LOG_FLOOR) - torch.log(target[valid] + LOG_FLOOR)
    square = MEAN_SHARE * g.mean().square()
    square = square if warm_up else square + g.var()
    # the root has no slope at 0, where nothing is left to learn (DINOv3 returns the square itself there)
    return square.sqrt() if float(square.detach()) > 0 else square


def gradient_loss(
    pred: Tensor, target: Tensor, max_depth: float | None = None, dims: tuple[int, int] = (-2, -1)
) -> Tensor:
    """Return how far differences of log depth between pixels two apart are off, summed over four scales, >= 0.

    Args:
        pred: metres > 0, (B, 1, H, W).
        target: the same shape, 0 = not measured.
        max_depth: None keeps all measured pixels.
        dims: the two dimensions that differences are taken along. (-2, -1) are the image's, as in DINOv3. DINOv2's code
            indexes (0, 1), batch and channel, which makes the loss exactly 0 for its two images per GPU.
    """
    valid = target > 0 if max_depth is None else (target > 0) & (target <= max_depth)
    error = (torch.log(pred + LOG_FLOOR) - torch.log(target + LOG_FLOOR)) * valid
    total = (error * 0).sum()  # stays on the graph where no pair of pixels is left
    for step in (1, 2, 4, 6):
        e, v = (_every(_every(t, dims[0], step), dims[1], step) for t in (error, valid))
        if min(e.shape) == 0:
            continue
        apart = [_difference(e, v, dim) for dim in dims]
        total = total + (apart[0] + apart[1]) / v.sum().clamp(min=1)
    return total


def _every(x: Tensor, dim: int, step: int) -> Tensor:
    """Return every step-th slice of one dimension."""
    return x.index_select(dim, torch.arange(0, x.shape[dim], step, device=x.device)) if step > 1 else x


def _difference(error: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Return the sum of |error differences| over pairs two apart along ``dim``, both valid."""
    n = error.shape[dim] - 2
    if n <= 0:
        return error.new_zeros(())
    pair = valid.narrow(dim, 0, n) & valid.narrow(dim, 2, n)
    return ((error.narrow(dim, 0, n) - error.narrow(dim, 2, n)).abs() * pair).sum()


def rate_and_beta(step: int, steps: int, schedule: Schedule = "cosine", warmup: float = 1 / 3) -> tuple[float, float]:
    """Return the share of the learning rate and AdamW's first beta at a step, counted from 0.

    Args:
        step: in [0, steps).
        steps: of the whole training.
        schedule: "cosine" is mmcv's cosine to 1e-8 times a linear warm-up from 1e-3, beta between 0.95 and 0.85 with
            its turn at 0.3 of the steps (Denoising-ViT ``vitb_nyu_linear_config.py``). "one_cycle" is DINOv3's
            WarmupOneCycleLR, which sets beta to 0 in the warm-up.
        warmup: share of the steps.
    """
    warm = round(warmup * steps)
    if schedule == "one_cycle":
        if step < warm:
            return 1e-3 + _anneal(1.0, 0.0, step / steps) * step / warm, 0.0
        beta = _anneal(0.85, 0.95, (step - warm) / max(1, steps - warm))
        return _anneal(1.0, 1 / 25_000, (step + 1) / steps), beta
    rate = _anneal(1.0, 1e-8, step / steps)
    if step < warm:
        rate *= 1 - (1 - step / warm) * (1 - 1e-3)
    turn = 0.3 * steps - 1
    if step < turn:
        return rate, _anneal(0.95, 0.85, step / turn)
    return rate, _anneal(0.85, 0.95, min(1.0, (step - turn) / max(1.0, steps - 1 - turn)))


def _anneal(start: float, end: float, share: float) -> float:
    """Return the value of a half cosine from ``start`` (share 0) to ``end`` (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def centre_pad(images: Tensor, patch: int, color: Sequence[float]) -> Tensor:
    """Return images (B, 3, H, W) padded to multiples of the patch, an odd pixel to the right and below (DINOv2,
    DINOv3).

    The published code pads with 0 after normalisation, which is the weights' mean ``colour`` before it.
    """
    height, width = images.shape[-2:]
    more = [-side % patch for side in (height, width)]
    if not any(more):
        return images
    fill = images.new_tensor(tuple(color)).view(1, 3, 1, 1)
    padded = fill.expand(len(images), 3, height + more[0], width + more[1]).clone()
    top, left = more[0] // 2, more[1] // 2
    padded[..., top : top + height, left : left + width] = images
    return padded


def eigen_crop(height: int, width: int) -> tuple[slice, slice]:
    """Return rows and columns that NYU is evaluated on: 45:471 and 41:601 of 480x640 (MDE), scaled as in DINOv3."""
    return _scaled(height, 45, 471, 480), _scaled(width, 41, 601, 640)


def border_crop(height: int, width: int) -> tuple[slice, slice]:
    """Return rows and columns of NYU without the white frame: 45:472 and 43:608 of 480x640 (MDE NYUCrop)."""
    return _scaled(height, 45, 472, 480), _scaled(width, 43, 608, 640)


def _scaled(length: int, start: int, stop: int, of: int) -> slice:
    return slice(int(start / of * length), int(stop / of * length))


def valid_depth(target: Tensor, min_depth: float, max_depth: float, eigen: bool = False) -> Tensor:
    """Return which pixels of depth maps (..., H, W) are evaluated: inside the open range, and in the Eigen crop."""
    valid = (target > min_depth) & (target < max_depth)
    if eigen:
        inside = torch.zeros_like(valid)
        inside[(..., *eigen_crop(*target.shape[-2:]))] = True
        valid &= inside
    return valid


def depth_errors(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the nine errors of :data:`ERRORS` for one image, (9,) float64; NaN for an image without valid pixel.

    a1 to a3 are shares of pixels with max(pred / target, target / pred) below 1.25, 1.25^2 and 1.25^3; abs_rel is the
    mean of |error| / target; rmse in metres; log_10 the mean of |log10 pred - log10 target|; rmse_log its natural,
    squared sister; silog 100 times the deviation of the log error; sq_rel the mean of error^2 / target. Source: MDE
    ``metrics.py:calculate``.

    Args:
        pred: metres > 0, any shape.
        target: metres > 0 where valid, the same shape.
        valid: which pixels count; None: all.

    Raises:
        ValueError: the shapes differ.
    """
    if pred.shape != target.shape:
        raise ValueError(f"prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
    if valid is not None:
        pred, target = pred[valid], target[valid]
    if not target.numel():
        return torch.full((len(ERRORS),), math.nan, dtype=torch.float64)
    p, t = pred.double().flatten(), target.double().flatten()
    ratio = torch.maximum(p / t, t / p)
    error, log_error = p - t, p.log() - t.log()
    spread = (log_error.square().mean() - log_error.mean().square()).clamp(min=0)
    return torch.stack(
        [
            *((ratio < 1.25**i).double().mean() for i in (1, 2, 3)),
            (error.abs() / t).mean(),
            error.square().mean().sqrt(),
            (log_error.abs() / math.log(10)).mean(),
            log_error.square().mean().sqrt(),
            100 * spread.sqrt(),
            (error.square() / t).mean(),
        ]
    ).cpu()


class ImageMean:
    """Streams values per image into their mean over images, apart by groups of images; NaN values do not count.

    This is how depth is reported: errors are computed per image and averaged over images (MDE ``nanmean``), not
    pooled over pixels. Memory does not depend on the number of images.

    Args:
        shape: of one image's values.
        n_groups: of images, see `ops/jackknife.py`.
    """

    def __init__(self, shape: tuple[int, ...], n_groups: int = GROUPS) -> None:
        self._sums = GroupSums((2, *shape), n_groups, dtype=torch.float64)

    def update(self, image: int, values: Tensor) -> None:
        """Add the values of image number ``image`` (its stable index in the data set)."""
        known = ~values.isnan()
        self._sums.update(image, torch.stack([values.nan_to_num().double(), known.double()]))

    def mean(self) -> Tensor:
        """Return the means over images, float64; NaN where no image has a value."""
        total = self._sums.total()
        return total[0] / total[1]

    def left_out(self) -> Tensor:
        """Return (G, *shape): the means without each group of images in turn."""
        rest = self._sums.left_out()
        return rest[:, 0] / rest[:, 1]


def unpatchify(values: Tensor, patch: int) -> Tensor:
    """Return maps (B, h * patch, w * patch) of the pixels of each patch (B, h, w, patch * patch), row-major.

    The inverse of :func:`densebench.ops.sampling.patchify_labels`. DIP's code leaves this step out and upsamples the
    patch * patch channels as if they were classes.
    """
    n, h, w, _ = values.shape
    return values.unflatten(3, (patch, patch)).transpose(2, 3).reshape(n, h * patch, w * patch)


def histogram_bins(depth: Tensor, n_bins: int = 255) -> Tensor:
    """Return the histogram bin of each depth, int64 in 0..n_bins, between the least and greatest depth of the batch.

    Bins are equally wide; the greatest depth falls into an extra one, so there are n_bins + 1 ids. DIP samples the
    patches of its depth memory by these ids, as if they were classes.
    """
    low, high = torch.aminmax(depth)
    edges = torch.linspace(float(low), float(high), n_bins + 1, device=depth.device)
    return torch.bucketize(depth, edges, right=True) - 1
