"""7-Scenes: indoor Kinect sequences, colour and depth frame by frame.

Expected below the data root (in `7scenes/`, `7-scenes/`, `seven_scenes/`, `rgbd/7scenes/` or the root itself), as it is
published, every scene with all its sequences unpacked and its lists of them:

    chess/TrainSplit.txt   chess/TestSplit.txt
    chess/seq-01/frame-000000.color.png   chess/seq-01/frame-000000.depth.png   ...   fire/...

A single sequence, frames without a scene around them, is read too: its first three quarters are `train`, the rest
`test`. Neighbouring frames look alike, so that shows that things run and compares nothing.

Depth is in millimetres, 0 and 65535 where there is none. Colour and depth come from two cameras that were not aligned:
edges of the one are some pixels off in the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.datasets.dataset import DatasetInfo, DenseDataset, read_image
from densebench.datasets.kinect import read_metres
from densebench.datasets.layout import require_files
from densebench.errors import DatasetError

PLACES = ("7scenes", "7-scenes", "seven_scenes", "rgbd/7scenes", ".")
SCENES = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
LISTS = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
COLOR, DEPTH = re.compile(r"(frame-\d+)\.color\.(png|jpg)"), ".depth.png"
PER_METRE, VOID_DEPTH = 1000.0, (65535,)


class SevenScenes(DenseDataset):
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
        how_to_get="Get the scenes from Microsoft Research's page of the RGB-D Dataset 7-Scenes and extract them, and "
        "the seq-*.zip inside, in a folder 7scenes/ below the data root.",
    )

    def __init__(
        self, root: str | Path | None, split: str = "test", transforms: Callable[[Any, Any], Any] | None = None
    ) -> None:
        super().__init__(root, split, transforms)
        self.folder, folders = self._find(root)
        frames = [(folder, *found) for folder in folders for found in _frames(self.folder / folder)]
        if folders == ["."]:
            part = len(frames) * 3 // 4
            frames = frames[:part] if split == "train" else frames[part:]
        if not frames:
            raise DatasetError(f"{self.info.name}: no frame of split {split} below {self.folder}. {self._mend(root)}")
        self.pairs = [(Path(folder, f"{name}.color.{end}"), Path(folder, name + DEPTH)) for folder, name, end in frames]
        self.ids = [image.as_posix().split(".color.")[0] for image, _ in self.pairs]
        depths: dict[Path, list[str]] = defaultdict(list)
        for _, depth in self.pairs:
            depths[self.folder / depth.parent].append(depth.name)
        require_files(self.info, split, depths)

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        return read_image(self.files(index)[0], index)

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres, 0 = not measured; raises as `kinect.read_metres` does."""
        path = self.files(index)[1]
        return read_metres(path, index, PER_METRE, "7-Scenes", self.info.how_to_get, VOID_DEPTH)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and depth map of one sample."""
        image, depth = self.pairs[index]
        return self.folder / image, self.folder / depth

    def _find(self, root: str | Path | None) -> tuple[Path, list[str]]:
        """Return the first place with scenes, or else with frames, and the folders below it that hold the split."""
        if root is None:
            raise DatasetError(
                f"{self.info.name}: no data root given. Use --data-root DIR or set DENSEBENCH_DATA. "
                f"{self.info.how_to_get}"
            )
        for place in PLACES:
            folder = Path(root) / place
            scenes = [scene for scene in SCENES if (folder / scene).is_dir()]
            if scenes:
                return folder, [f"{scene}/{name}" for scene in scenes for name in self._listed(folder / scene)]
            if folder.is_dir() and _frames(folder):
                return folder, ["."]
        raise DatasetError(
            f"{self.info.name}: no folder of a scene ({', '.join(SCENES)}) and no frame-*.color.* below "
            f"{', '.join(str(Path(root) / place) for place in PLACES)}. {self._mend(root)}"
        )

    def _listed(self, scene: Path) -> list[str]:
        """Return the sequences (seq-01) of the split, as the scene's list names them (sequence1)."""
        path = scene / LISTS[self.split]
        if not path.exists():
            raise DatasetError(f"{self.info.name}: the split list {path} is missing. {self.info.how_to_get}")
        names = []
        for line in filter(None, map(str.strip, path.read_text().splitlines())):
            number = re.fullmatch(r"sequence(\d+)", line)
            if number is None:
                raise DatasetError(f"{path} holds {line!r}; expected lines such as sequence1.")
            names.append(f"seq-{int(number[1]):02d}")
            if not (scene / names[-1]).is_dir():
                raise DatasetError(f"{scene / names[-1]} is missing, which {path} lists. {self.info.how_to_get}")
        return sorted(names)

    def _mend(self, root: str | Path | None) -> str:
        return f"{self.info.how_to_get} Then run `densebench data check {self.info.name} --data-root {root}`."


def _frames(folder: Path) -> list[tuple[str, str]]:
    """Return the sorted frames of a folder, (name, ending of the colour image)."""
    matches = (COLOR.fullmatch(path.name) for path in folder.iterdir())
    return sorted((found[1], found[2]) for found in matches if found)
