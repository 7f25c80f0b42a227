"""Multi-crop: boxes, resized cuts and colour operations, each determined by seeds alone.

A sample's boxes depend on (seed, epoch, sample), so any number of loader workers gives the same crops. Colour
operations work on a whole batch on its device: brightness, contrast, saturation, hue and greyscale are all affine in
RGB, hence one 3x3 matrix and one offset per crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from densebench.methods.configs.train import CropConfig, Range

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601, as in PIL and torchvision)."""


def no_labels() -> Tensor:
    """Return the label maps of a sample that has none, (0,)."""
    return torch.empty(0, dtype=torch.int32)


@dataclass(frozen=True)
class Crops:
    """The crops of one image (or, stacked by `stack`, of a batch: every tensor gains a leading B)."""

    globals: Tensor  # (G, 3, S, S) uint8
    locals: Tensor  # (L, 3, s, s) uint8
    boxes: Tensor  # (G + L, 4) float32: x1, y1, x2, y2 in pixels of the image, before any flip
    flips: Tensor  # (G + L,) bool: mirrored left to right after the cut
    size: Tensor  # (2,) height and width of the image
    drawn: Tensor  # (2,) boxes drawn in all, and crops for which no draw kept the overlap rules
    labels: Tensor = field(default_factory=no_labels)  # (G, S, S) int32 labels of the global crops' pixels, or (0,)


@dataclass
class CropViews:
    """A batch as a method's loss sees it: V = G + L crops per image, global ones first.

    `globals` and `locals` are float32 in [0, 1] after colour operations, (G, B, 3, S, S) and (L, B, 3, s, s). The
    `clean_` ones are the same cuts without colour operations (a clean teacher).
    """

    globals: Tensor
    locals: Tensor
    clean_globals: Tensor
    clean_locals: Tensor
    boxes: Tensor  # (V, B, 4) pixels
    flips: Tensor  # (V, B)
    sizes: Tensor  # (B, 2)
    labels: Tensor = field(default_factory=no_labels)
    """Labels of the global crops' pixels, (G, B, S, S) int32, where a method's samples have them."""
    progress: float = field(default=0.0)
    """Share of the training that is over, in [0, 1)."""

    def __len__(self) -> int:
        return self.globals.shape[1]


def generator(*key: int) -> np.random.Generator:
    """Return a generator that depends on all of `key` (seed, epoch, sample, ...) and on nothing else."""
    return np.random.default_rng([*key])


def draw_boxes(
    rng: np.random.Generator, size: tuple[int, int], n: int, scale: Range, ratio: Range, tries: int = 10
) -> NDArray[np.float32]:
    """Return `n` random crop boxes (n, 4) as x1, y1, x2, y2 in whole pixels inside an image of (height, width).

    Area is uniform in `scale` (share of the image), aspect log-uniform in `ratio`; a draw that does not fit is drawn
    again up to `tries` times, the last is cut to fit: the rule of torchvision's RandomResizedCrop.
    """
    height, width = size
    area = rng.uniform(*scale, (n, tries)) * height * width
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (n, tries)))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w <= width) & (h <= height)
    first = np.where(fits.any(1), fits.argmax(1), tries - 1)
    rows = np.arange(n)
    w, h = np.clip(w[rows, first], 1, width), np.clip(h[rows, first], 1, height)
    x = np.floor(rng.random(n) * (width - w + 1))
    y = np.floor(rng.random(n) * (height - h + 1))
    return np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)


def cut(image: Tensor, boxes: NDArray[np.float32], flips: NDArray[np.bool_], size: int) -> Tensor:
    """Cut boxes from an image (3, H, W) uint8 and resize each to (n, 3, size, size), bilinear with antialiasing."""
    if not len(boxes):
        return image.new_empty((0, 3, size, size))
    cuts = []
    for (x1, y1, x2, y2), flip in zip(boxes.astype(int).tolist(), flips.tolist(), strict=True):
        piece = image[None, :, y1:y2, x1:x2]
        piece = F.interpolate(piece, size=(size, size), mode="bilinear", antialias=True)
        cuts.append(piece.flip(-1) if flip else piece)
    return torch.cat(cuts)


