"""Random changes of training images that a published protocol asks for, drawn from (seed, epoch, image) alone.

An image gets the same draw in every worker, batch order and process, so augmented features can be cached and a killed
run goes on with the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import ColorJitter, InterpolationMode, RandomApply, RandomResizedCrop
from torchvision.transforms import functional as F


@dataclass(frozen=True)
class Augment:
    """Colour jitter and random resized crop as open-hummingbird-eval applies to memory images (transforms.py).

    Brightness, contrast, saturation and hue change by up to 0.1, each with probability 0.5; then a crop of 0.5 to 2
    times the image's area and an aspect of 3/4 to 4/3 is resized: bilinear with antialias on the float image, nearest
    (floor) on the mask. Areas above the image's are drawn again, ten times at most, as torchvision does. No flip.
    """

    seed: int = 0
    epoch: int = 0
    jitter: float = 0.1
    scale: tuple[float, float] = (0.5, 2.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(
        self, image: Image.Image | None, mask: NDArray[np.uint8] | None, size: tuple[int, int], index: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return image (3, H, W) float32 in [0, 1] and mask (H, W) uint8 of one draw; either may be left out."""
        height, width = (image.size[1], image.size[0]) if image is not None else mask.shape  # type: ignore[union-attr]
        state = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(2, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(state[0] >> np.uint64(1)))
            frame = torch.empty(1, height, width)
            top, left, tall, wide = RandomResizedCrop.get_params(frame, list(self.scale), list(self.ratio))
            torch.manual_seed(int(state[1] >> np.uint64(1)))
            pixels = None if image is None else self._jittered(image)
        if pixels is not None:
            crop = pixels[:, top : top + tall, left : left + wide]
            pixels = F.resize(crop, list(size), InterpolationMode.BILINEAR, antialias=True)
        labels = None
        if mask is not None:
            window = torch.from_numpy(np.array(mask[top : top + tall, left : left + wide]))
            labels = F.resize(window[None], list(size), InterpolationMode.NEAREST)[0]
        return pixels, labels

    def _jittered(self, image: Image.Image) -> Tensor:
        for part in ("brightness", "contrast", "saturation", "hue"):
            image = RandomApply([ColorJitter(**{part: self.jitter})], p=0.5)(image)
        return F.to_tensor(image)
