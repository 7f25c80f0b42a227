"""Training views of images with masks: cut, resized and mirrored together, drawn from (seed, epoch, image) alone.

Source: NeCo and Leopart `src/linear_finetuning_transforms.py`, which apply torchvision's operations to PIL images.
Any number of workers and any batch size draws the same views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop

from densebench.core.errors import DensebenchError
from densebench.datasets.dataset import DenseDataset, check_same_size
from densebench.views.augment import Augment
from densebench.views.order import Key


@dataclass(frozen=True, kw_only=True)
class SegmentationViews(Dataset[Any]):
    """Random resized crops of images and masks by (epoch, image).

    A view is (image index, image (3, H, W) uint8, mask (H, W) uint8), or the error met on the way: errors travel as
    values, so that workers end quietly.
    """

    data: DenseDataset
    size: tuple[int, int]
    """Height and width of a view in pixels."""
    scale: tuple[float, float] = (0.8, 1.0)
    """Share of the image's area that is cut out; torchvision draws boxes that do not fit again, ten times at most."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of what is cut out."""
    flip: float = 0.5
    """Chance of the mirror image."""
    seed: int = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> Any:
        epoch, index = key
        try:
            image, mask = read_pair(self.data, index)
        except DensebenchError as error:
            return error
        window, mirrored = self.draw(epoch, index, image.size[::-1])
        return index, *resized(image, mask, window, self.size, mirrored)

    def draw(self, epoch: int, index: int, size: tuple[int, int]) -> tuple[tuple[int, int, int, int], bool]:
        """Return (top, left, height, width) of the cut in an image of this height and width, and whether to mirror."""
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(state[0] >> np.uint64(1)))
            frame = torch.empty(1, *size)
            window = RandomResizedCrop.get_params(frame, list(self.scale), list(self.ratio))
            return window, bool(torch.rand(1) < self.flip)  # as torchvision: the crop first, then the mirror


@dataclass(frozen=True)
class Mirror(Augment):
    """Squash the whole image and mirror it: a request whose features can be cached. Nothing is drawn."""

    mirror: bool = True
    """Tells its cached features from those of other requests."""

    def __call__(
        self, image: Image.Image | None, mask: NDArray[np.uint8] | None, size: tuple[int, int], index: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return image (3, H, W) and mask (H, W), uint8; either may be left out."""
        width_height = size[::-1]
        pixels = labels = None
        if image is not None:
            mirrored = np.asarray(image.resize(width_height, Image.Resampling.BILINEAR))[:, ::-1]
            pixels = torch.from_numpy(mirrored.copy()).permute(2, 0, 1)
        if mask is not None:
            resized_mask = np.asarray(Image.fromarray(mask).resize(width_height, Image.Resampling.NEAREST))
            labels = torch.from_numpy(resized_mask[:, ::-1].copy())
        return pixels, labels


def read_pair(data: DenseDataset, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Return image and mask (H, W); raises DatasetError where their sizes differ."""
    image, mask = data.image(index), data.mask(index)
    check_same_size(data, index, image, mask, "mask")
    return image, mask


def resized(
    image: Image.Image,
    mask: NDArray[np.uint8],
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    mirrored: bool,
) -> tuple[Tensor, Tensor]:
    """Return image (3, H, W) and mask (H, W), uint8, of the window (top, left, height, width) at ``size``.

    Both are cropped first and resized then, by PIL: the image bilinearly with antialias, the mask to the nearest pixel
    (centre rule).
    """
    top, left, height, width = window
    box = (left, top, left + width, top + height)
    wide_high = size[::-1]
    pixels = np.asarray(image.crop(box).resize(wide_high, Image.Resampling.BILINEAR))
    labels = np.asarray(Image.fromarray(mask).crop(box).resize(wide_high, Image.Resampling.NEAREST))
    if mirrored:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1), torch.from_numpy(labels.copy())