def draw_crops(
    rng: np.random.Generator, size: tuple[int, int], config: CropConfig
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return boxes (G + L, 4) that keep the overlap rules, and (boxes drawn, crops where no draw kept them).

    Rejection, a crop at a time: each is compared with the global crops before it. Of `config.draws` boxes the first
    that keeps the rules counts, or else the one that comes nearest; where none has anything in common with the global
    crops, the first of these is repeated.
    """
    area = size[0] * size[1]
    chosen: list[NDArray[np.float32]] = []
    drawn = missed = 0
    for i in range(config.global_crops + config.local_crops):
        wide = i < config.global_crops
        scale = config.global_scale if wide else config.local_scale
        shared = config.min_shared * (2 if wide else 1)
        inside = 0.0 if wide else config.min_intersection
        earlier = np.array(chosen[: config.global_crops]).reshape(-1, 4)
        bound = bool(len(earlier)) and (shared > 0 or inside > 0)
        boxes = draw_boxes(rng, size, config.draws if bound else 1, scale, config.ratio)
        common = overlaps(boxes, earlier)  # (draws, earlier)
        own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        wanted = np.maximum(np.maximum(shared * area, inside * own), 1e-6)[:, None]
        kept = ((common + 1e-6) / wanted).min(1, initial=1.0)  # 1 where all rules are kept
        best = int(kept.argmax())  # the first of those that keep them
        apart = bool((common[best] <= 0).any())
        chosen.append(earlier[0] if bound and apart else boxes[best])
        drawn += best + 1 if kept[best] >= 1 else len(boxes)
        missed += int(kept[best] < 1)
    return np.stack(chosen), (drawn, missed)


def overlaps(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the area (n, m) in pixels that boxes (n, 4) have in common with others (m, 4)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)


def crop(image: Tensor, config: CropConfig, rng: np.random.Generator) -> Crops:
    """Draw and cut all crops of one image (3, H, W) uint8."""
    size = (image.shape[1], image.shape[2])
    boxes, drawn = draw_crops(rng, size, config)
    flips = rng.random(len(boxes)) < config.flip
    wide = slice(0, config.global_crops)
    near = slice(config.global_crops, None)
    return Crops(
        cut(image, boxes[wide], flips[wide], config.global_size),
        cut(image, boxes[near], flips[near], config.local_size),
        torch.from_numpy(boxes),
        torch.from_numpy(flips),
        torch.tensor(size),
        torch.tensor(drawn),
    )


def stack(samples: Sequence[Crops]) -> Crops:
    """Return a batch of crops: every tensor with a leading B."""
    return Crops(*(torch.stack([getattr(s, f.name) for s in samples]) for f in fields(Crops)))


def make_views(batch: Crops, config: CropConfig, key: Sequence[int], device: torch.device) -> CropViews:
    """Move a batch to `device` and apply the colour operations drawn from `key` = (seed, step, ...)."""
    rng = generator(*key)
    clean = [
        crops.to(device, non_blocking=True).transpose(0, 1).float().div_(255)  # (V, B, 3, S, S)
        for crops in (batch.globals, batch.locals)
    ]
    colored = [color(pixels.flatten(0, 1), config, rng).view(pixels.shape) for pixels in clean]
    return CropViews(
        globals=colored[0],
        locals=colored[1],
        clean_globals=clean[0],
        clean_locals=clean[1],
        boxes=batch.boxes.transpose(0, 1).to(device),
        flips=batch.flips.transpose(0, 1).to(device),
        sizes=batch.size.to(device),
        labels=batch.labels.transpose(0, 1).to(device),
    )


def color(pixels: Tensor, config: CropConfig, rng: np.random.Generator) -> Tensor:
    """Return crops (N, 3, S, S) in [0, 1] after jitter, greyscale, blur and solarisation, each with its chance."""
    n = len(pixels)
    if not n:
        return pixels
    matrix, contrast = draw_jitter(rng, n, config)
    out = mix_channels(pixels, matrix.to(pixels.device), contrast.to(pixels.device))
    chosen = np.flatnonzero(rng.random(n) < config.blur)
    sigma = rng.uniform(*config.blur_sigma, len(chosen))
    if len(chosen):
        where = torch.from_numpy(chosen).to(out.device)
        out[where] = blur(out[where], torch.from_numpy(sigma).to(out.device, out.dtype))
    chosen = np.flatnonzero(rng.random(n) < config.solarise)
    if len(chosen):
        where = torch.from_numpy(chosen).to(out.device)
        part = out[where]
        out[where] = torch.where(part >= 0.5, 1 - part, part)
    return out


def draw_jitter(rng: np.random.Generator, n: int, config: CropConfig) -> tuple[Tensor, Tensor]:
    """Return colour matrices (n, 3, 3) and contrast factors (n,) for `n` crops.

    Factors are never below 0. Brightness, saturation and hue are in the matrix; contrast needs the crop's mean.
    """
    brightness, contrast, saturation, hue = config.jitter_range
    on = rng.random(n) < config.jitter
    factors = [np.where(on, rng.uniform(max(0, 1 - r), 1 + r, n), 1) for r in (brightness, contrast, saturation)]
    angle = np.where(on, rng.uniform(-hue, hue, n), 0) * 2 * math.pi
    chroma = np.where(rng.random(n) < config.grayscale, 0, factors[2])
    # Hue and saturation turn and scale the plane of chroma, (I, Q) of YIQ, and leave luma alone.
    to_yiq = np.array([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
    turn = np.zeros((n, 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = chroma * np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -chroma * np.sin(angle), chroma * np.sin(angle)
    matrix = np.linalg.inv(to_yiq) @ turn @ to_yiq * factors[0][:, None, None]
    return torch.from_numpy(matrix).float(), torch.from_numpy(factors[1]).float()


def mix_channels(pixels: Tensor, matrix: Tensor, contrast: Tensor) -> Tensor:
    """Apply colour matrices, then contrast around the crop's mean grey; (N, 3, S, S) clipped to [0, 1]."""
    grey = pixels.mean((2, 3)).unsqueeze(1) @ matrix.transpose(1, 2) @ matrix.new_tensor(LUMA).view(3, 1)  # (N, 1, 1)
    offset = ((1 - contrast).view(-1, 1, 1) * grey).expand(-1, 3, 1)
    mixed = torch.baddbmm(offset, contrast.view(-1, 1, 1) * matrix, pixels.flatten(2))
    return mixed.clamp_(0, 1).view(pixels.shape)


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blur each crop (N, 3, S, S) with its own Gaussian `sigma` (N,) in pixels; cut at 3 sigma, at most 4 pixels."""
    radius = min(4, max(1, math.ceil(3 * float(sigma.max()))), pixels.shape[-1] - 1)
    offsets = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).t()[:, :, None, None, None]  # (2r + 1, N, 1, 1, 1)
    for axis in (2, 3):
        side = pixels.shape[axis]
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = F.pad(pixels, pad, mode="reflect")
        pixels = kernel[0] * padded.narrow(axis, 0, side)
        for i in range(1, 2 * radius + 1):
            pixels.addcmul_(kernel[i].expand_as(pixels), padded.narrow(axis, i, side))
    return pixels
