"""Views of images with masks as mmsegmentation makes them for crops of one size and windows at test time.

MMSEG is mmsegmentation 1.x (`mmseg/datasets/transforms/transforms.py`; pipeline of `configs/_base_/datasets/
pascal_voc12_aug.py` and `ade20k.py`, the same in CrIBo `segmentation/configs`), mmcv its base library. A training view
depends on (seed, epoch, image) alone. OpenCV's bilinear resizing has no antialias, and neither has ours; hues turn in
PIL's 256 steps where OpenCV has 180.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from densebench.core.errors import DensebenchError
from densebench.datasets.dataset import VOID, DenseDataset
from densebench.ops.resize import resize_labels
from densebench.views.order import Key
from densebench.views.segmentation import read_pair

LONG = 4
"""The longer side is at most so many times the crop (MMSEG: scale 2048x512)."""
TRIES = 10
"""Crops that are drawn until no class has more than its share."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18
"""`PhotoMetricDistortion`: of 255, factors, and of 180; each with probability 0.5."""


@dataclass(frozen=True, kw_only=True)
class MmsegViews(Dataset[Any]):
    """Training crops by (epoch, image), whole images by image.

    A view is (image index, image (3, H, W) uint8, mask (H, W) uint8), or the error met on the way: errors travel as
    values. Training crops are `crop` pixels high and wide; whole images are resized until their shorter side has `crop`
    pixels (the longer at most four times as many), their masks stay as they are.
    """

    data: DenseDataset
    crop: int
    ratio: tuple[float, float] = (0.5, 2.0)
    """Of the size at which whole images are shown."""
    largest_class: float = 0.75
    """Crops in which a class has as large a share of the labelled pixels, or is alone, are drawn again; 1 takes any."""
    flip: float = 0.5
    seed: int = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key | int) -> Any:
        index = key[1] if isinstance(key, tuple) else key
        try:
            image, labels = read_pair(self.data, index)
        except DensebenchError as error:
            return error
        pixels, mask = torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(np.array(labels))
        if not isinstance(key, tuple):
            return index, self._scaled(pixels, 1.0), mask
        return index, *self._drawn(pixels, mask, np.random.default_rng((self.seed, *key)))

    def size(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        """Return height and width that an image of this size is resized to, its aspect kept (mmcv `rescale_size`)."""
        short, long = int(self.crop * ratio), int(LONG * self.crop * ratio)
        factor = min(long / max(height, width), short / min(height, width))
        return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)

    def _scaled(self, pixels: Tensor, ratio: float) -> Tensor:
        size = self.size(pixels.shape[1], pixels.shape[2], ratio)
        return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]

    def _drawn(self, pixels: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return one training view: resized, cropped, mirrored, recoloured, padded, in MMSEG's order."""
        ratio = rng.uniform(*self.ratio)
        pixels = self._scaled(pixels, ratio)
        mask = resize_labels(mask, (pixels.shape[1], pixels.shape[2]))
        rows, columns = self._window(mask, rng)
        pixels, mask = pixels[:, rows, columns], mask[rows, columns]
        if rng.random() < self.flip:
            pixels, mask = pixels.flip(-1), mask.flip(-1)
        pixels = torch.from_numpy(distorted(pixels.permute(1, 2, 0).numpy(), rng)).permute(2, 0, 1)
        missing = (0, self.crop - mask.shape[1], 0, self.crop - mask.shape[0])  # right and below
        return F.pad(pixels, missing, value=0), F.pad(mask, missing, value=VOID)

    def _window(self, mask: Tensor, rng: np.random.Generator) -> tuple[slice, slice]:
        """Return rows and columns of a crop, drawn again while one class fills it, ten times at most."""
        spare = [max(side - self.crop, 0) for side in mask.shape]
        for _ in range(TRIES + 1):
            top, left = rng.integers(0, spare, endpoint=True).tolist()
            window = slice(top, top + self.crop), slice(left, left + self.crop)
            counts = torch.bincount(mask[window].flatten(), minlength=256)[:VOID]
            various = (counts > 0).sum() > 1 and counts.max() < self.largest_class * counts.sum()
            if various or self.largest_class >= 1:
                break
        return window


def distorted(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) with other brightness, contrast, saturation and hue (`PhotoMetricDistortion`)."""

    def changed(values: NDArray[np.uint8], factor: float = 1.0, more: float = 0.0) -> NDArray[np.uint8]:
        return np.clip(values.astype(np.float32) * np.float32(factor) + np.float32(more), 0, 255).astype(np.uint8)

    brighter, contrasted, contrast_first, saturated, turned = rng.random(5) < 0.5
    contrast = rng.uniform(*CONTRAST)
    if brighter:
        image = changed(image, more=rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    if contrasted and contrast_first:
        image = changed(image, contrast)
    if saturated or turned:
        hsv = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
        if saturated:
            hsv[..., 1] = changed(hsv[..., 1], rng.uniform(*SATURATION))
        if turned:
            hsv[..., 0] += np.uint8(round(rng.integers(-HUE, HUE) * 256 / 180) % 256)  # uint8 wraps around
        image = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    if contrasted and not contrast_first:
        image = changed(image, contrast)
    return np.ascontiguousarray(image)
