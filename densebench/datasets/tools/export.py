"""A dataset on disk as another one has it: `densebench data export scenes --layout voc DIR`.

It shows a layout on a few files that anybody may have. Class numbers stay what they are, so a class has the name that
the other dataset gives its number; numbers that this does not have become void. Images of the JPEG layouts lose what
JPEG loses; label maps lose nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.errors import UsageError
from densebench.core.paths import write_new
from densebench.core.registry import unknown_name
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.dataset import VOID, DenseDataset, Sample
from densebench.datasets.user.folder import ImageFolder

NAMES = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Layout:
    """Where the files of a dataset are; `{id}`, `{split}` and `{name}` (training, validation) are filled in."""

    image: str = ""
    mask: str = ""
    lists: str = ""
    """A file of ids, one per line."""
    more: Callable[[DenseDataset, Target, str], None] | None = None
    """Writes what else it has, from the samples of a split that the layout calls so."""


_VOC, _VOC10 = "VOCdevkit/VOC2012", "VOCdevkit/VOC2010"
LAYOUTS = {
    "voc": Layout(
        f"{_VOC}/JPEGImages/{{id}}.jpg",
        f"{_VOC}/SegmentationClass{{aug}}/{{id}}.png",
        f"{_VOC}/ImageSets/Segmentation/{{split}}.txt",
    ),
    "ade20k": Layout("ADEChallengeData2016/images/{name}/{id}.jpg", "ADEChallengeData2016/annotations/{name}/{id}.png"),
    "camvid": Layout("camvid/{split}/{id}.png", "camvid/{split}annot/{id}.png"),
    "cityscapes": Layout(
        "cityscapes/leftImg8bit/{split}/city/{id}_leftImg8bit.png",
        "cityscapes/gtFine/{split}/city/{id}_gtFine_labelIds.png",
    ),
    "acdc": Layout(
        "acdc/rgb_anon/fog/{split}/sequence/{id}_rgb_anon.png", "acdc/gt/fog/{split}/sequence/{id}_gt_labelIds.png"
    ),
    "coco": Layout("coco/{split}2017/{id}.jpg"),
    "coco_stuff": Layout("coco/{split}2017/{id}.jpg", "coco/annotations/stuff_{split}2017_pixelmaps/{id}.png"),
    "coco_stuff27": Layout("coco/{split}2017/{id}.jpg", "coco/stuffthingmaps/{split}2017/{id}.png"),
    "coco_stuff164k": Layout("coco/{split}2017/{id}.jpg", "coco/stuffthingmaps/{split}2017/{id}.png"),
    "pascal_context": Layout(
        f"{_VOC10}/JPEGImages/{{id}}.jpg",
        f"{_VOC10}/SegmentationClassContext/{{id}}.png",
        f"{_VOC10}/ImageSets/SegmentationContext/{{split}}.txt",
    ),
    "folder": Layout("{split}/{id}.png"),
}
LAYOUTS |= {
    name: LAYOUTS[other]
    for name, other in {
        "ade20k_150": "ade20k",
        "cityscapes27": "cityscapes",
        "pascal_context59": "pascal_context",
    }.items()
}


def export(data: DenseDataset, layout: str, folder: Path, split: str = "", overwrite: bool = False) -> int:
    """Write the samples of a split below `folder` in the layout of another dataset, as its `split`; return how many.

    `split` is by default the layout's training or validation split, as `data` is one or the other. Raises UsageError
    for a layout nobody wrote down, for one that needs ground truth which `data` does not have, and for a file that is
    there with other contents, without `overwrite`; lists are looked at before anything is written.
    """
    to = Target(folder, overwrite)
    other = _known(layout)
    lacking = other.info.targets - data.info.targets
    if lacking:
        raise UsageError(f"the layout of {layout} needs {', '.join(lacking)}, which {data.info.name} does not have.")
    split = split or (other.info.val if data.split == data.info.val else other.info.train)
    where, names = LAYOUTS[layout], _names(split)
    stored = stored_values(other)
    if where.lists:
        to.write(where.lists.format(**names), "".join(f"{id_}\n" for id_ in data.ids))
    for sample in samples_of(data):
        if where.image:
            to.save(sample.image, where.image.format(id=sample.id, **names))
        if where.mask:
            assert sample.mask is not None
            to.save(Image.fromarray(stored[sample.mask]), where.mask.format(id=sample.id, **names))
    if where.more:
        where.more(data, to, split)
    return len(data)


def _names(split: str) -> dict[str, str]:
    """Return what stands in the paths of a layout for a split."""
    return {"split": split, "name": NAMES.get(split, split), "aug": "Aug" if split == "trainaug" else ""}


@dataclass(frozen=True)
class Target:
    """The folder that is written to; files that are there with other contents stay, unless `overwrite` says so."""

    folder: Path
    overwrite: bool = False

    def save(self, image: Image.Image, name: str) -> None:
        """Write a picture."""
        buffer = io.BytesIO()
        if name.endswith(".jpg"):
            image.save(buffer, "JPEG", quality=95, subsampling=0)
        else:
            image.save(buffer, "PNG")
        self.write(name, buffer.getvalue())

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file; raises UsageError where another one is there."""
        write_new(self.folder / name, content, self.overwrite)


def export_splits(
    name: str,
    layout: str,
    folder: Path,
    limit: int | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> Iterator[tuple[str, int]]:
    """Export the train and val splits of a named dataset, at most `limit` images of each; yields split and images.

    A layout that has only one split gets the val split. Raises as `export` does, UsageError where images of both
    splits would be one file, and StorageError where a file cannot be written.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: expected at least 1.")
    info, other = DATASETS[resolve_dataset(name)].info, _known(layout).info
    splits = {info.train: other.train, info.val: other.val} if other.train != other.val else {info.val: other.val}
    shown = {}
    for split in splits:
        data = load_dataset(name, split, root)
        shown[split] = data if limit is None else data.select(range(min(limit, len(data))))
    image = LAYOUTS[layout].image
    paths = [{image.format(id=i, **_names(to)) for i in shown[split].ids} for split, to in splits.items()]
    if image and len(paths) > 1 and (same := paths[0] & paths[1]):
        apart = [each for each, where in LAYOUTS.items() if "{split}" in where.image or "{name}" in where.image]
        raise UsageError(
            f"images of both splits of {info.name} would be one file, {min(same)}, and {len(same) - 1} more. Rename "
            f"them, or choose a --layout that keeps splits apart: {', '.join(apart)}."
        )
    for split, chosen in shown.items():
        yield split, export(chosen, layout, folder, overwrite=overwrite)


def _known(layout: str) -> type[DenseDataset]:
    if layout not in LAYOUTS:
        near = str(unknown_name("layout", layout, LAYOUTS)).split(" Run ")[0]
        raise UsageError(f"{near} There are {', '.join(LAYOUTS)}.")
    return ImageFolder if layout == "folder" else DATASETS[layout]


def samples_of(data: DenseDataset) -> Iterator[Sample]:
    """Yield all samples of a dataset."""
    return (data.sample(i) for i in range(len(data)))


def stored_values(other: Any) -> NDArray[np.uint8]:
    """Return the (256,) table from classes to the values that the other dataset's files hold."""
    merge = getattr(other, "merge", None)
    table = getattr(other, "labels", merge.lookup() if merge else np.arange(256))
    void = int([*np.flatnonzero(table == VOID), *other.info.ignored][0])  # or a class that does not count
    values = np.full(256, void, dtype=np.uint8)
    for label in range(other.info.n_classes):
        values[label] = np.flatnonzero(table == label)[0]
    return values
