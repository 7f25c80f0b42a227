"""`scenes` on disk as another dataset has it: `densebench data export scenes --layout voc DIR`.

It shows each layout on a few files that anybody may have, and it is how the loaders are tested. Class numbers stay what
they are, so a class has the name that the other dataset gives its number; numbers that this does not have become void.
Images of the JPEG layouts lose what JPEG loses; label maps lose nothing; depth loses what is below a millimetre or
beyond 10 m; of key points, PF-WILLOW wants ten where things in scenes have five to eight (see `ten_points`).
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
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
from densebench.datasets.sets.pascal_part import CLASSES as PARTS
from densebench.datasets.sets.pf_willow import GROUPS
from densebench.datasets.sets.spair import CATEGORIES
from densebench.datasets.user.folder import ImageFolder

NAMES = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Layout:
    """Where the files of a dataset are; `{id}`, `{split}` and `{name}` (training, validation) are filled in."""

    image: str = ""
    mask: str = ""
    lists: str = ""
    """A file of ids, one per line."""


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
    "coco_things": Layout("coco/{split}2017/{id}.jpg"),
    "coco_things_instances": Layout("coco/{split}2017/{id}.jpg"),
    "coco_stuff": Layout("coco/{split}2017/{id}.jpg", "coco/annotations/stuff_{split}2017_pixelmaps/{id}.png"),
    "coco_stuff27": Layout("coco/{split}2017/{id}.jpg", "coco/stuffthingmaps/{split}2017/{id}.png"),
    "coco_stuff164k": Layout("coco/{split}2017/{id}.jpg", "coco/stuffthingmaps/{split}2017/{id}.png"),
    "pascal_context": Layout(
        f"{_VOC10}/JPEGImages/{{id}}.jpg",
        f"{_VOC10}/SegmentationClassContext/{{id}}.png",
        f"{_VOC10}/ImageSets/SegmentationContext/{{split}}.txt",
    ),
    "pascal_part": Layout(f"{_VOC10}/JPEGImages/{{id}}.jpg", lists=f"{_VOC10}/ImageSets/PascalPart/{{split}}.txt"),
    "nyu": Layout("nyu/scenes/{id}.jpg"),
    "seven_scenes": Layout(),
    "spair": Layout(),
    "pf_willow": Layout(),
    "folder": Layout("{split}/{id}.png"),
}
LAYOUTS |= {
    name: LAYOUTS[other]
    for name, other in {
        "ade20k_150": "ade20k",
        "cityscapes27": "cityscapes",
        "coco_things80": "coco_things",
        "coco_things80_instances": "coco_things_instances",
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
    stored = _stored(other)
    if where.lists:
        to.write(where.lists.format(**names), "".join(f"{id_}\n" for id_ in data.ids))
    for sample in _samples(data):
        if where.image:
            to.save(sample.image, where.image.format(id=sample.id, **names))
        if where.mask:
            assert sample.mask is not None
            to.save(Image.fromarray(stored[sample.mask]), where.mask.format(id=sample.id, **names))
    if layout in _MORE:
        _MORE[layout](data, to, split)
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

    def save_mat(self, variables: Mapping[str, Any], name: str, **options: Any) -> None:
        """Write a MATLAB file, with a header that does not say when."""
        from scipy.io import savemat

        buffer = io.BytesIO()
        savemat(buffer, dict(variables), **options)  # type: ignore[arg-type]  # its stubs do not know open files
        self.write(name, b"MATLAB 5.0 MAT-file, by densebench".ljust(116) + buffer.getvalue()[116:])

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


def _samples(data: DenseDataset) -> Iterator[Sample]:
    return (data.sample(i) for i in range(len(data)))


def _stored(other: Any) -> NDArray[np.uint8]:
    """Return the (256,) table from classes to the values that the other dataset's files hold."""
    merge = getattr(other, "merge", None)
    table = getattr(other, "labels", merge.lookup() if merge else np.arange(256))
    void = int([*np.flatnonzero(table == VOID), *other.info.ignored][0])  # or a class that does not count
    values = np.full(256, void, dtype=np.uint8)
    for label in range(other.info.n_classes):
        values[label] = np.flatnonzero(table == label)[0]
    return values


