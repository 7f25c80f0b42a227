"""Metrics as functions of sums over images, for several models on the same images: resampled, or swapped.

What images add to a metric (`counts.py`) becomes a table with a row per image, the same images in the same order for
every model. Any weighting of images is then a product of matrices: weights (R, n) times table (n, m) are R sums, which
give R values.

The rules are those of the intervals: all images together fix which classes enter; a class that a draw lost is left out
of it, not counted as 0; categories of keypoints keep the weight they have in all pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from densebench.core.errors import UsageError
from densebench.results.counts import ImageStatistics

Floats = NDArray[np.float64]
Ends = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(n,) both: the images of every pair."""
DENSE = 1 << 23
"""Numbers of a table that is not held sparsely: products are faster."""
ANOTHER = 0.2
"""Share of an image's pixels that two ground truths may differ in, in the median image: their sizes may differ."""


class Side(NamedTuple):
    """One metric of one model."""

    ids: tuple[str, ...]
    """Of all validation images; entries hold positions in it."""
    entries: tuple[ImageStatistics, ...]
    """One per seed."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What images add to one run of a metric, as a table whose sums the metric is a function of.

    Its columns are numerators, denominators and, of a segmentation, pixels of ground truth, a block of classes each.
    """

    kind: str
    rule: tuple[Any, ...]
    """What else the value depends on: models whose rules differ cannot be swapped."""
    table: Any
    """(n, m) of floats, an array or a sparse one."""
    n_classes: int
    total: Floats
    """(m,): its sum."""

    @classmethod
    def of(cls, kind: str, rule: tuple[Any, ...], table: Any, n_classes: int) -> Sums:
        """Return sums of a sparse table, held as an array where it is small."""
        total = np.asarray(table.sum(0), np.float64).ravel()
        return cls(kind, rule, table.toarray() if np.prod(table.shape) <= DENSE else table, n_classes, total)

    @property
    def truth(self) -> Any:
        """(n, C): pixels or keypoints of each class in every image."""
        return self.table[:, -self.n_classes :]

    def scores(self, sums: Floats, fixed: bool = True) -> Floats:
        """Return values (R, 1 + C) of sums (R, m): of the metric, and of each class; NaN where there is none.

        Without `fixed` the sums are whole evaluations, which fix by themselves which classes enter.
        """
        if self.kind == "mean":
            return _ratio(sums[:, :1], sums[:, 1:])
        blocks, whole = (each.reshape(len(each), -1, self.n_classes) for each in (sums, self.total[None]))
        found = (whole if fixed else blocks)[:, -2:]
        of, truth = found[:, 0], found[:, 1]  # of pixels, the union
        if self.kind == "keypoints":
            enters, weight = truth > 0, truth
        else:
            _, absent, present = self.rule
            enters = truth > 0 if present else np.ones_like(truth, bool)
            enters = enters & (of > 0) if absent == "skip" else enters
            weight = np.ones_like(truth)
        lost = (whole[:, -1] > 0) & (blocks[:, -1] == 0)
        known = enters & ~lost
        classes = np.where(known, 100 * blocks[:, 0] / np.maximum(blocks[:, 1], 1e-8), np.nan)
        weight = weight * known
        return np.concatenate([_ratio(np.nansum(weight * classes, 1), weight.sum(1))[:, None], classes], 1)

    def value(self) -> Floats:
        """Return the values (1 + C,) of all images together."""
        return self.scores(self.total[None])[0]

    def moves(self) -> Floats:
        """Return (n, 1 + C): by how much each image moves the values, to first order; of classes that enter."""
        values = self.value()
        if self.kind == "mean":
            known = np.asarray(self.table[:, 1])
            return np.asarray((self.table[:, 0] - values * known) / max(known.sum(), 1), np.float64)[:, None]
        over, under = (self.table[:, i * self.n_classes : (i + 1) * self.n_classes] for i in (0, 1))
        over, under = (each if isinstance(each, np.ndarray) else each.toarray() for each in (over, under))
        whole = np.maximum(under.sum(0), 1e-8)
        classes = np.nan_to_num(100 * over - values[1:] * under) / whole
        weight = np.where(np.isnan(values[1:]), 0, whole if self.kind == "keypoints" else 1)
        return np.concatenate([classes @ weight[:, None] / max(weight.sum(), 1e-8), classes], 1)


