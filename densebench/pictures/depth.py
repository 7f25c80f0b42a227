"""Depth in context: what a memory of patches predicts, beside the truth, as `in_context_depth` scores it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, enlarge, scale_of
from densebench.ops import depth as ops
from densebench.pictures.view import Kind, Model, View
from densebench.protocols.common import memory
from densebench.protocols.in_context_depth.protocol import (
    UNMEASURED,
    DepthLabels,
    InContextDepth,
    content_of,
    mean_depth,
)

Maps = list[NDArray[np.floating]]


class Depths(Kind[Maps]):
    """The distance of each pixel."""

    name = "depth"

    def show(self, view: View, model: Model) -> Maps:
        """Return the predicted depth of each chosen image, (H, W) in metres at the input's size."""
        config, train = model.config(InContextDepth()), DepthLabels(view.data.train)
        patch, every = model.source.info.patch, list(range(len(train)))
        bank = memory.fit(
            config, model.source.info, train, every, content_of(config, patch), model.context, "memory of depth"
        )
        constant, found = mean_depth(bank.labels, train), []
        queries = DepthLabels(view.chosen)
        for _, grid, _ in memory.predict(bank, queries, model.context, "queries of depth", missing=UNMEASURED):
            maps = ops.unpatchify(grid, patch).nan_to_num(constant).clamp(config.min_depth, config.max_depth)
            found += list(maps.cpu().numpy())
        return found

    def draw(self, view: View, shown: Mapping[str, Maps]) -> Mapping[str, bytes]:
        """Return image, truth and a column per model, on the scale of the truth without its outermost hundredths."""
        truths = [np.where(d > 0, d, np.nan) for d in map(view.data.val.depth, view.images)]
        scale = scale_of("metres (grey: not measured)", truths, cut=1.0, colors="viridis_r")
        rows: dict[str, list[Picture | None]] = {}
        for i, (index, id_) in enumerate(zip(view.images, view.ids, strict=True)):
            image = view.image(index)
            maps = [truths[i], *(found[i] for found in shown.values())]
            rows[id_] = [image, *(scale.paint(enlarge(values, image.shape[:2])) for values in maps)]
        return {self.name: figures.picture_grid(rows, ["image", "ground truth", *shown], scale=scale)}


KIND = Depths()
