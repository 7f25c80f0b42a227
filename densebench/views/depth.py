"""Training views for monocular depth: image and depth cut, turned, mirrored and recoloured together.

MDE is the Monocular-Depth-Estimation-Toolbox, whose pipeline for NYU everyone uses (`configs/_base_/datasets/nyu.py`).
A view depends on (seed, epoch, image) alone, so any number of workers draws the same ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from densebench.core.errors import DatasetError, DensebenchError
from densebench.datasets.dataset import DenseDataset, check_same_size
from densebench.ops.depth import border_crop
from densebench.views.order import Key

ROTATION = 2.5
GAMMA, BRIGHTNESS, COLOR = (0.9, 1.1), (0.75, 1.25), (0.9, 1.1)
"""Augmentation of MDE, each with probability 0.5: degrees, and factors."""


class DepthViews(Dataset[Any]):
    """Images and depth by (epoch, image), augmented, or by image, as they are.

    Args:
        data: a dataset with depth.
        crop: height and width of augmented views.
        seed: of the draws, with epoch and image.
        frame_off: cut NYU's white frame off first.
        augment: rotation, flip, random crop and colour as MDE; without it, the central crop.

    A view is (image index, image (3, H, W) float32 in [0, 1], depth (H, W) in metres), or the error met on the way:
    errors travel as values, so that workers end quietly.
    """

    def __init__(
        self, data: DenseDataset, crop: tuple[int, int], seed: int, *, frame_off: bool = False, augment: bool = True
    ) -> None:
        self.data, self.crop, self.seed = data, crop, seed
        self.frame_off, self.augment = frame_off, augment

    def __getitem__(self, key: Key | int) -> Any:
        try:
            epoch, index = key if isinstance(key, tuple) else (None, key)
            image, depth = self._read(index)
            if epoch is not None:
                rng = np.random.default_rng((self.seed, epoch, index))
                image, depth = self._augmented(image, depth, rng, self.data.ids[index])
            pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)
            return index, pixels, torch.from_numpy(np.array(depth))
        except DensebenchError as error:
            return error

    def _read(self, index: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        image, depth = self.data.image(index), self.data.depth(index)
        check_same_size(self.data, index, image, depth, "depth")
        return np.asarray(image), depth

    def _augmented(
        self, image: NDArray[Any], depth: NDArray[np.float32], rng: np.random.Generator, name: str
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return one training view: frame off, rotated, mirrored, cropped, recoloured, in MDE's order."""
        if self.frame_off:
            window = border_crop(*depth.shape)
            image, depth = image[window], depth[window]
        height, width = self.crop
        if depth.shape[0] < height or depth.shape[1] < width:
            raise DatasetError(
                f"{self.data.info.name} image {name} has {depth.shape[1]}x{depth.shape[0]} px to train on, less than "
                f"the crop of {width}x{height}. Set depth.crop='[HEIGHT, WIDTH]' to at most the smallest image."
            )
        turn, flip, recolor = (rng.random(3) < 0.5) & self.augment
        angle = rng.uniform(-ROTATION, ROTATION)
        if turn:
            image = np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))
            depth = np.asarray(Image.fromarray(depth).rotate(angle, Image.Resampling.NEAREST))
        if flip:
            image, depth = image[:, ::-1], depth[:, ::-1]
        spare = depth.shape[0] - height, depth.shape[1] - width
        top, left = rng.integers(0, spare, endpoint=True) if self.augment else (spare[0] // 2, spare[1] // 2)
        image, depth = (x[top : top + height, left : left + width] for x in (image, depth))
        if recolor:
            gamma, bright = rng.uniform(*GAMMA), rng.uniform(*BRIGHTNESS)
            factors = (bright * rng.uniform(*COLOR, 3)).astype(np.float32)
            # the power is of values in 0..255, as published: it brightens or darkens by up to 255^0.1
            image = np.clip(image.astype(np.float32) ** np.float32(gamma) * factors, 0, 255)
        return image, depth
