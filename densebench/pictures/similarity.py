"""Correlation maps: the cosine of one patch with all patches of its own image and of another (DIP figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, enlarge, framed, scale_of
from densebench.pictures.view import Kind, Model, View, box_of, patch_at, point_of

Map = NDArray[np.floating]


class Correlations(NamedTuple):
    """What one model says, an entry per image: (h, w) maps, and the patch that was asked about."""

    same: list[Map]
    other: list[Map]
    patches: list[tuple[int, int]]


def correlate(query: Tensor, maps: Tensor) -> Tensor:
    """Return the cosine (N, h, w) in [-1, 1] of a feature (D,) with maps (N, D, h, w); 0 where one has no length."""
    dots = (F.normalize(maps.double(), dim=1) * F.normalize(query.double(), dim=0)[:, None, None]).sum(1)
    return dots.clamp(-1, 1)


def next_of(i: int, n: int) -> int:
    """Return which image stands beside image `i` of `n`: the next, the first beside the last."""
    return (i + 1) % n


class Similarity(Kind[Correlations]):
    """A patch of each image, and where else its feature is found."""

    name = "similarity"

    def show(self, view: View, model: Model) -> Correlations:
        """Return the correlation maps of each chosen image and of the one after it."""
        maps = model.maps(view.chosen)
        grid = (maps.shape[2], maps.shape[3])
        patches = [patch_at(point_of(view, self.name, index, grid), grid) for index in view.images]
        same, other = [], []
        for i, (row, column) in enumerate(patches):
            pair = correlate(maps[i, :, row, column], maps[[i, next_of(i, len(maps))]])
            same.append(pair[0].numpy())
            other.append(pair[1].numpy())
        return Correlations(same, other, patches)

    def draw(self, view: View, shown: Mapping[str, Correlations]) -> Mapping[str, bytes]:
        """Return image, maps in it, the other image and maps in that one, all maps on one scale."""
        images = [view.image(index) for index in view.images]
        several, models = len(images) > 1, list(shown.values())
        every = [m for found in models for m in (*found.same, *(found.other if several else ()))]
        scale = scale_of("cosine", every, high=1.0)
        rows: dict[str, list[Picture | None]] = {}
        for i, id_ in enumerate(view.ids):
            first, size = models[0], images[i].shape[:2]
            own = framed(images[i], box_of(first.patches[i], first.same[i].shape, size))
            row: list[Picture | None] = [own]
            for found in models:
                box = box_of(found.patches[i], found.same[i].shape, size)
                row.append(framed(enlarge(scale.paint(found.same[i]), size), box))
            if several:
                other = images[next_of(i, len(images))]
                row += [other, *(enlarge(scale.paint(found.other[i]), other.shape[:2]) for found in models)]
            rows[id_] = row
        columns = ["patch of", *shown, *(["in another", *shown] if several else [])]
        return {self.name: figures.picture_grid(rows, columns, scale=scale)}


KIND = Similarity()
