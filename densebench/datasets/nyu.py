"""NYU Depth v2: indoor images with Kinect depth, in the layouts that depth code reads.

Expected below the data root (the root itself, `nyu/`, `NYU/` or `nyu_depth_v2/`), as BTS and the
Monocular-Depth-Estimation-Toolbox (MDE) have it, depth in 16-bit millimetres:

    nyu_train.txt   nyu_test.txt            (or both in splits/; a line is "IMAGE DEPTH FOCAL", paths from here on)
    kitchen_0028b/rgb_00045.jpg   kitchen_0028b/sync_depth_00045.png   bathroom/rgb_00045.jpg   ...

The split `labeled` is another export, of the 1449 labelled frames, with metres = value / 5000:

    labeled/rgb/ID.png   labeled/depth/ID.png

The official nyu_depth_v2_labeled.mat is HDF5, for which densebench has no reader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.datasets.dataset import DatasetInfo, DenseDataset, read_image
from densebench.datasets.kinect import read_metres
from densebench.datasets.layout import find_root, list_stems, require_files
from densebench.errors import DatasetError

PLACES = ("nyu", "NYU", "nyu_depth_v2", ".")
PER_METRE = {"train": 1000.0, "test": 1000.0, "labeled": 5000.0}
"""Depth values that make a metre."""


class NYU(DenseDataset):
    """NYU Depth v2: 24,231 training frames and the 654 test images of Eigen et al.; white frames are left as they are.

    Ids are paths without their ending, sorted as MDE sorts them; pairs whose depth the list gives as `None` are left
    out.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="nyu",
        title="NYU Depth v2",
        classes=(),
        palette=(),
        splits={"train": 24_231, "test": 654, "labeled": 1449},
        val="test",
        targets=frozenset({"depth"}),
        licence="research use",
        citation="Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; split: "
        "Eigen et al., Depth Map Prediction from a Single Image, NeurIPS 2014",
        how_to_get="Get the export of BTS or the Monocular-Depth-Estimation-Toolbox (its docs/dataset_prepare.md has "
        "the link), extract it in a folder nyu/ below the data root, and put nyu_train.txt and nyu_test.txt from the "
        "toolbox's splits/ in it.",
    )

    def __init__(
        self, root: str | Path | None, split: str = "test", transforms: Callable[[Any, Any], Any] | None = None
    ) -> None:
        super().__init__(root, split, transforms)
        self.pairs = self._labeled(root) if split == "labeled" else self._listed(root, split)
        self.ids = [Path(image).with_suffix("").as_posix() for image, _ in self.pairs]
        files: dict[Path, list[str]] = defaultdict(list)
        for path in (self.folder / name for pair in self.pairs for name in pair):
            files[path.parent].append(path.name)
        require_files(self.info, split, files)

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        return read_image(self.files(index)[0], index)

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres, 0 = not measured; raises as `kinect.read_metres` does."""
        path, per_metre = self.files(index)[1], PER_METRE[self.split]
        return read_metres(path, index, per_metre, f"split {self.split}", self.info.how_to_get)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and depth map of one sample."""
        image, depth = self.pairs[index]
        return self.folder / image, self.folder / depth

    def _labeled(self, root: str | Path | None) -> list[tuple[str, str]]:
        self.folder = find_root(self.info, root, PLACES, "labeled")
        names = list_stems(self.info, self.folder / "labeled" / "rgb", ".png")
        return [(f"labeled/rgb/{name}.png", f"labeled/depth/{name}.png") for name in names]

    def _listed(self, root: str | Path | None, split: str) -> list[tuple[str, str]]:
        """Find and read a split list."""
        base = find_root(self.info, root, (".",), ".")
        lists = [base / place / inner / f"nyu_{split}.txt" for place in PLACES for inner in ("", "splits")]
        found = next((path for path in lists if path.exists()), None)
        if found is None:
            raise DatasetError(
                f"{self.info.name}: no split list nyu_{split}.txt below {base} (looked in "
                f"{', '.join(str(path.parent) for path in lists)}). {self.info.how_to_get} "
                f"Then run `densebench data check nyu --data-root {base}`."
            )
        self.folder = found.parent.parent if found.parent.name == "splits" else found.parent
        pairs = []
        for number, line in enumerate(found.read_text().splitlines(), start=1):
            fields = line.split()
            if len(fields) == 1:
                raise DatasetError(f"{found} line {number} is {line!r}; expected IMAGE DEPTH FOCAL.")
            if fields and fields[1] != "None":
                pairs.append((fields[0].lstrip("/\\"), fields[1].lstrip("/\\")))
        if not pairs:
            raise DatasetError(f"{self.info.name}: the split list {found} is empty; expected IMAGE DEPTH FOCAL lines.")
        return sorted(set(pairs))