@dataclass(frozen=True, eq=False)
class AlignedSums:
    """Several models on the same images."""

    n: int
    unit: str
    """What a row is: images, or pairs of them."""
    sums: tuple[tuple[Sums, ...], ...]
    """Of every model, by seed."""
    left_out: tuple[int, ...]
    """Images, or pairs, of each model that others do not have."""
    classes: tuple[str, ...] = ()
    """Names of categories, which keypoints bring along."""
    ends: Ends | None = None
    """Of pairs; None where units are images."""

    def shown(self) -> NDArray[np.int64]:
        """Return how many images, or pairs, show each class (C,), by the first model's ground truth."""
        first = self.sums[0][0]
        return np.asarray((first.truth > 0).sum(0)).ravel() if first.n_classes else np.zeros(0, np.int64)


def align(sides: Sequence[Side]) -> AlignedSums:
    """Return models on the images that all of them have; raises UsageError where they cannot be paired, with why."""
    kinds = {entry.kind for side in sides for entry in side.entries}
    if not all(side.entries for side in sides) or len(kinds) != 1:
        raise UsageError("there are no statistics of the same kind for both")
    found = _pairs(sides) if kinds == {"keypoints"} else _images(sides, kinds.pop())
    if not found.n:
        raise UsageError(f"they have no {found.unit} in common")
    return found


def _images(sides: Sequence[Side], kind: str) -> AlignedSums:
    lists = {side.ids for side in sides}
    shared = sides[0].ids
    if len(lists) > 1:
        if any(len(set(ids)) < len(ids) for ids in lists):
            raise UsageError("their lists of images differ, and one of them has an id twice")
        common = set.intersection(*map(set, lists))
        shared = tuple(name for name in shared if name in common)
    sizes = {entry.settings.get("n_classes", 0) for side in sides for entry in side.entries}
    if len(sizes) > 1:
        raise UsageError(f"they count other classes: {' and '.join(map(str, sorted(sizes)))}")
    places = {name: place for place, name in enumerate(shared)}
    made = []
    for side in sides:
        own = np.arange(len(shared))
        if side.ids != shared:
            own = np.array([places.get(name, -1) for name in side.ids], np.int64)
        build = _mean if kind == "mean" else _segmentation
        made.append(tuple(build(entry, own, len(shared)) for entry in side.entries))
    if kind == "segmentation":
        _check_truth([sums[0] for sums in made])
    return AlignedSums(len(shared), "images", tuple(made), tuple(len(side.ids) - len(shared) for side in sides))


def _mean(entry: ImageStatistics, places: NDArray[np.int64], n: int) -> Sums:
    place, value = places[entry.arrays["image"].astype(np.int64)], entry.arrays["value"]
    known = (place >= 0) & ~np.isnan(value)
    table = np.zeros((n, 2))
    np.add.at(table, place[known], np.stack([value[known], np.ones(known.sum())], 1))
    return Sums("mean", ("mean",), table, 0, table.sum(0))


