"""What each image adds to a metric, kept beside the record, so that records of the same images can be compared later.

A metric is a function of sums or means over images. Its *statistics* are the parts, image by image, with everything
that was fitted or matched held fixed, as the intervals have it; a resampled metric is the same function of other sums.
One `.npz` holds the statistics of a record. Nothing but numpy is needed to read it.

- segmentation: `image` (n,), and true, predicted and correct pixels per image and class, as rows of non-zero numbers.
  Rows are three arrays: `truth_rows` (n,), how many each image has; `truth_class` and `truth_pixels`, a number per row,
  in the order of images and classes; `predicted_` and `correct_` alike. Pixels that are not evaluated are in none.
  Where there is a `mapping` (K,), predicted classes are ids before they were matched, and it holds the class of each.
- mean: `image` (n,), `value` (n,) in the metric's unit, NaN where an image has none; where counted, `pixels` (n,).
- keypoints: of pairs of images, `source`, `target`, `category`, `points` and how many are right, `hits`, all (n,).

In the file, integers have as many bytes as the largest needs, as an array (bytes, n) with the lowest first.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import StorageError
from densebench.core.npz import read_numbers
from densebench.results.schema import Coordinate, Key, metric_key

Arrays = Mapping[str, NDArray[Any]]
Kind = Literal["segmentation", "mean", "keypoints"]

NAME = "statistics.npz"
"""Of the file, in the folder beside the record."""
VERSION = 1
HEADER = "header"
_ROWS = ("truth", "predicted", "correct")
_NEEDED: Mapping[Kind, tuple[str, ...]] = {
    "segmentation": ("image", *(f"{what}_{part}" for what in _ROWS for part in ("rows", "class", "pixels"))),
    "mean": ("image", "value"),
    "keypoints": ("source", "target", "category", "points", "hits"),
}
_ROW_BY_ROW = {"mapping", *(f"{what}_{part}" for what in _ROWS for part in ("class", "pixels"))}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStatistics:
    """What the images add to one metric in one run of it."""

    kind: Kind
    name: str
    """Of the metric."""
    at: Mapping[str, Coordinate] = field(default_factory=dict)
    seed: str = ""
    """Which of the metric's seeds; "" where it does not repeat."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else the value depends on. segmentation: `n_classes`, `absent` and `present`, see :func:`mean_iou`;
    keypoints: `per`, "point" or "pair", and the names of the `categories`."""
    arrays: Arrays

    @property
    def key(self) -> Key:
        """Which metric of the record this belongs to."""
        return metric_key(self.name, self.at)


@dataclass(frozen=True, eq=False)
class StatisticsFile:
    """The statistics of one record."""

    ids: tuple[str, ...]
    """Of all validation images; arrays hold positions in it."""
    entries: tuple[ImageStatistics, ...]

    def of(self, name: str, at: Mapping[str, Coordinate]) -> tuple[ImageStatistics, ...]:
        """Return the entries of one metric, one per seed."""
        return tuple(entry for entry in self.entries if entry.key == metric_key(name, at))


def value(entries: Sequence[ImageStatistics]) -> float:
    """Return the value of a metric from its entries, in the metric's unit: the mean over seeds."""
    return math.fsum(_VALUES[entry.kind](entry) for entry in entries) / len(entries)


def pixel_counts(entry: ImageStatistics) -> NDArray[np.int64]:
    """Return true positives, false positives and false negatives (n, 3, C) of every image of a segmentation."""
    n, n_classes = len(entry.arrays["image"]), int(entry.settings["n_classes"])
    truth, predicted, correct = (_dense(entry.arrays, what, n, n_classes) for what in _ROWS)
    return np.stack([correct, predicted - correct, truth - correct], axis=1)


def mean_iou(total: NDArray[np.int64], absent: str, present: bool = False) -> float:
    """Return the mIoU in percent of counts (3, C) summed over images.

    A class that is neither in ground truth nor predicted scores 0 where `absent` is "zero", and is left out where it is
    "skip"; with `present` only classes that occur in the ground truth enter.
    """
    tp, fp, fn = total.astype(np.float64)
    enters = tp + fn > 0 if present else np.ones(len(tp), bool)
    if absent == "skip":
        enters &= tp + fp + fn > 0
    return 100 * float((tp / np.maximum(tp + fp + fn, 1e-8))[enters].mean()) if enters.any() else math.nan


def to_npz(ids: Sequence[str], entries: Iterable[ImageStatistics]) -> bytes:
    """Return statistics as a file: the same give the same bytes; arrays that several entries share are there once."""
    names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    stored: dict[str, Any] = {}
    listed = []
    for entry in entries:
        places = {}
        for what, array in sorted(entry.arrays.items()):
            small = as_small(array)
            name = names.setdefault((small.dtype.str, small.shape, small.tobytes()), f"a{len(names)}")
            stored[name], places[what] = _planes(small), name
        described = {"kind": entry.kind, "name": entry.name, "at": dict(entry.at), "seed": entry.seed}
        listed.append({**described, "settings": dict(entry.settings), "arrays": places})
    header = json.dumps({"version": VERSION, "ids": list(ids), "entries": listed}, ensure_ascii=False, allow_nan=False)
    stored[HEADER] = np.frombuffer(header.encode(errors="surrogateescape"), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)
    return buffer.getvalue()


