"""PF-WILLOW (Proposal Flow): groups of ten images of one kind of object, each with the same ten key points.

Expected below the data root (the root itself, `PF-dataset-WILLOW/` or `PF-WILLOW/PF-dataset-WILLOW/`):

    GROUP/NAME.png   GROUP/NAME.mat (pts_coord: x in the first row, y in the second)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from densebench.datasets.dataset import DatasetInfo, Keypoints, read_image
from densebench.datasets.layout import find_root, list_stems, require_files
from densebench.datasets.pairs import PairedDataset
from densebench.datasets.voc import voc_palette
from densebench.errors import DatasetError

GROUPS = (
    "car(G)", "car(M)", "car(S)", "duck(S)", "motorbike(G)", "motorbike(M)", "motorbike(S)", "winebottle(M)",
    "winebottle(wC)", "winebottle(woC)",
)  # fmt: skip
POINTS = 10


class PFWillow(PairedDataset):
    """PF-WILLOW: every ordered pair of a group, 90 per group of ten images and 900 in all; an id is GROUP/NAME.

    The published code takes the box that errors are measured by from the key points, since no other box is annotated.
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
        how_to_get="Download PF-dataset-WILLOW from the Proposal Flow project page and extract it below the data root.",
    )

    def __init__(
        self, root: str | Path | None, split: str = "test", transforms: Callable[[Any, Any], Any] | None = None
    ) -> None:
        """Raises DatasetError for a folder without groups and for images without key points."""
        super().__init__(root, split, transforms)
        places = ("PF-WILLOW/PF-dataset-WILLOW", "PF-dataset-WILLOW", "PF-WILLOW", ".")
        self.folder = self._find(root, places)
        groups = [group for group in GROUPS if (self.folder / group).is_dir()]
        names = {group: list_stems(self.info, self.folder / group, ".png") for group in groups}
        require_files(self.info, split, {self.folder / g: [f"{n}.mat" for n in names[g]] for g in groups})
        self.ids = [f"{group}/{name}" for group in groups for name in names[group]]

    def _find(self, root: str | Path | None, places: Sequence[str]) -> Path:
        for group in GROUPS:
            if root is not None and any((Path(root) / place / group).is_dir() for place in places):
                return find_root(self.info, root, places, group)
        return find_root(self.info, root, places, GROUPS[0])  # raises, naming all places

    def pairs(self) -> Sequence[tuple[int, int]]:
        """Return every ordered pair of two images of one group."""
        groups = itertools.groupby(range(len(self.ids)), lambda i: self.ids[i].split("/")[0])
        return [pair for _, members in groups for pair in itertools.permutations(members, 2)]

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        return read_image(self.files(index)[0], index)

    def keypoints(self, index: int) -> Sequence[Keypoints]:
        """Return the one object of an image: ten points, all visible, and the box around them."""
        from scipy.io import loadmat

        path = self.files(index)[1]
        try:
            points = np.asarray(loadmat(path)["pts_coord"], dtype=np.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
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
        return (Keypoints(group, points.T.copy(), np.ones(POINTS, dtype=np.bool_), (x1, y1, x2, y2)),)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and key points of one sample."""
        return self.folder / f"{self.ids[index]}.png", self.folder / f"{self.ids[index]}.mat"