def _things(data: DenseDataset, to: Target, split: str, layout: str = "coco_things") -> None:
    """Panoptic PNGs, a segment per category, and their JSON."""
    stored = _stored(DATASETS[layout])
    annotations = []
    for sample in _samples(data):
        assert sample.mask is not None
        categories = stored[sample.mask].astype(np.uint32)
        segments = np.where(categories > 0, categories * 1000 + 7, 0)
        colours = np.stack([segments & 255, segments >> 8 & 255, segments >> 16], axis=-1).astype(np.uint8)
        name = f"{sample.id}.png"
        to.save(Image.fromarray(colours), f"coco/annotations/panoptic_{split}2017/{name}")
        infos = [{"id": int(c) * 1000 + 7, "category_id": int(c)} for c in np.unique(categories) if c]
        annotations.append({"file_name": name, "segments_info": infos})
    to.write(f"coco/annotations/panoptic_{split}2017.json", json.dumps({"annotations": annotations}))


def _instances(data: DenseDataset, to: Target, split: str, layout: str = "coco_things_instances") -> None:
    """An instances JSON; everything is a crowd, because run lengths, unlike polygons, keep every pixel."""
    stored = _stored(DATASETS[layout])
    images, annotations = [], []
    for number, sample in enumerate(_samples(data)):
        assert sample.mask is not None
        height, width = sample.mask.shape
        images.append({"id": number, "file_name": f"{sample.id}.jpg", "height": height, "width": width})
        for category in np.unique(stored[sample.mask]):
            inside = stored[sample.mask] == category
            if category == 0:
                continue
            changes = np.flatnonzero(np.diff(inside.T.ravel(), prepend=False))
            annotation = {"image_id": number, "category_id": int(category), "iscrowd": 1, "area": int(inside.sum())}
            counts = np.diff([0, *changes, inside.size]).tolist()
            annotations.append({**annotation, "segmentation": {"counts": counts, "size": [height, width]}})
    state = {"images": images, "annotations": annotations}
    to.write(f"coco/annotations/instances_{split}2017.json", json.dumps(state))


def _parts(data: DenseDataset, to: Target, split: str) -> None:
    """Annotations of Pascal-Part: each image a cat whose parts are the classes."""
    for sample in _samples(data):
        assert sample.mask is not None
        parts = [
            {"part_name": name, "mask": (sample.mask == label).astype(np.uint8)}
            for label, name in enumerate(PARTS)
            if (sample.mask == label).any()
        ]
        thing = {"class": "cat", "class_ind": 8, "mask": (sample.mask < len(PARTS)).astype(np.uint8), "parts": parts}
        name = f"{_VOC10}/Annotations_Part/{sample.id}.mat"
        to.save_mat({"anno": {"imname": sample.id, "objects": [thing]}}, name, do_compression=True)


def _nyu(data: DenseDataset, to: Target, split: str) -> None:
    """Depth in millimetres and the list of pairs."""
    lines = []
    for sample in _samples(data):
        assert sample.depth is not None
        to.save(_millimetres(sample.depth), f"nyu/scenes/{sample.id}_depth.png")
        lines.append(f"scenes/{sample.id}.jpg scenes/{sample.id}_depth.png 518.8579\n")
    to.write(f"nyu/nyu_{split}.txt", "".join(lines))


def _seven_scenes(data: DenseDataset, to: Target, split: str) -> None:
    """One sequence of the scene "chess" for training, another for the test, and the lists of them."""
    number = 1 if split == "train" else 2
    scene = "7scenes/chess"
    for frame, sample in enumerate(_samples(data)):
        assert sample.depth is not None
        name = f"{scene}/seq-{number:02d}/frame-{frame:06d}"
        to.save(sample.image, f"{name}.color.png")
        to.save(_millimetres(sample.depth), f"{name}.depth.png")
    to.write(f"{scene}/{split.capitalize()}Split.txt", f"sequence{number}\n")


