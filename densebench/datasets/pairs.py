"""Datasets that state which images are to be matched with which, beside the keypoints of each image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DenseDataset, Keypoints, json_digest
from densebench.datasets.files import Archived

OUTSIDE = 1.0
"""Pixels that a point may be out of its image: annotators click on borders, and MATLAB counts from 1."""


class PairedDataset(Archived):
    """Images of one annotated object each, and a list of pairs of them whose keypoints correspond."""

    @abstractmethod
    def pairs(self) -> Sequence[tuple[int, int]]:
        """Return (source, target) as positions in `ids`, in a fixed order; both show one category."""

    def digest(self) -> str:
        """Return a digest of images, annotations and pairs."""
        return json_digest([super().digest(), [(self.ids[a], self.ids[b]) for a, b in self.pairs()]])

    def held_against_image(
        self, index: int, thing: Keypoints, where: Path, stated: Sequence[float] | None = None
    ) -> Keypoints:
        """Return an object whose points and box can be of its image; raises DatasetError, which names `where`, if not.

        `stated` is the (width, height) that the annotation has for the image, if it says so.
        """
        image, (width, height) = self.files(index)[0], self.image_size(index)
        if stated is not None and tuple(stated) != (width, height):
            raise DatasetError(
                f"{image} is {width}x{height} px, but {where} is for {stated[0]}x{stated[1]}: keypoints would lie "
                "elsewhere. Get the original images."
            )
        inside = ((thing.xy >= -OUTSIDE) & (thing.xy <= np.array([width, height]) - 1 + OUTSIDE)).all(1)  # nor is NaN
        wrong = np.flatnonzero(thing.visible & ~inside)
        if wrong.size:
            x, y = thing.xy[wrong[0]].tolist()
            raise DatasetError(
                f"{where} has keypoint {wrong[0]} at ({x:g}, {y:g}), outside of its image of {width}x{height} px. Get "
                "the original files."
            )
        x1, y1, x2, y2 = thing.bbox
        if not (x1 < x2 and y1 < y2):
            raise DatasetError(f"{where} has a box without area, {list(thing.bbox)}; expected x1 < x2 and y1 < y2.")
        if min(x1, y1) < -max(width, height) or x2 > 2 * width or y2 > 2 * height:  # errors are shares of its sides
            raise DatasetError(f"{where} has a box far out of its image of {width}x{height} px, {list(thing.bbox)}.")
        return thing


def listed_pairs(data: DenseDataset) -> list[tuple[int, int]] | None:
    """Return the pairs of a dataset or of a view on one, None where it lists none.

    A view (`select`, --limit, --skip-corrupt) keeps the pairs whose two images it shows.
    """
    base = getattr(data, "base", None)
    if base is None:
        return list(data.pairs()) if isinstance(data, PairedDataset) else None
    pairs = listed_pairs(base)
    if pairs is None:
        return None
    where = {id_: i for i, id_ in enumerate(data.ids)}
    shown = [(where.get(base.ids[a]), where.get(base.ids[b])) for a, b in pairs]
    return [(a, b) for a, b in shown if a is not None and b is not None]
