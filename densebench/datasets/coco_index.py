"""COCO's annotation files as arrays: read once, kept in the cache, shared by workers through the page cache.

`instances_train2017.json` is 450 MB of text and several times that as Python objects; as arrays on disk it costs a
worker only what it looks at.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densebench.datasets.archives import read_bytes, split
from densebench.datasets.polygons import polygons_mask, runs_mask
from densebench.errors import DatasetError, StorageError
from densebench.paths import cache_dir, file_digest

Arrays = Mapping[str, NDArray[Any]]
VERSION = 1


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
        each = sorted((Path(a["file_name"]).stem, a["segments_info"]) for a in state["annotations"])
        flat = [s for _, segments in each for s in segments]
        return {
            "images": np.array([name for name, _ in each]),
            "starts": _starts(len(segments) for _, segments in each),
            "ids": np.array([s["id"] for s in flat], dtype=np.uint32),
            "kinds": np.array([s["category_id"] for s in flat], dtype=np.uint8),
        }

    return Segments(_remembered(path, "panoptic", build))


@dataclass(frozen=True)
class Instances:
    """Outlines of the things in each image, in the order they are to be drawn."""

    images: Sequence[str]
    arrays: Arrays

    def categories(self, index: int) -> NDArray[np.uint8]:
        """Draw the category ids of one image, (H, W), 0 = nothing: crowds first, then large before small."""
        a = self.arrays
        height, width = (int(v) for v in a["sizes"][index])
        size = (height, width)
        found = np.zeros(size, dtype=np.uint8)
        for i in range(*a["starts"][index : index + 2].tolist()):
            rings = range(*a["rings"][i : i + 2].tolist())
            parts = [a["numbers"][slice(*a["points"][ring : ring + 2].tolist())] for ring in rings]
            mask = runs_mask(parts[0], size) if a["runs"][i] else polygons_mask(parts, size)
            found[mask] = a["kinds"][i]
        return found


def read_instances(path: Path) -> Instances:
    """Return the outlines of an instances JSON; raises DatasetError for another file."""

    def build(state: dict[str, Any]) -> Arrays:
        images = sorted(state["images"], key=lambda image: image["file_name"])
        mine: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
        for annotation in state["annotations"]:
            mine[annotation["image_id"]].append(annotation)
        for each in mine.values():
            each.sort(key=lambda a: (-a["iscrowd"], -a["area"]))
        flat = [a for image in images for a in mine[image["id"]]]
        outlines = [_outlines(a["segmentation"]) for a in flat]
        rings = [ring for outline in outlines for ring in outline]
        return {
            "images": np.array([Path(image["file_name"]).stem for image in images]),
            "sizes": np.array([(image["height"], image["width"]) for image in images], dtype=np.int32).reshape(-1, 2),
            "starts": _starts(len(mine[image["id"]]) for image in images),
            "kinds": np.array([a["category_id"] for a in flat], dtype=np.uint8),
            "runs": np.array([isinstance(a["segmentation"], dict) for a in flat], dtype=bool),
            "rings": _starts(map(len, outlines)),
            "points": _starts(map(len, rings)),
            "numbers": np.array([number for ring in rings for number in ring], dtype=np.float64),
        }

    arrays = _remembered(path, "instances", build)
    return Instances([str(name) for name in arrays["images"]], arrays)


@functools.lru_cache(maxsize=8)
def annotation_digest(path: Path) -> str:
    """Return the SHA-256 of an annotation file, on disk or in an archive, read once per process."""
    return file_digest(path) if path.exists() else hashlib.sha256(read_bytes(path)).hexdigest()


def _outlines(segmentation: Any) -> list[list[float]]:
    if isinstance(segmentation, list):
        return segmentation
    if isinstance(segmentation["counts"], str):
        raise ValueError("it has compressed run lengths, which COCO's own files do not")
    return [segmentation["counts"]]


def _starts(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.array([0, *accumulate(lengths)], dtype=np.int64)


def _remembered(path: Path, kind: str, build: Callable[[dict[str, Any]], Arrays]) -> Arrays:
    """Return the arrays made of a JSON file, on disk or in an archive, from the cache where it holds them."""
    state = (path if path.exists() else split(path)[0]).stat()
    key = f"{path.resolve()}-{state.st_size}-{state.st_mtime_ns}-{VERSION}"
    folder = cache_dir() / "coco" / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        try:
            arrays = build(json.loads(read_bytes(path)))
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} is no {kind} file of COCO ({type(error).__name__}: {error}). Get the original file."
            ) from None
        _keep(folder, arrays)
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}


def _keep(folder: Path, arrays: Arrays) -> None:
    """Write all arrays to a folder that appears whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as place:
            whole = Path(place) / "whole"
            whole.mkdir()
            for name, array in arrays.items():
                np.save(whole / f"{name}.npy", array)
            try:
                os.rename(whole, folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise StorageError(f"cannot write {folder} ({error.strerror or error}). Free space, then run again.") from error
