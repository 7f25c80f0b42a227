"""Layouts that only tests write: scenes as COCO, Pascal-Part, NYU, 7-Scenes, SPair and PF-WILLOW have them.

Depth loses what is below a millimetre or beyond 10 m; of keypoints, PF-WILLOW wants ten where things in scenes have
five to eight (see `ten_points`).
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from densebench.core.errors import UsageError
from densebench.datasets import DATASETS
from densebench.datasets.dataset import DenseDataset
from densebench.datasets.sets.pascal_part import CLASSES as PARTS
from densebench.datasets.sets.pf_willow import GROUPS
from densebench.datasets.sets.spair import CATEGORIES
from densebench.datasets.tools.export import LAYOUTS as LAYOUTS
from densebench.datasets.tools.export import Layout, Target, samples_of, stored_values
from densebench.datasets.tools.export import export as export
from densebench.datasets.tools.export import export_splits as export_splits


def _things(data: DenseDataset, to: Target, split: str, layout: str = "coco_things") -> None:
    """Panoptic PNGs, a segment per category, and their JSON."""
    stored = stored_values(DATASETS[layout])
    annotations = []
    for sample in samples_of(data):
        assert sample.mask is not None
        categories = stored[sample.mask].astype(np.uint32)
        segments = np.where(categories > 0, categories * 1000 + 7, 0)
        colors = np.stack([segments & 255, segments >> 8 & 255, segments >> 16], axis=-1).astype(np.uint8)
        name = f"{sample.id}.png"
        to.save(Image.fromarray(colors), f"coco/annotations/panoptic_{split}2017/{name}")
        infos = [{"id": int(c) * 1000 + 7, "category_id": int(c)} for c in np.unique(categories) if c]
        annotations.append({"file_name": name, "segments_info": infos})
    to.write(f"coco/annotations/panoptic_{split}2017.json", json.dumps({"annotations": annotations}))


def _instances(data: DenseDataset, to: Target, split: str, layout: str = "coco_things_instances") -> None:
    """An instances JSON; everything is a crowd, because run lengths, unlike polygons, keep every pixel."""
    stored = stored_values(DATASETS[layout])
    images, annotations = [], []
    for number, sample in enumerate(samples_of(data)):
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
    for sample in samples_of(data):
        assert sample.mask is not None
        parts = [
            {"part_name": name, "mask": (sample.mask == label).astype(np.uint8)}
            for label, name in enumerate(PARTS)
            if (sample.mask == label).any()
        ]
        thing = {"class": "cat", "class_ind": 8, "mask": (sample.mask < len(PARTS)).astype(np.uint8), "parts": parts}
        name = f"{_VOC10}/Annotations_Part/{sample.id}.mat"
        save_mat(to, {"anno": {"imname": sample.id, "objects": [thing]}}, name, do_compression=True)


def _nyu(data: DenseDataset, to: Target, split: str) -> None:
    """Depth in millimetres and the list of pairs."""
    lines = []
    for sample in samples_of(data):
        assert sample.depth is not None
        to.save(_millimetres(sample.depth), f"nyu/scenes/{sample.id}_depth.png")
        lines.append(f"scenes/{sample.id}.jpg scenes/{sample.id}_depth.png 518.8579\n")
    to.write(f"nyu/nyu_{split}.txt", "".join(lines))


def _seven_scenes(data: DenseDataset, to: Target, split: str) -> None:
    """One sequence of the scene "chess" for training, another for the test, and the lists of them."""
    number = 1 if split == "train" else 2
    scene = "7scenes/chess"
    for frame, sample in enumerate(samples_of(data)):
        assert sample.depth is not None
        name = f"{scene}/seq-{number:02d}/frame-{frame:06d}"
        to.save(sample.image, f"{name}.color.png")
        to.save(_millimetres(sample.depth), f"{name}.depth.png")
    to.write(f"{scene}/{split.capitalize()}Split.txt", f"sequence{number}\n")


def _spair(data: DenseDataset, to: Target, split: str) -> None:
    """The first thing of each class in an image, under the category with its class's number; neighbours are pairs."""
    images: dict[str, list[str]] = {}
    for sample in samples_of(data):
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


def save_mat(to: Target, variables: Mapping[str, Any], name: str, **options: Any) -> None:
    """Write a MATLAB file, with a header that does not say when."""
    buffer = io.BytesIO()
    savemat(buffer, dict(variables), **options)
    to.write(name, b"MATLAB 5.0 MAT-file, by densebench".ljust(116) + buffer.getvalue()[116:])


def ten_points(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ten points, (10, 2), for the K of a thing, (K, 2) with 5 <= K <= 10: these, then midpoints.

    A midpoint lies between a point and the next, from the first two on; the next of the last is the first. Midpoints
    correspond across images as nearly as places halfway between two named places of a thing do.
    """
    return np.concatenate([xy, (xy + np.roll(xy, -1, axis=0)) / 2])[:10]


def _pf_willow(data: DenseDataset, to: Target, split: str) -> None:
    """A group per class of things, of up to ten images that show one of them with all its keypoints, as `ten_points`.

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
            save_mat(to, {"pts_coord": ten_points(xy).T}, f"{stem}.mat")


def _millimetres(depth: NDArray[np.float32]) -> Image.Image:
    """Return a depth map of 16 bits; what is farther than 10 m counts as not measured."""
    return Image.fromarray(np.where(depth <= 10, np.round(depth * 1000), 0).astype(np.uint16))


_VOC10 = "VOCdevkit/VOC2010"
_COCO = "coco/{split}2017/{id}.jpg"
LAYOUTS |= {
    "coco_things": Layout(_COCO, more=_things),
    "coco_things80": Layout(_COCO, more=partial(_things, layout="coco_things80")),
    "coco_things_instances": Layout(_COCO, more=_instances),
    "coco_things80_instances": Layout(_COCO, more=partial(_instances, layout="coco_things80_instances")),
    "pascal_part": Layout(
        f"{_VOC10}/JPEGImages/{{id}}.jpg", lists=f"{_VOC10}/ImageSets/PascalPart/{{split}}.txt", more=_parts
    ),
    "nyu": Layout("nyu/scenes/{id}.jpg", more=_nyu),
    "seven_scenes": Layout(more=_seven_scenes),
    "spair": Layout(more=_spair),
    "pf_willow": Layout(more=_pf_willow),
}
