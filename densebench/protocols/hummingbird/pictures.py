"""Pictures of retrieval: query patches beside their nearest patches of the memory, as in figure 5 of PaKA."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from densebench.datasets.dataset import DenseDataset
from densebench.figures import kit as figures
from densebench.protocols.common import memory
from densebench.protocols.common.examples import Example, as_seen, spread
from densebench.protocols.common.memory import Memory
from densebench.protocols.protocol import Data

NEIGHBOURS = 5
"""Shown of each query (PaKA C.1)."""
RIGHT, WRONG = "#21a84a", "#d62728"


class Query(NamedTuple):
    """A patch of a validation image."""

    image: int
    patch: int
    """Row-major position in the grid."""
    label: int
    """The class of most of its pixels."""
    feature: Tensor
    """(D,)."""


class ClassExamples:
    """Keeps what the pictures show while validation images pass by: `count` of them, evenly spread.

    In each image the query is the patch at the centre of an object, see `central_patch`.
    """

    def __init__(self, count: int, bank: Memory, data: Data, patch: int) -> None:
        self.images = spread(count, len(data.val))
        self.bank, self.data, self.patch = bank, data, patch
        some = bank.labels[:: max(1, len(bank.labels) // 100_000)]
        self.shares = some.float().sum(0).tolist() if self.images else []
        self.queries: list[Query] = []
        self.predictions: list[Example] = []

    def add(self, image: int, features: Tensor, prediction: Tensor, target: Tensor) -> None:
        """Keep one image's features (D, h, w) at the query, its prediction and its mask (H, W)."""
        pixels = as_seen(self.data.val, image, self.bank.config.spec)
        # copies, or each example would keep its whole batch
        self.predictions.append((pixels, target.numpy().copy(), prediction.numpy().astype(np.uint8)))
        found = central_patch(target.numpy(), self.patch, self.shares)
        if found is not None:
            label, patch = found
            self.queries.append(Query(image, patch, label, features.flatten(1)[:, patch].clone()))

    def draw(self) -> dict[str, bytes]:
        """Return the pictures as PNG."""
        info, pictures = self.data.info, {}
        if self.predictions:
            pictures["examples.png"] = figures.segmentations(self.predictions, info.classes, info.palette)
        if self.queries:
            pictures["neighbours.png"] = figures.marked_patches(
                [self._row(query) for query in self.queries],
                ["query", *(f"neighbour {i + 1}" for i in range(NEIGHBOURS))],
            )
        return pictures

    def _row(self, query: Query) -> list[figures.Marked]:
        """Return a query and its neighbours."""
        return [
            marked_query(query, self.bank, self.data, self.patch),
            *retrieved(query, self.bank, self.data, self.patch)[:NEIGHBOURS],
        ]


def marked_query(query: Query, bank: Memory, data: Data, patch: int) -> figures.Marked:
    """Return the image of a query with its patch of `patch` pixels marked, and its class below."""
    pixels, classes = as_seen(data.val, query.image, bank.config.spec), data.info.classes
    name = classes[query.label] if query.label < len(classes) else "void"
    return figures.Marked(pixels, _box(query.patch, bank, patch), name)


def retrieved(query: Query, bank: Memory, data: Data, patch: int) -> list[figures.Marked]:
    """Return the NEIGHBOURS nearest patches of a memory in the views they were taken from, nearest first."""
    row, classes = [], data.info.classes
    found = bank.search(query.feature[None])
    for key, score in zip(found.indices[0, :NEIGHBOURS].tolist(), found.scores[0].tolist(), strict=False):
        origin = bank.origin(key)
        label = int(bank.labels[key].argmax())
        likeness = (
            f"cos {score / float(query.feature.norm()):.2f}"
            if bank.config.similarity == "cosine"
            else f"distance {score**0.5:.3g}"
        )
        view, color = memory_view(data.train, bank, origin), RIGHT if label == query.label else WRONG
        row.append(figures.Marked(view, _box(origin.patch, bank, patch), f"{classes[label]}, {likeness}", color))
    return row


def _box(place: int, bank: Memory, patch: int) -> tuple[int, int, int]:
    """Return left, top and side in pixels of the patch at a row-major place."""
    width = bank.config.spec.size[1] // patch
    return place % width * patch, place // width * patch, patch


def central_patch(mask: NDArray[np.integer], patch: int, shares: list[float]) -> tuple[int, int] | None:
    """Return class and patch (row-major) at the centre of an object of a mask (H, W); None where there is none.

    The centre is the point of a class that is farthest from its border. Of the classes that hold a disc as wide as a
    patch and are in the memory at all, `shares` > 0, the one with the greatest ratio of that distance to its share is
    taken, so that objects come before their ground.
    """
    found = []
    for label in np.unique(mask).tolist():
        if label < len(shares) and shares[label] > 0:
            inside = ndimage.distance_transform_edt(np.pad(mask == label, 1))[1:-1, 1:-1]
            if inside.max() >= patch / 2:
                found.append((inside.max() / shares[label], label, int(inside.argmax())))
    if not found:
        return None
    _, label, place = max(found)
    row, column = divmod(place, mask.shape[1])
    return label, row // patch * (mask.shape[1] // patch) + column // patch


def memory_view(train: DenseDataset, bank: Memory, origin: memory.Origin) -> NDArray[np.uint8]:
    """Return the view (H, W, 3) of a memory image that a row was taken from, augmented as it was."""
    spec = memory.request(bank.config, origin.epoch, bank.seed)
    if spec.augment is None:
        return as_seen(train, origin.image, spec)
    pixels, _ = spec.augment(train.image(origin.image), None, spec.size, origin.image)
    assert pixels is not None
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