def _segmentation(entry: ImageStatistics, places: NDArray[np.int64], n: int) -> Sums:
    n_classes, settings, arrays = int(entry.settings["n_classes"]), entry.settings, entry.arrays
    place = places[arrays["image"].astype(np.int64)]
    mapping = arrays["mapping"].astype(np.int64) if "mapping" in arrays else np.arange(n_classes)
    rows, columns, pixels = [], [], []
    # blocks of correct pixels, of the union (true + predicted - correct) and of true ones
    for what, signs in (("correct", (1, -1, 0)), ("truth", (0, 1, 1)), ("predicted", (0, 1, 0))):
        row = np.repeat(place, arrays[f"{what}_rows"].astype(np.int64))
        column = arrays[f"{what}_class"].astype(np.int64)
        column = mapping[column] if what == "predicted" else column
        for block, sign in enumerate(signs):
            if sign:
                rows.append(row[row >= 0])
                columns.append(column[row >= 0] + block * n_classes)
                pixels.append(sign * arrays[f"{what}_pixels"].astype(np.float64)[row >= 0])
    cells = np.concatenate(pixels), (np.concatenate(rows), np.concatenate(columns))
    rule = ("segmentation", settings["absent"], bool(settings["present"]))
    return Sums.of("segmentation", rule, sparse.csr_array(cells, shape=(n, 3 * n_classes)), n_classes)


def _check_truth(sums: Sequence[Sums]) -> None:
    """Raise UsageError where models saw other masks under the same ids."""
    first, *others = (_shares(each.truth) for each in sums)
    for other in others:
        apart = abs(first - other).sum(1)
        if float(np.median(np.asarray(apart))) / 2 > ANOTHER:
            raise UsageError("their images have the same names but other masks: most pixels are of other classes")


def _shares(table: Any) -> Any:
    scale = 1 / np.maximum(np.asarray(table.sum(1), np.float64).ravel(), 1)
    return sparse.diags_array(scale) @ sparse.csr_array(table)


def _pairs(sides: Sequence[Side]) -> AlignedSums:
    names = tuple(dict.fromkeys(n for side in sides for entry in side.entries for n in entry.settings["categories"]))
    rows = [[_links(side.ids, entry) for entry in side.entries] for side in sides]
    common = set.intersection(*(set(links) for own in rows for links in own))
    shared = [link for link in rows[0][0] if link in common]
    places = {link: place for place, link in enumerate(shared)}
    made = []
    for side, own in zip(sides, rows, strict=True):
        sums = []
        for entry, links in zip(side.entries, own, strict=True):
            place = np.array([places.get(link, -1) for link in links], np.int64)
            sums.append(_keypoints(entry, place, len(shared), names))
        made.append(tuple(sums))
    numbers = {name: i for i, name in enumerate(dict.fromkeys(end for link in shared for end in link[:2]))}
    ends = tuple(np.array([numbers[link[end]] for link in shared], np.int64) for end in (0, 1))
    left_out = tuple(len(own[0]) - len(shared) for own in rows)
    return AlignedSums(len(shared), "pairs", tuple(made), left_out, names, (ends[0], ends[1]))


def _links(ids: Sequence[str], entry: ImageStatistics) -> list[tuple[Any, ...]]:
    """Return what a pair is the same pair by: images, category, keypoints, and which of several it is."""
    names, arrays, seen = entry.settings["categories"], entry.arrays, Counter[tuple[Any, ...]]()
    found = []
    for source, target, category, points in zip(
        *(arrays[what].tolist() for what in ("source", "target", "category", "points")), strict=True
    ):
        link = ids[source], ids[target], names[category], points
        found.append((*link, seen[link]))
        seen[link] += 1
    return found


def _keypoints(entry: ImageStatistics, place: NDArray[np.int64], n: int, names: Sequence[str]) -> Sums:
    order = {name: i for i, name in enumerate(names)}
    own = np.array([order[name] for name in entry.settings["categories"]], np.int64)
    kept, column = place >= 0, own[entry.arrays["category"].astype(np.int64)]
    hits, points = (entry.arrays[what].astype(np.float64) for what in ("hits", "points"))
    if entry.settings["per"] == "pair":
        hits, points = hits / points, np.ones_like(points)
    cells = np.concatenate([hits[kept], points[kept]])
    at = np.tile(place[kept], 2), np.concatenate([column[kept], column[kept] + len(names)])
    table = sparse.csr_array((cells, at), shape=(n, 2 * len(names)))
    return Sums.of("keypoints", ("keypoints", entry.settings["per"]), table, len(names))


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.full(np.broadcast(over, under).shape, np.nan), where=under > 0)