def read_npz(file: Path | bytes) -> StatisticsFile:
    """Return the statistics that a file holds; raises StorageError for one that is torn, too large or holds others."""
    where = "statistics" if isinstance(file, bytes) else str(file)
    try:
        arrays = read_numbers(file)
        header = json.loads(arrays.pop(HEADER).tobytes().decode(errors="surrogateescape"))
        arrays = {name: _from_planes(array) for name, array in arrays.items()}
        if header["version"] != VERSION:
            raise ValueError(f"version {header['version']}, expected {VERSION}")
        ids = tuple(map(str, header["ids"]))
        entries = tuple(_entry(described, arrays, len(ids)) for described in header["entries"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise StorageError(f"{where}: no statistics of a record ({reason}). Run its cell again.") from None
    return StatisticsFile(ids, entries)


def as_small(array: NDArray[Any]) -> NDArray[Any]:
    """Return integers >= 0 in the smallest type that holds them; floats as they are."""
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, np.float64)
    return np.ascontiguousarray(array, np.min_scalar_type(int(array.max(initial=0))))


def _planes(array: NDArray[Any]) -> NDArray[Any]:
    """Return integers of several bytes as (bytes, n), the lowest first: compressed, they are a fifth smaller."""
    if array.dtype.kind == "f" or array.dtype.itemsize == 1:
        return array
    return array.astype(array.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, array.dtype.itemsize).T.copy()


def _from_planes(array: NDArray[Any]) -> NDArray[Any]:
    """Return what :func:`_planes` was given."""
    if array.ndim != 2 or array.dtype != np.uint8 or len(array) not in (2, 4, 8):
        return array
    return np.ascontiguousarray(array.T).view(f"<u{len(array)}").ravel()


def _entry(described: Mapping[str, Any], arrays: Arrays, n_images: int) -> ImageStatistics:
    """Return one entry of a file; raises KeyError, TypeError or ValueError for one that does not hold together."""
    kind, own = described["kind"], {what: arrays[name] for what, name in described["arrays"].items()}
    if kind not in _NEEDED:
        raise ValueError(f"unknown kind {kind!r}")
    entry = ImageStatistics(
        kind=kind,
        name=str(described["name"]),
        at=dict(described["at"]),
        seed=str(described["seed"]),
        settings=dict(described["settings"]),
        arrays=own,
    )
    if missing := set(_NEEDED[kind]) - set(own):
        raise ValueError(f"{entry.name} lacks {', '.join(sorted(missing))}")
    if any(array.ndim != 1 or (array.dtype.kind != "u") != (what == "value") for what, array in own.items()):
        raise ValueError(f"arrays of {entry.name} are not lists of counts")
    lengths = [(len(array), len(own[_NEEDED[kind][0]])) for what, array in own.items() if what not in _ROW_BY_ROW]
    bounds = [(own[what], n_images) for what in ("image", "source", "target") if what in own]
    if kind == "segmentation":
        n_classes = int(entry.settings["n_classes"])
        lengths += [(len(own[f"{w}_{p}"]), int(own[f"{w}_rows"].sum())) for w in _ROWS for p in ("class", "pixels")]
        mapping = own.get("mapping", np.arange(n_classes))
        bounds += [(own["truth_class"], n_classes), (own["correct_class"], n_classes)]
        bounds += [(own["predicted_class"], len(mapping)), (mapping, n_classes)]
    if any(found != expected for found, expected in lengths):
        raise ValueError(f"arrays of {entry.name} differ in length")
    if any(array.size and int(array.max()) >= n for array, n in bounds):
        raise ValueError(f"{entry.name} counts images or classes that there are not")
    return entry


def _dense(arrays: Arrays, what: str, n: int, n_classes: int) -> NDArray[np.int64]:
    """Return rows as a table (n, C)."""
    image = np.repeat(np.arange(n), arrays[f"{what}_rows"])
    of_class = arrays[f"{what}_class"].astype(np.int64)
    if what == "predicted" and "mapping" in arrays:
        of_class = arrays["mapping"].astype(np.int64)[of_class]
    table = np.zeros((n, n_classes), np.int64)
    np.add.at(table, (image, of_class), arrays[f"{what}_pixels"].astype(np.int64))
    return table


def _mean_iou(entry: ImageStatistics) -> float:
    settings = entry.settings
    return mean_iou(pixel_counts(entry).sum(0), settings["absent"], settings["present"])


def _mean(entry: ImageStatistics) -> float:
    values = entry.arrays["value"]
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _pck(entry: ImageStatistics) -> float:
    hits, points = (entry.arrays[what].astype(np.float64) for what in ("hits", "points"))
    return 100 * float(hits.sum() / points.sum() if entry.settings["per"] == "point" else (hits / points).mean())


_VALUES = {"segmentation": _mean_iou, "mean": _mean, "keypoints": _pck}
