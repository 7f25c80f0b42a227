"""Retrieval: the same patches asked with several models, and the labelled patches nearest to each (PaKA figure 5).

The query is the patch at the centre of an object, chosen with the first model, or that of --patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from densebench.datasets.dataset import DenseDataset
from densebench.figures import kit as figures
from densebench.figures.kit import Marked
from densebench.ops.resize import resize_labels
from densebench.pictures.memories import class_memory
from densebench.pictures.view import Kind, Model, View, patch_at, point_of
from densebench.protocols.common import memory
from densebench.protocols.hummingbird.pictures import Query, central_patch, marked_query, retrieved

SHOWN = 6
"""Neighbours of one query in a picture of several models, shared by them; of one model all."""


class Answer(NamedTuple):
    """What one model finds."""

    query: Marked
    neighbours: list[Marked]


def shares_of(data: DenseDataset) -> list[float]:
    """Return the share of each class among the pixels of some masks, by which objects come before their ground."""
    counts = np.zeros(256)
    for index in range(len(data)):
        counts += np.bincount(data.mask(index).ravel(), minlength=256)
    return (counts / max(1.0, counts.sum()))[: data.info.n_classes].tolist()


class Retrieval(Kind[list[Answer]]):
    """Query patches and their neighbours."""

    name = "retrieval"

    def show(self, view: View, model: Model) -> list[Answer]:
        """Return the neighbours of a patch of each chosen image."""
        bank, patch, chosen = class_memory(model), model.source.info.patch, view.chosen
        spec, shares, answers = memory.request(bank.config), shares_of(chosen), []
        maps = torch.cat([batch.maps.cpu() for batch in model.source.stream(chosen, spec)])
        grid = (maps.shape[2], maps.shape[3])
        for i, index in enumerate(view.images):
            mask = resize_labels(torch.from_numpy(view.data.val.mask(index)), spec.size).numpy()

            def at_object(mask: np.ndarray = mask) -> tuple[int, int]:
                found = central_patch(mask, patch, shares)
                return divmod(found[1], grid[1]) if found else (grid[0] // 2, grid[1] // 2)

            row, column = patch_at(point_of(view, self.name, index, grid, at_object), grid)
            inside = mask[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            label = int(np.bincount(inside.ravel(), minlength=256).argmax())
            feature = maps[i, :, row, column].to(bank.keys.device)
            query = Query(index, row * grid[1] + column, label, feature)
            answers.append(
                Answer(marked_query(query, bank, view.data, patch), retrieved(query, bank, view.data, patch))
            )
        return answers

    def draw(self, view: View, shown: Mapping[str, list[Answer]]) -> Mapping[str, bytes]:
        """Return a row per query: its patch in black, and those of each model, green where the class is the query's."""
        models = list(shown.values())
        most = len(models[0][0].neighbours) if len(models) == 1 else max(1, SHOWN // len(models))
        rows, titles = [], ["query"]
        for name in shown:
            titles += [f"{name}\n{i + 1}" if i == 0 else f"\n{i + 1}" for i in range(most)]
        for i in range(len(view.images)):
            rows.append([models[0][i].query, *(near for found in models for near in found[i].neighbours[:most])])
        return {self.name: figures.marked_patches(rows, titles)}


KIND = Retrieval()
