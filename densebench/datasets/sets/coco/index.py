"""COCO's annotation files as arrays: read once, kept in the cache, shared by workers through the page cache.

`instances_train2017.json` is 450 MB of text and several times that as Python objects; as arrays on disk it costs a
worker only what it looks at. Outlines are drawn once, by pycocotools, and kept as its compressed run lengths.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from densebench.core.errors import DatasetError
from densebench.core.paths import cache_dir, file_digest, file_state, temporary_name
from densebench.core.regular import parse_json
from densebench.datasets.io.archives import read_bytes, split
from densebench.datasets.io.id_lists import repeated
from densebench.datasets.sets.coco.outlines import area, drawn, image_size, number

Arrays = Mapping[str, NDArray[Any]]
VERSION = 3
SUMS = "sums.json"
"""What was written, beside the arrays: type, shape and CRC-32 of each."""
LARGEST_ID = 200
"""Of a category: COCO's things end at 90, its stuff at 183, the merged stuff of panoptic files at 200."""


class Segments:
    """Which category each segment of a panoptic PNG has."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._where = {str(name): i for i, name in enumerate(arrays["images"])}

    def __contains__(self, image: object) -> bool:
        return image in self._where

    def categories(self, image: str, segments: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return category ids for segment ids, any shape; 0 stays 0. Raises KeyError with a segment not listed."""
        i = self._where[image]
        mine = slice(*self._arrays["starts"][i : i + 2].tolist())
        present, place = np.unique(segments, return_inverse=True)
        known = {
            0: 0,
            **dict(zip(self._arrays["ids"][mine].tolist(), self._arrays["kinds"][mine].tolist(), strict=True)),
        }
        return np.array([known[segment] for segment in present.tolist()], dtype=np.uint8)[place].reshape(segments.shape)


def read_segments(path: Path) -> Segments:
    """Return the segments of a panoptic JSON; raises DatasetError for another file."""

    def build(state: dict[str, Any]) -> Arrays:
        each = sorted((Path(a["file_name"]).stem, _segments(a)) for a in state["annotations"])
        _refuse_repeated(name for name, _ in each)
        flat = [s for _, segments in each for s in segments]
        return {
            "images": np.array([name for name, _ in each]),
            "starts": _starts(len(segments) for _, segments in each),
            "ids": np.array([s["id"] for s in flat], dtype=np.uint32),
            "kinds": np.array([_category(s) for s in flat], dtype=np.uint8),
        }

    return Segments(_remembered(path, "panoptic", build))


@dataclass(frozen=True)
class Instances:
    """Masks of the things in each image, in the order they are to be drawn."""

    images: Sequence[str]
    arrays: Arrays

    def categories(self, index: int) -> NDArray[np.uint8]:
        """Draw the category ids of one image, (H, W), 0 = nothing: crowds first, then large before small."""
        a = self.arrays
        size = a["sizes"][index].tolist()
        found = np.zeros(size, dtype=np.uint8, order="F")  # as the masks are
        for i in range(*a["starts"][index : index + 2].tolist()):
            runs = a["runs"][slice(*a["ends"][i : i + 2].tolist())].tobytes()
            found[coco_mask.decode({"size": size, "counts": runs}).view(bool)] = a["kinds"][i]
        return np.ascontiguousarray(found)


def read_instances(path: Path) -> Instances:
    """Return the things of an instances JSON; raises DatasetError for another file."""

    def build(state: dict[str, Any]) -> Arrays:
        images = sorted(state["images"], key=lambda image: image["file_name"])
        _refuse_repeated(Path(image["file_name"]).stem for image in images)
        _refuse_repeated(f"id {image['id']}" for image in images)
        sizes = {image["id"]: image_size(image) for image in images}
        mine: dict[Any, list[dict[str, Any]]] = {id_: [] for id_ in sizes}
        for annotation in state["annotations"]:
            if annotation["image_id"] not in mine:
                raise ValueError(_of_no_image(annotation, mine))
            mine[annotation["image_id"]].append(annotation)
        masks = {id_: [(a, drawn(a, sizes[id_])) for a in each] for id_, each in mine.items()}
        for each in masks.values():
            each.sort(key=lambda pair: (-bool(pair[0].get("iscrowd")), -area(*pair)))
        flat = [pair for image in images for pair in masks[image["id"]]]
        return {
            "images": np.array([Path(image["file_name"]).stem for image in images]),
            "sizes": np.array([sizes[image["id"]] for image in images], dtype=np.int32).reshape(-1, 2),
            "starts": _starts(len(mine[image["id"]]) for image in images),
            "kinds": np.array([_category(a) for a, _ in flat], dtype=np.uint8),
            "ends": _starts(len(mask["counts"]) for _, mask in flat),
            "runs": np.frombuffer(b"".join(mask["counts"] for _, mask in flat), dtype=np.uint8),
        }

    arrays = _remembered(path, "instances", build)
    return Instances([str(name) for name in arrays["images"]], arrays)


