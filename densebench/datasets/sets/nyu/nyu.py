"""NYU Depth v2: indoor images with Kinect depth, in the layouts that depth code reads.

Expected below the data root (the root itself, `nyu/`, `NYU/` or `nyu_depth_v2/`), as BTS and the
Monocular-Depth-Estimation-Toolbox (MDE) have it, depth in 16-bit millimetres:

    nyu_train.txt   nyu_test.txt            (or both in splits/; a line is "IMAGE DEPTH FOCAL", paths from here on,
                                            from sync/, which BTS has as a zip, or from official_splits/test/)
    kitchen_0028b/rgb_00045.jpg   kitchen_0028b/sync_depth_00045.png   bathroom/rgb_00045.jpg   ...

The split `labeled` is another export, of the 1449 labelled frames, with metres = value / 5000:

    labeled/rgb/ID.png   labeled/depth/ID.png

Where what a test list names, or `labeled/`, is absent, nyu_depth_v2_labeled.mat is read, from which both were made (see
`nyu_mat`): the same frames and the same depth as measured, images without the loss of JPEG.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, Root, Transforms, json_digest
from densebench.datasets.files import Archived, Tree, find_tree
from densebench.datasets.io.id_lists import read_lines
from densebench.datasets.kinect import checked_metres, read_metres
from densebench.datasets.layout import MissingError
from densebench.datasets.sets.nyu.mat import NAME, SPLITS, LabelledFrames, array, hdf5

PLACES = ("nyu", "NYU", "nyu_depth_v2", ".")
PER_METRE = {"train": 1000.0, "test": 1000.0, "labeled": 5000.0}
"""Depth values that make a metre."""
PARTS = {"test": "test", "labeled": ""}
"""Splits that the official file can stand in for: which of its parts they are."""
IMAGES = (".", "sync", "official_splits/test")
"""Where the paths of a list begin, in one of the places."""
OFFICIAL = (
    f"{NAME} (2.8 GB) and, beside it, {SPLITS} (horatio.cs.nyu.edu/mit/silberman has them in nyu_depth_v2/ and "
    "indoor_seg_sup/)"
)


class NYU(Archived):
    """NYU Depth v2: 24,231 training frames and the 654 test images of Eigen et al., with the frames around images.

    Depth is as measured, with holes. Ids are paths without their ending, sorted as MDE sorts them; pairs whose depth
    the list gives as `None` are left out.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="nyu",
        family="nyu",
        title="NYU Depth v2",
        classes=(),
        palette=(),
        splits={"train": 24_231, "test": 654, "labeled": 1449},
        val="test",
        targets=frozenset({"depth"}),
        reach=2.6,  # the sensor sees 10 m, which is 2.56 where a metre is taken for 256 values and not for 1000
        licence="research use",
        citation="Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; split: "
        "Eigen et al., Depth Map Prediction from a Single Image, NeurIPS 2014",
        how_to_get="To train, get the export of BTS or the Monocular-Depth-Estimation-Toolbox (its "
        "docs/dataset_prepare.md has the link) and put it, packed or not, in a folder nyu/ below the data root, with "
        "nyu_train.txt from the toolbox's splits/. To test, put its test images and nyu_test.txt there, or else "
        f"{OFFICIAL}.",
    )

    def __init__(self, root: Root, split: str = "test", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        self._tree = Tree(Path())
        self._names: list[tuple[str, str]] = []
        self._mat: LabelledFrames | None = None
        self._find()

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        return super().image(index) if self._mat is None else self._mat.image(index)

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres, 0 = not measured; values that are no metres raise DatasetError."""
        if self._mat is not None:
            return self._mat.depth(index)
        path, per_metre = self.files(index)[1], PER_METRE[self.split]
        return read_metres(path, index, per_metre, f"split {self.split}", self.info.how_to_get)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and depth map of one sample, or the file that has all; a path may lead through an archive."""
        if self._mat is not None:
            return (self._mat.path,)
        image, depth = self._names[index]
        return self._tree.path(image), self._tree.path(depth)

    def digest(self) -> str:
        """Return a digest of ids and contents."""
        if self._mat is None:
            return super().digest()
        return json_digest({"info": self.info.name, "split": self.split, "files": self._mat.digest()})

    def _find(self) -> None:
        """Find the export of the split, or the official file where there is none; a broken export is an error."""
        try:
            self._tree, self._names = self._labeled() if self.split == "labeled" else self._listed()
        except MissingError:
            places = [self.root / place / NAME for place in PLACES] if self.root else []
            official = next(filter(Path.is_file, places), None)
            if official is None or self.split not in PARTS:
                raise
            self._read(LabelledFrames(self.info, official, PARTS[self.split]))
            return
        top = "labeled/" if self.split == "labeled" else ""
        self.ids = [top + PurePosixPath(image).with_suffix("").as_posix() for image, _ in self._names]
        self._tree.require(self.info, self.split, [name for pair in self._names for name in pair])

    def _labeled(self) -> tuple[Tree, list[tuple[str, str]]]:
        tree = find_tree(self.info, self.root, PLACES, "labeled")
        names = [name for name in tree.names(".png") if name.startswith("rgb/")]
        if not names:
            raise DatasetError(f"{self.info.name}: {tree.folder}/rgb holds no .png file. {self.info.how_to_get}")
        return tree, [(name, f"depth/{name.removeprefix('rgb/')}") for name in names]

    def _listed(self) -> tuple[Tree, list[tuple[str, str]]]:
        name = f"nyu_{self.split}.txt"
        names = _pairs(find_tree(self.info, self.root, PLACES, (".", "splits"), holding=name).path(name))
        return find_tree(self.info, self.root, PLACES, IMAGES, holding=names[0][0]), names

    def _read(self, mat: LabelledFrames) -> None:
        self._mat, self.ids = mat, mat.ids


class NYULabeled(NYU):
    """The official file alone: its own split into 795 frames to train on and the 654 of the test; measured depth."""

    info = replace(
        NYU.info,
        name="nyu_labeled",
        title="NYU Depth v2, labelled frames",
        variant_of="nyu",
        splits={"train": 795, "test": 654},
        citation="Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012",
        how_to_get=f"Put {OFFICIAL} in a folder nyu/ below the data root.",
    )
    depths: ClassVar[str] = "rawDepths"

    def _find(self) -> None:
        path = find_tree(self.info, self.root, PLACES, ".", holding=NAME).path(NAME)
        self._read(LabelledFrames(self.info, path, self.split, self.depths))


class NYUFilled(NYULabeled):
    """The same frames with every hole of the depth filled by its neighbours' colours: another ground truth."""

    info = replace(NYULabeled.info, name="nyu_filled", title="NYU Depth v2, labelled frames, depth filled in")
    depths = "depths"


class NYUFrames(Archived):
    """47,584 training frames and the 654 of the test as single HDF5 files, as sparse-to-dense and FastDepth read them.

    Holes of the depth were filled before they were published (Ma and Karaman IV-A): another ground truth than `NYU`'s.
    """

    info: ClassVar[DatasetInfo] = replace(
        NYU.info,
        name="nyu_h5",
        title="NYU Depth v2, frames of sparse-to-dense",
        variant_of="nyu",
        splits={"train": 47_584, "val": 654},
        val="val",
        citation="Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012; frames: Ma "
        "and Karaman, Sparse-to-Dense, ICRA 2018",
        how_to_get="Download nyudepthv2.tar.gz (its address is in the README of fangchangma/sparse-to-dense.pytorch) "
        "and unpack it below the data root.",
    )

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        places = ("nyudepthv2", "nyu/nyudepthv2", ".")
        self._tree = find_tree(self.info, root, places, split)
        self.ids = [name.removesuffix(".h5") for name in self._tree.some(self.info, ".h5")]

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        (path,) = self.files(index)
        with hdf5(path, index) as file:
            stored = array(file, path, "rgb", "u1", "3HW")[()]
        return Image.fromarray(np.ascontiguousarray(stored.transpose(1, 2, 0)))

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres, 0 = not measured; values that are no metres raise DatasetError."""
        (path,) = self.files(index)
        with hdf5(path, index) as file:
            return checked_metres(array(file, path, "depth", "f4", "HW")[()], str(path), self.info.how_to_get)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the one file of a sample."""
        return (self._tree.path(f"{self.ids[index]}.h5"),)


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return image and depth map of each line of a split list, sorted; raises DatasetError for another file."""
    found = set()
    for number, line in enumerate(read_lines(path, f"nyu: the split list {path}"), start=1):
        fields = line.split()
        if len(fields) == 1:
            raise DatasetError(f"{path} line {number} is {line!r}; expected IMAGE DEPTH FOCAL.")
        if fields and fields[1] != "None":
            image, depth = (PurePosixPath(name.replace("\\", "/").lstrip("/")).as_posix() for name in fields[:2])
            found.add((image, depth))
    if not found:
        raise DatasetError(f"nyu: the split list {path} is empty; expected IMAGE DEPTH FOCAL lines.")
    return sorted(found)
