"""PF-WILLOW (Proposal Flow): groups of ten images of one kind of object, each with the same ten keypoints.

Expected below the data root (the root itself, `PF-dataset/`, `PF-dataset-WILLOW/` or one of the two in `PF-WILLOW/`),
or the published PF-dataset.zip as it is:

    GROUP/NAME.png   GROUP/NAME.mat (pts_coord: x in the first row, y in the second)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, Keypoints, Root, Transforms
from densebench.datasets.files import find_trees
from densebench.datasets.io.decode import read_mat
from densebench.datasets.io.palettes import voc_palette
from densebench.datasets.pairs import PairedDataset

PLACES = ("PF-WILLOW/PF-dataset-WILLOW", "PF-WILLOW/PF-dataset", "PF-dataset-WILLOW", "PF-dataset", "PF-WILLOW", ".")
GROUPS = (
    "car(G)", "car(M)", "car(S)", "duck(S)", "motorbike(G)", "motorbike(M)", "motorbike(S)", "winebottle(M)",
    "winebottle(wC)", "winebottle(woC)",
)  # fmt: skip
POINTS = 10


class PFWillow(PairedDataset):
    """PF-WILLOW: every ordered pair of a group, 90 per group of ten images and 900 in all; an id is GROUP/NAME.

    The published code takes the box that errors are measured by from the keypoints, since no other box is annotated.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="pf_willow",
        title="PF-WILLOW",
        classes=GROUPS,
        palette=voc_palette(len(GROUPS)),
        splits={"test": 100},
        train="test",  # there is no other split, and matching learns nothing
        val="test",
        ignored=(),
        background=(),
        targets=frozenset({"keypoints"}),
        licence="published by the authors for research",
        citation="Ham et al., Proposal Flow, CVPR 2016",
        how_to_get="Download PF-dataset.zip from the Proposal Flow project page "
        "(www.di.ens.fr/willow/research/proposalflow) and put it, packed or not, below the data root.",
    )

    def __init__(self, root: Root, split: str = "test", transforms: Transforms = None) -> None:
        """Raises DatasetError for a folder without groups and for images without keypoints."""
        super().__init__(root, split, transforms)
        self._groups = find_trees(self.info, root, PLACES, GROUPS)
        self.ids = []
        for group, tree in self._groups.items():
            names = [name.removesuffix(".png") for name in tree.some(self.info, ".png")]
            tree.require(self.info, split, [f"{name}.mat" for name in names])
            self.ids += [f"{group}/{name}" for name in names]

    def pairs(self) -> Sequence[tuple[int, int]]:
        """Return every ordered pair of two images of one group."""
        groups = itertools.groupby(range(len(self.ids)), lambda i: self.ids[i].split("/")[0])
        return [pair for _, members in groups for pair in itertools.permutations(members, 2)]

    def keypoints(self, index: int) -> Sequence[Keypoints]:
        """Return the one object of an image: ten points, all visible, and the box around them."""
        path = self.files(index)[1]
        state = read_mat(path, index)
        try:
            points = np.asarray(state["pts_coord"], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"pf_willow: {path} has no readable pts_coord ({error}). Get the original file."
            ) from None
        if points.shape != (2, POINTS) or not np.isfinite(points).all():
            raise DatasetError(
                f"pf_willow: {path} holds points {points.shape}; expected finite x and y, (2, {POINTS}). "
                "Get the original file."
            )
        (x1, y1), (x2, y2) = points.min(1).tolist(), points.max(1).tolist()
        group = self.ids[index].split("/")[0]
        thing = Keypoints(group, points.T.copy(), np.ones(POINTS, dtype=np.bool_), (x1, y1, x2, y2))
        return (self.held_against_image(index, thing, path),)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and keypoints of one sample; paths may lead through an archive."""
        group, name = self.ids[index].split("/", 1)
        return self._groups[group].path(f"{name}.png"), self._groups[group].path(f"{name}.mat")