@functools.lru_cache(maxsize=8)
def annotation_digest(path: Path) -> str:
    """Return the SHA-256 of an annotation file, on disk or in an archive, read once per process."""
    return file_digest(path) if path.exists() else hashlib.sha256(read_bytes(path)).hexdigest()


def _segments(annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "segments_info" not in annotation:
        raise ValueError(f"{annotation['file_name']} has no segments_info, so that its colours mean nothing")
    return annotation["segments_info"]


def _category(annotation: Mapping[str, Any]) -> int:
    """Return the category id of an annotation or a segment; raises ValueError for one that COCO does not have."""
    category = annotation["category_id"]
    if type(category) is not int or not 0 < category <= LARGEST_ID:
        raise ValueError(
            f"annotation {number(annotation)} has category_id {category!r}; COCO has integers from 1 to "
            f"{LARGEST_ID}, and other lists of classes (LVIS, Objects365, one's own) are not read as COCO"
        )
    return category


def _of_no_image(annotation: Mapping[str, Any], ids: Iterable[Any]) -> str:
    first = next(iter(ids), None)
    texts = f"; ids are {type(first).__name__} there and {type(annotation['image_id']).__name__} here"
    unlike = texts if first is not None and type(first) is not type(annotation["image_id"]) else ""
    image = annotation["image_id"]
    return f"annotation {number(annotation)} is of image {image!r}, which `images` does not list{unlike}"


def _refuse_repeated(names: Iterable[str]) -> None:
    twice = repeated(names)
    if twice:
        raise ValueError(f"{len(twice)} images are listed more than once (first: {twice[0]}); list each once")


def _starts(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.array([0, *accumulate(lengths)], dtype=np.int64)


def _remembered(path: Path, kind: str, build: Callable[[dict[str, Any]], Arrays]) -> Arrays:
    """Return the arrays made of a JSON file, on disk or in an archive, from the cache where it holds them."""
    state = [*file_state(path if path.exists() else split(path)[0]), str(path.resolve()), VERSION]
    folder = cache_dir() / "coco" / f"{kind}-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"
    kept = _kept(folder)
    if kept is not None:
        return kept
    try:
        arrays = build(parse_json(read_bytes(path).removeprefix(codecs.BOM_UTF8)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DatasetError(
            f"{path} is not a COCO file of {kind}: {_in_words(error)}. Fix it, or get the original file."
        ) from None
    _keep(folder, arrays)
    return _kept(folder) or arrays


def _kept(folder: Path) -> Arrays | None:
    """Return the arrays in a folder, mapped; None where it lacks one, or has another than was written."""
    try:
        sums = parse_json((folder / SUMS).read_bytes())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in sums}
    except (OSError, ValueError, EOFError):
        return None
    return arrays if {name: _sum(array) for name, array in arrays.items()} == sums else None


def _sum(array: NDArray[Any]) -> list[Any]:
    """Return type, shape and CRC-32 of an array: half a second for a gigabyte."""
    return [array.dtype.str, list(array.shape), zlib.crc32(np.ascontiguousarray(array).data)]


def _in_words(error: Exception) -> str:
    """Return what is wrong with a file whose contents are not what they should be."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    if isinstance(error, TypeError):
        return "its lists and tables are not nested as in COCO's"
    return str(error)


def _keep(folder: Path, arrays: Arrays) -> None:
    """Write all arrays to a folder that appears whole or not at all; where nothing can be written, there is none."""
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        place = temporary_name(folder)
        try:
            place.mkdir()
            for name, array in arrays.items():
                np.save(place / f"{name}.npy", array)
            (place / SUMS).write_text(json.dumps({name: _sum(array) for name, array in arrays.items()}))
            os.rename(place, folder)  # raises where another process was faster
        finally:
            shutil.rmtree(place, ignore_errors=True)
