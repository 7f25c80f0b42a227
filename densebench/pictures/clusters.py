"""Overclustering: clusters over images, in the colours of the classes they are matched with (PaKA figures 4 and 6).

Clusters and matching are those of `overclustering`, of all validation images and its first seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, overlay
from densebench.figures.clusters import cluster_overlay
from densebench.ops.lloyd import assign
from densebench.pictures.view import Kind, Model, View
from densebench.protocols.overclustering import protocol
from densebench.protocols.overclustering.protocol import Overclustering


class Clusters(NamedTuple):
    """What one number of clusters makes of the chosen images."""

    maps: list[NDArray[np.int64]]
    """(h, w) per image, clusters."""
    mapping: NDArray[np.int64]
    """(K,), the class of each."""


def _numbers_asked(view: View) -> dict[str, Any]:
    asked = tuple(k if k == "classes" else int(k) for k in view.options.clusters)
    return {"clusters": asked} if asked else {}


class Overclusters(Kind[dict[int, Clusters]]):
    """A picture per number of clusters."""

    name = "clusters"

    def show(self, view: View, model: Model) -> dict[int, Clusters]:
        """Return the clusters of the chosen images by number of clusters."""
        config = model.config(Overclustering(), _numbers_asked(view))
        config = replace(config, seeds=config.seeds[:1])
        found = protocol.cluster(config, view.data, model.context)
        maps: dict[int, list[Tensor]] = {fit.k: [] for fit in found.fits}
        for batch in model.source.stream(view.chosen, config.spec):
            tokens, grid = found.space(batch.tokens), (len(batch.indices), *batch.maps.shape[2:])
            for fit in found.fits:
                maps[fit.k].append(assign(tokens, fit.centroids).view(*grid).cpu())
        return {
            fit.k: Clusters(
                list(torch.cat(maps[fit.k]).numpy()), protocol.match(config, table.groups.total()).cpu().numpy()
            )
            for fit, table in zip(found.fits, found.tables, strict=True)
        }

    def draw(self, view: View, shown: Mapping[str, dict[int, Clusters]]) -> Mapping[str, bytes]:
        """Return image, truth and a column per model, a picture per number of clusters."""
        numbers = sorted({k for found in shown.values() for k in found})
        return {f"{self.name}-{k}": self._draw(view, {m: found[k] for m, found in shown.items()}) for k in numbers}

    def _draw(self, view: View, shown: Mapping[str, Clusters]) -> bytes:
        info, seen = view.data.info, set[int]()
        rows: dict[str, list[Picture | None]] = {}
        for i, (index, id_) in enumerate(zip(view.images, view.ids, strict=True)):
            image = view.image(index)
            truth = view.truth(index, image.shape[:2])
            row: list[Picture | None] = [image, overlay(image, figures.colorize(truth, info.palette))]
            seen |= {int(label) for label in np.unique(truth) if label < info.n_classes}
            for found in shown.values():
                row.append(cluster_overlay(image, found.maps[i], found.mapping, info.palette))
                seen |= set(found.mapping[np.unique(found.maps[i])].tolist())
            rows[id_] = row
        legend = (info.classes, info.palette, sorted(seen))
        return figures.picture_grid(rows, ["image", "ground truth", *shown], legend)


KIND = Overclusters()