def _spair(data: DenseDataset, to: Target, split: str) -> None:
    """The first thing of each class in an image, under the category with its class's number; neighbours are pairs."""
    images: dict[str, list[str]] = {}
    for sample in _samples(data):
        first = {thing.category: thing for thing in reversed(sample.keypoints) if thing.visible.any()}
        for category, thing in first.items():
            name = CATEGORIES[data.info.classes.index(category) % len(CATEGORIES)]
            if sample.id in images.setdefault(name, []):
                continue
            images[name].append(sample.id)
            points = [xy if seen else None for xy, seen in zip(thing.xy.tolist(), thing.visible, strict=True)]
            size = dict(zip(("image_width", "image_height"), sample.image.size, strict=True))
            state = {"kps": {str(i): xy for i, xy in enumerate(points)}, "bndbox": list(thing.bbox), **size}
            to.write(f"SPair-71k/ImageAnnotation/{name}/{sample.id}.json", json.dumps(state))
            to.save(sample.image, f"SPair-71k/JPEGImages/{name}/{sample.id}.jpg")
    pairs = [(name, a, b) for name, ids in images.items() for a, b in itertools.pairwise(ids)]
    if not pairs:
        raise UsageError(f"the {len(data)} images of {data.info.name} show no category twice; export more of them.")
    lines = (f"{i:06d}-{a}-{b}:{name}\n" for i, (name, a, b) in enumerate(pairs))
    to.write(f"SPair-71k/Layout/large/{split}.txt", "".join(lines))


def ten_points(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ten points, (10, 2), for the K of a thing, (K, 2) with 5 <= K <= 10: these, then midpoints.

    A midpoint lies between a point and the next, from the first two on; the next of the last is the first. Midpoints
    correspond across images as nearly as places halfway between two named places of a thing do.
    """
    return np.concatenate([xy, (xy + np.roll(xy, -1, axis=0)) / 2])[:10]


def _pf_willow(data: DenseDataset, to: Target, split: str) -> None:
    """A group per class of things, of up to ten images that show one of them with all its key points, as `ten_points`.

    The first such thing of an image counts. The groups are the ten classes with the most such images, at least two, in
    the order of their numbers, under the names that PF-WILLOW's groups have.
    """
    whole: dict[str, dict[int, NDArray[np.float32]]] = {name: {} for name in data.info.classes}
    for index in range(len(data)):
        for thing in data.keypoints(index):
            if thing.visible.all() and 5 <= len(thing.xy) <= 10 and len(whole[thing.category]) < 10:
                whole[thing.category].setdefault(index, thing.xy)
    most = sorted((name for name in whole if len(whole[name]) > 1), key=lambda name: -len(whole[name]))[: len(GROUPS)]
    if not most:
        raise UsageError(f"the {len(data)} images of {data.info.name} show no class twice as a whole; export more.")
    for group, name in zip(GROUPS, filter(most.__contains__, whole), strict=False):
        for index, xy in whole[name].items():
            stem = f"PF-dataset/{group}/{data.ids[index]}"
            to.save(data.image(index), f"{stem}.png")
            to.save_mat({"pts_coord": ten_points(xy).T}, f"{stem}.mat")


_MORE: Mapping[str, Callable[[DenseDataset, Target, str], None]] = {
    "coco_things": _things,
    "coco_things80": partial(_things, layout="coco_things80"),
    "coco_things_instances": _instances,
    "coco_things80_instances": partial(_instances, layout="coco_things80_instances"),
    "pascal_part": _parts,
    "nyu": _nyu,
    "seven_scenes": _seven_scenes,
    "spair": _spair,
    "pf_willow": _pf_willow,
}


def _millimetres(depth: NDArray[np.float32]) -> Image.Image:
    """Return a depth map of 16 bits; what is farther than 10 m counts as not measured."""
    return Image.fromarray(np.where(depth <= 10, np.round(depth * 1000), 0).astype(np.uint16))
