"""Outlines of COCO's annotations to masks, drawn by pycocotools once it is sure that they can be drawn."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from densebench.datasets.io.decode import MOST_PIXELS

FARTHEST = 100_000
"""Pixels; a point farther away than the side of any image is a mistake."""
LONGEST = 2_000_000
"""Pixels; an outline is drawn on a grid five times as fine, which costs 80 bytes per pixel of its length."""


def number(annotation: Mapping[str, Any]) -> Any:
    """Return what an annotation is called in messages."""
    return annotation.get("id", "without id")


def image_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Return (H, W) of an image; raises ValueError for one that would not be decoded either."""
    height, width = int(image["height"]), int(image["width"])
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise ValueError(
            f"{image['file_name']} has {height} x {width} pixels; expected 1 to {MOST_PIXELS / 1e6:.0f} million"
        )
    return height, width


def drawn(annotation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return the mask of an annotation as pycocotools has it: `size` (H, W) of its image, `counts` compressed to bytes.

    C code trusts what it is given, so whatever cannot be of an image of this size raises ValueError before.
    """
    outline, which = annotation.get("segmentation"), f"annotation {number(annotation)}"
    if not outline:
        raise ValueError(f"{which} has no segmentation; boxes alone cannot be drawn")
    if isinstance(outline, dict):
        return coco_mask.frPyObjects({"size": size, "counts": _runs(outline, size, which)}, *size)
    rings = _rings(outline, size, which)
    if not rings:
        return coco_mask.frPyObjects({"size": size, "counts": [size[0] * size[1]]}, *size)
    return coco_mask.merge(coco_mask.frPyObjects(rings, *size))


def _rings(outline: Any, size: tuple[int, int], which: str) -> list[NDArray[np.float64]]:
    """Return the rings (2n,) of a list of polygons, x and y by turns; those of two points have no inside."""
    if not all(isinstance(ring, list) for ring in outline):
        raise ValueError(f"{which} has no list of polygons, but {reprlib.repr(outline)}; expected [[x, y, x, y, ...]]")
    if any(len(ring) % 2 or any(isinstance(entry, list) for entry in ring) for ring in outline):
        raise ValueError(f"{which} has a polygon that is not x and y by turns, as in [[x, y, x, y, ...]]")
    rings = [np.array(ring, dtype=np.float64) for ring in outline]
    for ring in rings:
        far = ring[~(np.abs(ring) <= FARTHEST)]  # or not a number
        if far.size:
            raise ValueError(f"{which} has a point at {far[0]:g} px in an image of {size[0]} x {size[1]}")
        points = ring.reshape(-1, 2)
        length = np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()
        if length > LONGEST:
            raise ValueError(f"{which} has an outline of {length:.0f} px in an image of {size[0]} x {size[1]}")
    return [ring for ring in rings if len(ring) > 4]


def _runs(outline: Mapping[str, Any], size: tuple[int, int], which: str) -> list[int]:
    """Return the run lengths of an outline, down the columns; the first is outside."""
    if list(outline["size"]) != list(size):
        raise ValueError(f"{which} has run lengths of {outline['size']} for an image of {list(size)} (height, width)")
    counts = outline["counts"]
    runs = _decompressed(counts, which) if isinstance(counts, str) else [int(run) for run in counts]
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"{which} has runs of {sum(runs)} pixels for an image of {size[0]} x {size[1]}")
    return runs


def _decompressed(text: str, which: str) -> list[int]:
    """Return the run lengths of a compressed string, by the rule of cocoapi `common/maskApi.c:rleFrString`.

    A character holds five bits and whether more follow; from the fourth number on, it is the difference to the last but
    one. pycocotools reads on behind a string that is cut, and shows whatever lay in memory where runs are too short.
    """
    if not re.fullmatch("([P-o]{0,5}[0-O])+", text):
        raise ValueError(f"{which} has run lengths {reprlib.repr(text)}, which are not compressed as COCO does it")
    runs: list[int] = []
    for digits in re.findall("[P-o]*[0-O]", text):
        value = sum((ord(char) - 48 & 31) << 5 * place for place, char in enumerate(digits))
        sign = (ord(digits[-1]) - 48 & 16) << 5 * len(digits) - 4
        runs.append(value - sign + (runs[-2] if len(runs) > 2 else 0))
    return runs


def area(annotation: Mapping[str, Any], mask: dict[str, Any]) -> float:
    """Return the area that an annotation states, in pixels; exporters leave it out: then that inside its outline."""
    if annotation.get("area") is not None:
        return float(annotation["area"])
    if isinstance(annotation["segmentation"], dict):
        return float(coco_mask.area(mask))
    return sum(_shoelace(np.array(ring, dtype=np.float64)) for ring in annotation["segmentation"])


def _shoelace(ring: NDArray[np.float64]) -> float:
    """Return the area inside a ring (2n,) that does not cross itself, in square pixels."""
    x, y = ring.reshape(-1, 2).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
