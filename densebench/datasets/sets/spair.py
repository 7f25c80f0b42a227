"""SPair-71k: pairs of images of 18 categories with up to 30 keypoints.

Expected below the data root (the root itself, `SPair-71k/` or `spair/`), or in SPair-71k.tar or .zip as they are; the
published SPair-71k.tar.gz has to be unpacked:

    JPEGImages/CATEGORY/ID.jpg   Layout/large/SPLIT.txt   ImageAnnotation/CATEGORY/ID.json

Where there is no `ImageAnnotation/`, keypoints are put together from `PairAnnotation/SPLIT/PAIR.json`: the points of
a pair are those that both of its images have, so what the pairs of an image list is what matching it needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from densebench.core.errors import DatasetError
from densebench.core.regular import parse_json
from densebench.datasets.dataset import DatasetInfo, Keypoints, Root, Transforms
from densebench.datasets.files import find_tree
from densebench.datasets.io.archives import read_bytes
from densebench.datasets.io.id_lists import read_ids
from densebench.datasets.io.palettes import voc_palette
from densebench.datasets.pairs import PairedDataset

PLACES = ("SPair-71k", "spair", ".")
ARCHIVES = ("SPair-71k.tar", "SPair-71k.zip")
CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dog", "horse", "motorbike",
    "person", "pottedplant", "sheep", "train", "tvmonitor",
)  # fmt: skip
POINTS = 30
"""Keypoint ids of a category run from 0 to 29; the same id is the same part in every image of the category."""


class SPair(PairedDataset):
    """SPair-71k, size `large`; an id is CATEGORY/IMAGE, because one image can be in several categories."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="spair",
        title="SPair-71k",
        classes=CATEGORIES,
        palette=voc_palette(len(CATEGORIES)),
        splits={"trn": 0, "val": 0, "test": 0},  # published in pairs: 53,340, 5,384 and 12,234 of 1,800 images
        train="test",  # matching learns nothing, so a copy of the test split alone is complete
        val="test",
        ignored=(),
        background=(),
        targets=frozenset({"keypoints"}),
        licence="images: Flickr terms, research use; annotations: research use",
        citation="Min et al., SPair-71k: A Large-scale Benchmark for Semantic Correspondence, 2019",
        how_to_get="Download SPair-71k.tar.gz from the SPair-71k page of POSTECH's Computer Vision Lab and extract it "
        "below the data root (`tar -xzf`), or only decompress it (`gunzip`).",
    )

    def __init__(self, root: Root, split: str = "test", transforms: Transforms = None) -> None:
        """Raises DatasetError for missing files and for pairs that are not named NUMBER-SOURCE-TARGET:CATEGORY."""
        super().__init__(root, split, transforms)
        lists = find_tree(self.info, root, PLACES, "Layout/large", ARCHIVES, holding=f"{split}.txt")
        self._layout = lists.path(f"{split}.txt")
        self._names = read_ids(self._layout, f"spair: the split list {self._layout}")
        named = [self._parse(name) for name in self._names]
        self.ids = sorted({image for pair in named for image in pair})
        where = {image: i for i, image in enumerate(self.ids)}
        self._pairs = [(where[source], where[target]) for source, target in named]
        self._images = find_tree(self.info, root, PLACES, "JPEGImages", ARCHIVES)
        self._images.require(self.info, split, [f"{id_}.jpg" for id_ in self.ids])
        kinds = ("ImageAnnotation", f"PairAnnotation/{split}")
        self._annotations = find_tree(self.info, root, PLACES, kinds, ARCHIVES)
        self._from_pairs: Mapping[int, tuple[Keypoints, Sequence[float] | None]] | None = None
        by_image = self._annotations.folder.name == "ImageAnnotation"
        annotated = self.ids if by_image else self._names
        self._annotations.require(self.info, split, [f"{name}.json" for name in annotated])
        if not by_image:
            self._from_pairs = self._read_pairs()

    def pairs(self) -> Sequence[tuple[int, int]]:
        """Return the pairs of the split, in the order of their numbers."""
        return self._pairs

    def keypoints(self, index: int) -> Sequence[Keypoints]:
        """Return the one annotated object of an image, its points (30, 2) by keypoint id."""
        path = self.files(index)[1]
        if self._from_pairs is not None:
            thing, size = self._from_pairs[index]
        else:
            state = _read_json(path, ("kps", "bndbox"))
            points = {number: xy for number, xy in state["kps"].items() if xy is not None}
            thing = _keypoints(self.ids[index].split("/")[0], points, state["bndbox"], path)
            sides = [state[key] for key in ("image_width", "image_height") if key in state]
            size = sides if len(sides) == 2 else None
        return (self.held_against_image(index, thing, path, size),)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the image, then its annotation or the pair files that name it; paths may lead through an archive."""
        image = self._images.path(f"{self.ids[index]}.jpg")
        if self._from_pairs is None:
            return image, self._annotations.path(f"{self.ids[index]}.json")
        mine = (name for name, pair in zip(self._names, self._pairs, strict=True) if index in pair)
        return image, *(self._annotations.path(f"{name}.json") for name in mine)

    def _parse(self, name: str) -> tuple[str, str]:
        """Return the ids of source and target of a pair's name."""
        found = re.fullmatch(r"\d+-([^-:/]+)-([^-:/]+):([^-:/]+)", name)
        if found is None or found[3] not in CATEGORIES:
            raise DatasetError(
                f"spair: {self._layout} lists {name!r}; expected NUMBER-SOURCE-TARGET:CATEGORY with one of the 18 "
                f"categories, such as 005330-2009_004940-2010_002026:cat. {self.info.how_to_get}"
            )
        return f"{found[3]}/{found[1]}", f"{found[3]}/{found[2]}"

    def _read_pairs(self) -> dict[int, tuple[Keypoints, Sequence[float] | None]]:
        """Put the keypoints of each image together from all pairs that name it; with the image's size if stated."""
        points: dict[int, dict[str, list[float]]] = {}
        boxes: dict[int, list[float]] = {}
        sizes: dict[int, Sequence[float] | None] = {}
        for name, pair in zip(self._names, self._pairs, strict=True):
            path = self._annotations.path(f"{name}.json")
            needed = [f"{side}_{what}" for side in ("src", "trg") for what in ("kps", "bndbox")]
            state = _read_json(path, ("kps_ids", *needed))
            for side, image in zip(("src", "trg"), pair, strict=True):
                known = points.setdefault(image, {})
                found = dict(zip(state["kps_ids"], state[f"{side}_kps"], strict=False))
                other = [number for number in found.keys() & known.keys() if found[number] != known[number]]
                box = boxes.setdefault(image, state[f"{side}_bndbox"])
                stated = state.get(f"{side}_imsize")  # width, height, channels
                sizes[image] = stated[:2] if isinstance(stated, list) and len(stated) >= 2 else None
                if other or box != state[f"{side}_bndbox"] or len(found) != len(state[f"{side}_kps"]):
                    raise DatasetError(
                        f"spair: {path} has other keypoints or another box for {self.ids[image]} than the pairs "
                        f"before it; expected one annotation per image. {self.info.how_to_get}"
                    )
                known.update(found)
        return {
            image: (
                _keypoints(self.ids[image].split("/")[0], known, boxes[image], self._annotations.folder),
                sizes[image],
            )
            for image, known in points.items()
        }


def _keypoints(category: str, points: Mapping[str, Sequence[float]], box: Sequence[float], path: Path) -> Keypoints:
    xy = np.zeros((POINTS, 2), dtype=np.float32)
    visible = np.zeros(POINTS, dtype=np.bool_)
    try:
        for number, place in points.items():
            xy[int(number)] = place
            visible[int(number)] = True
        x1, y1, x2, y2 = (float(v) for v in box)
    except (IndexError, TypeError, ValueError) as error:
        raise DatasetError(
            f"spair: {path} is not an annotation of SPair-71k ({error}); expected keypoints 0..{POINTS - 1} as [x, y] "
            "and a box of four numbers."
        ) from None
    return Keypoints(category, xy, visible, (x1, y1, x2, y2))


def _read_json(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    try:
        state = parse_json(read_bytes(path))
        missing = [name for name in needed if name not in state]
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"spair: {path} cannot be read ({error}). Get the original file.") from None
    if missing:
        raise DatasetError(f"spair: {path} has no {', '.join(missing)}. Get the original file.")
    return state
