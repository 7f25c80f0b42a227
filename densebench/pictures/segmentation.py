"""Segmentation in context: what a memory of labelled patches predicts, beside the truth, as `hummingbird` scores it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, enlarge
from densebench.ops import retrieval
from densebench.pictures.memories import class_memory
from densebench.pictures.view import Kind, Model, View
from densebench.protocols.common import memory

Classes = list[NDArray[np.uint8]]


class Segmentation(Kind[Classes]):
    """The class of each pixel."""

    name = "segmentation"

    def show(self, view: View, model: Model) -> Classes:
        """Return the predicted classes of each chosen image, (H, W) at the input's size."""
        bank, found = class_memory(model), []
        for _, labels, _ in memory.predict(bank, view.chosen, model.context, "queries"):
            classes = retrieval.upsample_argmax(labels.permute(0, 3, 1, 2), bank.config.spec.size)
            found += list(classes.to("cpu").numpy().astype(np.uint8))
        return found

    def draw(self, view: View, shown: Mapping[str, Classes]) -> Mapping[str, bytes]:
        """Return image, truth and a column per model, in the colours of the dataset."""
        info, seen = view.data.info, set[int]()
        rows: dict[str, list[Picture | None]] = {}
        for i, (index, id_) in enumerate(zip(view.images, view.ids, strict=True)):
            image = view.image(index)
            size = image.shape[:2]
            maps = [view.truth(index, size), *(enlarge(found[i], size) for found in shown.values())]
            seen |= {int(label) for labels in maps for label in np.unique(labels) if label < info.n_classes}
            rows[id_] = [image, *(figures.colorize(labels, info.palette) for labels in maps)]
        legend = (info.classes, info.palette, sorted(seen))
        return {self.name: figures.picture_grid(rows, ["image", "ground truth", *shown], legend)}


KIND = Segmentation()
