"""Group f: errors of depth maps, depth from bins, and the losses of depth heads.

Source of the vectors: Monocular-Depth-Estimation-Toolbox ``metrics.py`` and ``NYUDataset.eval_mask``; DINOv2
``hub/depth/decode_heads.py`` and ``eval/depth/models/losses``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from densebench.ops.depth import (
    ERRORS,
    ImageMean,
    concat_tokens,
    decode_bins,
    depth_errors,
    eigen_crop,
    finish_depth,
    gradient_loss,
    linear_logits,
    sig_loss,
    uniform_bins,
    valid_depth,
)
from densebench.ops.depth_bins import decode_upsampled
from densebench.verify.golden import Golden, GoldenCheck, GoldenError, GoldenKind


def _order(v: Golden) -> list[int]:
    """Return where our errors stand in the order of the file's ``metric_names``."""
    names = v.texts("metric_names")
    unknown = [name for name in names if name not in ERRORS]
    if unknown:
        raise GoldenError(f"unknown metric {unknown[0]}; known are {', '.join(ERRORS)}")
    return [ERRORS.index(name) for name in names]


def errors_of_images(v: Golden) -> Iterator[GoldenCheck]:
    """Valid pixels inside the crop, errors per image, their mean, and errors of all pixels pooled."""
    order = _order(v)
    target = v["gt_mm"].float() / v.number("depth_scale")
    valid = _valid(v, target)
    yield v.exact("n_valid", valid.sum((1, 2)))
    per_image = [depth_errors(*image) for image in zip(v["pred"], target, valid, strict=True)]
    yield v.close("per_image", torch.stack(per_image)[:, order], 1e-5)
    stream = ImageMean((len(ERRORS),), n_groups=1)
    for image, values in enumerate(per_image):
        stream.update(image, values)
    yield v.close("mean", stream.mean()[order], 1e-5)
    yield v.close("pooled", depth_errors(v["pred"], target, valid)[order], 1e-5)


def _valid(v: Golden, target: Tensor) -> Tensor:
    """Return the pixels (B, H, W) that count: in the open range, and in the crop that the file gives."""
    low, high = v.number("min_depth"), v.number("max_depth")
    top, bottom, left, right = v["eigen_crop"].tolist()
    rows, columns = slice(top, bottom), slice(left, right)
    if (rows, columns) == eigen_crop(target.shape[1], target.shape[2]):
        return valid_depth(target, low, high, eigen=True)
    inside = torch.zeros_like(target, dtype=torch.bool)
    inside[:, rows, columns] = True
    return valid_depth(target, low, high) & inside


def errors_of_pixels(v: Golden) -> Iterator[GoldenCheck]:
    """Errors of two lists of depths."""
    yield v.close("values", depth_errors(v["pred"], v["gt"])[_order(v)], 1e-5)


def bins(v: Golden) -> Iterator[GoldenCheck]:
    """From patch maps and class tokens to logits, to depth, to depth at the size of the image."""
    (spacing,), (norm,) = v.texts("bins"), v.texts("norm")
    if spacing != "UD":
        raise GoldenError(f"bins are spaced {spacing!r}; known is 'UD', uniform in depth")
    x = concat_tokens(list(v["patch_maps"]), list(v["cls_tokens"]))
    upsample = v.integer("upsample")
    logits = linear_logits(x, v["weight"], v["bias"], upsample)
    yield v.close("logits", logits, 1e-4)
    low, high = v.number("min_depth"), v.number("max_depth")
    centres = uniform_bins(v.integer("n_bins"), low, high).to(v.device)
    depth = decode_bins(logits, centres, norm)  # type: ignore[arg-type]
    yield v.close("depth", depth, 1e-4)
    coarse = linear_logits(x, v["weight"], v["bias"])
    yield v.close("depth", decode_upsampled(coarse, centres, norm, upsample), 1e-4, "row by row")  # type: ignore[arg-type]
    height, width = v["out_size"].tolist()
    yield v.close("depth_clamped_resized", finish_depth(depth, low, high, (height, width)), 1e-4)


def losses(v: Golden) -> Iterator[GoldenCheck]:
    """Two losses and their gradients in float64; the gradient loss along batch and channel, as its code has it."""
    pred, target, most = v["pred"].requires_grad_(), v["gt"], v.number("max_depth")
    found = {
        "sigloss": sig_loss(pred, target, most),
        "sigloss_nomax": sig_loss(pred, target),
        "sigloss_warmup": sig_loss(pred, target, most, warm_up=True),
        "gradloss": gradient_loss(pred, target, most, dims=(0, 1)),
    }
    for name, loss in found.items():
        yield v.close(name, loss, 1e-9)
        yield v.close(f"{name}_grad", torch.autograd.grad(loss, pred)[0], 1e-9)


KINDS = (
    GoldenKind(
        "f_depth_metrics",
        "depth errors of images",
        errors_of_images,
        "gt_mm pred depth_scale min_depth max_depth eigen_crop metric_names per_image mean n_valid pooled",
    ),
    GoldenKind("f_depth_metrics_flat", "depth errors", errors_of_pixels, "gt pred metric_names values"),
    GoldenKind(
        "f_bins",
        "depth from bins",
        bins,
        "patch_maps cls_tokens weight bias upsample n_bins min_depth max_depth norm bins logits depth "
        "depth_clamped_resized out_size",
    ),
    GoldenKind(
        "f_depth_losses",
        "depth losses",
        losses,
        "gt pred max_depth sigloss sigloss_grad sigloss_nomax sigloss_nomax_grad sigloss_warmup sigloss_warmup_grad "
        "gradloss gradloss_grad",
    ),
)
