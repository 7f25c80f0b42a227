"""What views of training images share: which are drawn, in which order they come, and how they are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from densebench.core.errors import DensebenchError
from densebench.datasets.dataset import DenseDataset
from densebench.views.loading import load


class Views(Protocol):
    """What is loaded: items of the images of a dataset."""

    @property
    def data(self) -> DenseDataset:
        """Whose images they are."""
        ...

    def __getitem__(self, key: Any) -> Any:
        """Return (index, image, ground truth), or the error met on the way."""
        ...


Key = tuple[int, int]
"""(epoch, image index)."""


def draw_share(n_images: int, share: float, seed: int) -> tuple[int, ...]:
    """Return the share of the images that a training sees, at least one, in ascending order."""
    drawn = np.random.default_rng((seed, n_images)).permutation(n_images)[: max(1, int(n_images * share))]
    return tuple(sorted(drawn.tolist()))


def evenly(length: int, times: int) -> list[int]:
    """Return at most `times` of the steps 1..length, evenly spaced, the last one among them."""
    return sorted({max(1, round(i * length / times)) for i in range(1, times + 1)})


def batches(n_images: int, batch: int, seed: int, steps: range) -> Iterator[list[Key]]:
    """Yield the keys of each step: all images in a new order in every epoch, none left out."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return np.random.default_rng((seed, epoch)).permutation(n_images).tolist()

    for step in steps:
        places = (divmod(p, n_images) for p in range(step * batch, (step + 1) * batch))
        yield [(epoch, order(epoch)[place]) for epoch, place in places]


def load_views(
    views: Views,
    keys: Iterable[Sequence[Any]],
    workers: int = 0,
    *,
    stack: bool = True,
    pin_memory: bool = False,
) -> Iterator[tuple[list[int], Any, Any]]:
    """Yield (image indices, images, ground truths) of each batch of keys, in order: tensors, or lists of them.

    ``views`` gives (index, image, ground truth), either of the last two None where it was not asked for; or the error
    met on the way, so that workers end quietly: it is raised here.
    """
    collate = _stacked if stack else _listed
    for item in load(views, keys, workers, collate, ids=views.data.ids, pin_memory=pin_memory):
        if isinstance(item, DensebenchError):
            raise item
        yield item


def _listed(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, DensebenchError):
            return item
    return tuple(list(some) for some in zip(*items, strict=True))


def _stacked(items: list[Any]) -> Any:
    found = _listed(items)
    if isinstance(found, DensebenchError):
        return found
    indices, *parts = found
    return indices, *(None if part[0] is None else torch.stack(part) for part in parts)
