"""7-Scenes: indoor Kinect sequences, colour and depth frame by frame.

Expected below the data root (in `7scenes/`, `7-scenes/`, `seven_scenes/`, `rgbd/7scenes/` or the root itself), as it is
published, every scene with all its sequences and its lists of them:

    chess/TrainSplit.txt   chess/TestSplit.txt
    chess/seq-01/frame-000000.color.png   chess/seq-01/frame-000000.depth.png   ...   fire/...

A scene may be its archive, chess.zip, and a sequence its own, seq-01.zip, in the folder of the scene or in its archive,
where this holds it uncompressed; where not, the scene has to be unpacked and its sequences stay packed.

A single sequence, frames without a scene around them, is read too: its first three quarters are `train`, the rest
`test`. Neighbouring frames look alike, so that shows that things run and compares nothing.

Depth is in millimetres, 0 and 65535 where there is none. Colour and depth come from two cameras that were not aligned:
edges of the one are some pixels off in the other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, Root, Transforms
from densebench.datasets.files import Archived, Tree, find_trees, trees
from densebench.datasets.io.id_lists import read_lines
from densebench.datasets.kinect import read_metres
from densebench.datasets.layout import MissingError

PLACES = ("7scenes", "7-scenes", "seven_scenes", "rgbd/7scenes", ".")
SCENES = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
LISTS = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
COLOR, DEPTH = re.compile(r"(frame-\d+)\.color\.(png|jpg)"), ".depth.png"
PER_METRE, VOID_DEPTH = 1000.0, (65535,)


class SevenScenes(Archived):
    """7-Scenes with the official sequences for training and test; ids are paths without their ending."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="seven_scenes",
        title="7-Scenes",
        classes=(),
        palette=(),
        splits={"train": 26_000, "test": 17_000},
        val="test",
        targets=frozenset({"depth"}),
        licence="non-commercial research use (Microsoft Research)",
        citation="Shotton et al., Scene Coordinate Regression Forests for Camera Relocalization in RGB-D Images, "
        "CVPR 2013",
        how_to_get="Get the scenes (chess.zip, ...) from Microsoft Research's page of the RGB-D Dataset 7-Scenes and "
        "put them, packed or not, in a folder 7scenes/ below the data root.",
    )

    def __init__(self, root: Root, split: str = "test", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        self._frames = self._find()
        if not self._frames:
            raise DatasetError(
                f"{self.info.name}: no frame of split {split} below {root}. {self.info.how_to_get} "
                f"Then run `densebench data check {self.info.name} --data-root {root}`."
            )
        self.ids = [id_ for id_, *_ in self._frames]

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres, 0 = not measured; raises as `kinect.read_metres` does."""
        path = self.files(index)[1]
        return read_metres(path, index, PER_METRE, "7-Scenes", self.info.how_to_get, VOID_DEPTH)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and depth map of one sample; paths may lead through an archive."""
        id_, folder, ending = self._frames[index]
        name = id_.rpartition("/")[2]
        return folder / f"{name}.color.{ending}", folder / f"{name}{DEPTH}"

    def _find(self) -> list[tuple[str, Path, str]]:
        """Return id, folder and ending of the image of each frame, of all scenes or else of a sequence alone."""
        try:
            scenes = find_trees(self.info, self.root, PLACES, SCENES)
        except MissingError:
            for folder in (self.root / place for place in PLACES) if self.root else ():
                if folder.is_dir() and (frames := _frames(os.listdir(folder))):
                    part = len(frames) * 3 // 4
                    return self._with_depth(Tree(folder), "", frames[:part] if self.split == "train" else frames[part:])
            raise
        found = []
        for scene, tree in scenes.items():
            for name in self._listed(tree):
                sequence = next(trees(tree.folder, f"{name}/."), None)
                if sequence is None:
                    listing = tree.path(LISTS[self.split])
                    raise DatasetError(f"{tree.path(name)} is missing, which {listing} lists. {self.info.how_to_get}")
                found += self._with_depth(sequence, f"{scene}/{name}/", _frames(sequence.names("")))
        return found

    def _listed(self, scene: Tree) -> list[str]:
        """Return the sequences (seq-01) of the split, as the scene's list names them (sequence1)."""
        path = scene.path(LISTS[self.split])
        if not scene.holds(path.name):
            raise DatasetError(f"{self.info.name}: the split list {path} is missing. {self.info.how_to_get}")
        names = []
        for line in read_lines(path, f"{self.info.name}: the split list {path}"):
            number = re.fullmatch(r"sequence(\d+)", line)
            if number is None:
                raise DatasetError(f"{path} holds {line!r}; expected lines such as sequence1.")
            names.append(f"seq-{int(number[1]):02d}")
        return sorted(names)

    def _with_depth(self, tree: Tree, prefix: str, frames: list[tuple[str, str]]) -> list[tuple[str, Path, str]]:
        tree.require(self.info, self.split, [name + DEPTH for name, _ in frames])
        return [(prefix + name, tree.folder, ending) for name, ending in frames]


def _frames(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the sorted frames among the files of a folder, (name, ending of the colour image)."""
    return sorted((found[1], found[2]) for found in map(COLOR.fullmatch, names) if found)
