"""Images squashed to one size, as a feature pass reads them, and masks at the evaluation's resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from densebench.core.errors import DensebenchError
from densebench.core.resampling import RESAMPLING
from densebench.datasets.dataset import DenseDataset, check_same_size
from densebench.ops.resize import nearest_index
from densebench.views.augment import Augment

LabelRule = Literal["floor", "centre"]


@dataclass(frozen=True)
class Labels:
    """How masks are brought to the evaluation's resolution: nearest, never anything else."""

    size: tuple[int, int] | None = None
    """Height and width; None keeps each mask's own size (then batches hold one image)."""
    rule: LabelRule = "floor"
    """"floor": source index floor(i * in / out), as torch resizes tensors. "centre": floor((i + 0.5) * in / out), as
    PIL resizes files. The two differ by up to a pixel, and published code uses both."""


class Squashed(Dataset[Any]):
    """Decodes one image and its mask, resized as asked; errors travel as values so that workers end quietly."""

    def __init__(
        self,
        data: DenseDataset,
        size: tuple[int, int] | None,
        interpolation: str = "bilinear",
        labels: Labels | None = None,
        augment: Augment | None = None,
    ) -> None:
        """Read images at `size`, height and width in pixels, None for none, and masks where `labels` says how."""
        self.data, self.size, self.interpolation, self.labels, self.augment = data, size, interpolation, labels, augment

    def __getitem__(self, index: int) -> Any:
        try:
            return index, *self._read(index)
        except DensebenchError as error:
            return error

    def _read(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        size, labels = self.size, self.labels
        image = None if size is None else self.data.image(index)
        mask = None if labels is None else self.data.mask(index)
        if mask is not None and (image is not None or self.data.image_size(index) != mask.shape[::-1]):
            # where the header alone is read, here and with cached features, the decoded image has the last word
            check_same_size(self.data, index, image or self.data.image(index), mask, "ground truth")
        if self.augment is not None:
            return self.augment(image, mask, self._augmented_size(), index)
        pixels = target = None
        if image is not None and size is not None:
            squashed = image.resize(size[::-1], RESAMPLING[self.interpolation])
            pixels = torch.from_numpy(np.array(squashed)).permute(2, 0, 1)
        if mask is not None and labels is not None:
            target = torch.from_numpy(resize_mask(mask, labels))
        return pixels, target

    def _augmented_size(self) -> tuple[int, int]:
        """Return the size of views; raises ValueError where neither images nor masks have one."""
        size = self.size or (self.labels.size if self.labels else None)
        if size is None:
            raise ValueError("augmented views need a size")
        return size


def resize_mask(mask: NDArray[np.uint8], labels: Labels) -> NDArray[np.uint8]:
    """Resize a label map (H, W) by the nearest rule asked for."""
    if labels.size is None or mask.shape == labels.size:
        return np.array(mask)
    if labels.rule == "centre":
        return np.array(Image.fromarray(mask).resize(labels.size[::-1], Image.Resampling.NEAREST))
    rows, columns = (nearest_index(old, new).numpy() for old, new in zip(mask.shape, labels.size, strict=True))
    return mask[rows[:, None], columns]
