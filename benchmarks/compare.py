"""How often intervals of paired differences hold the truth, and how even p-values are: the table in docs/compare.md.

Run by hand: `python benchmarks/compare.py [trials]`; some minutes for 400 trials. A trial draws a validation set that
two models saw, with a long tail of classes as in `coverage.py`: images and objects are easy or hard for both. The truth
of mIoU is the mean difference of each class over the sets of this size that hold it, averaged over the classes of the
set. Where both models are drawn alike, the share of p-values of at most 0.05 is counted. Last, the time that ranks of
200 models take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
from scipy import sparse

from densebench.leaderboard.ranks import Contender, rank_column
from densebench.results.compare import paired
from densebench.results.counts import ImageStatistics, value
from densebench.results.sums import Floats, Side

SOURCE, DRAWS, SWAPS = 20_000, 400, 99
Pair = tuple[Side, Side]


def segmentation(n_classes: int, gap: float, rng: np.random.Generator) -> list[Floats]:
    """Return right, predicted and true pixels (SOURCE, 3, C) of two models; class c is in one of (c + 1)^1.2 images."""
    classes = np.arange(n_classes)
    present = rng.random((SOURCE, n_classes)) < 1 / (1 + classes) ** 1.2
    truth = np.where(present, rng.lognormal(0, 1, present.shape) * 1000, 0).round()
    shared = rng.normal(0.5, 1, n_classes) + rng.normal(0, 0.7, (SOURCE, 1)) + rng.normal(0, 1.2, present.shape)
    models = []
    for model in (0, 1):
        odds = shared + model * gap + rng.normal(0, 0.5, present.shape)
        right = (truth / (1 + np.exp(-odds))).round()
        goes = (classes + rng.choice([1, 2, 5], present.shape)) % n_classes
        goes[(rng.random(present.shape) < 0.7) & (classes > 0)] = 0
        predicted = right.copy()
        np.add.at(predicted, (np.arange(SOURCE)[:, None], goes), truth - right)
        models.append(np.stack([right, predicted, truth], 1))
    return models


def iou(counts: Floats) -> Floats:
    """Return the IoU (C,) in percent of images (n, 3, C)."""
    right, predicted, truth = counts.sum(0)
    return np.asarray(100 * right / np.maximum(predicted + truth - right, 1))


def stored(counts: Floats) -> Side:
    """Return right, predicted and true pixels (n, 3, C) as they are kept beside a record."""
    arrays = {"image": np.arange(len(counts))}
    for what, table in zip(("correct", "predicted", "truth"), counts.swapaxes(0, 1), strict=True):
        rows = sparse.csr_array(table)
        arrays |= {f"{what}_rows": np.diff(rows.indptr), f"{what}_class": rows.indices, f"{what}_pixels": rows.data}
    settings = {"n_classes": counts.shape[2], "absent": "zero", "present": True}
    entry = ImageStatistics(kind="segmentation", name="miou", settings=settings, arrays=arrays)
    return Side(tuple(map(str, range(len(counts)))), (entry,))


def miou(n: int, n_classes: int, gap: float, trials: int, rng: np.random.Generator) -> Iterator[tuple[Pair, float]]:
    """Yield sets of n images with the true difference."""
    one, two = segmentation(n_classes, gap, rng)
    sums, sets = np.zeros(n_classes), np.zeros(n_classes)
    for _ in range(2000):
        drawn = rng.integers(SOURCE, size=n)
        held = one[drawn, 2].sum(0) > 0
        sums, sets = sums + (iou(two[drawn]) - iou(one[drawn])) * held, sets + held
    truth = sums / np.maximum(sets, 1)
    for _ in range(trials):
        drawn = rng.integers(SOURCE, size=n)
        held = one[drawn, 2].sum(0) > 0
        yield (stored(one[drawn]), stored(two[drawn])), float(truth[held].mean()) if gap else 0.0


def errors(n: int, gap: float, trials: int, rng: np.random.Generator) -> Iterator[tuple[Pair, float]]:
    """Yield skewed errors of n images."""
    for _ in range(trials):
        hard = rng.lognormal(0, 0.7, n)
        models = [hard * rng.lognormal(model * gap, 0.3, n) for model in (0, 1)]
        entries = [
            ImageStatistics(kind="mean", name="rmse", arrays={"image": np.arange(n), "value": each}) for each in models
        ]
        first, second = (Side(tuple(map(str, range(n))), (entry,)) for entry in entries)
        yield (first, second), float(np.exp((0.7**2 + 0.3**2) / 2) * (np.exp(gap) - 1))


def pairs(n: int, n_pairs: int, shared: float, trials: int, rng: np.random.Generator) -> Iterator[tuple[Pair, float]]:
    """Yield keypoints of pairs of n images in two categories; `shared` is what an image is easier for one model by."""
    for _ in range(trials):
        source = rng.integers(n, size=n_pairs)
        target = (source + 2 * rng.integers(1, n // 2, n_pairs)) % n
        points, sides = rng.integers(1, 12, n_pairs), []
        hard = rng.normal(0, 0.7, n)
        for _ in (0, 1):
            own = hard + rng.normal(0, shared, n)
            odds = own[source] + own[target] + rng.normal(0, 0.5, n_pairs)
            arrays = {"source": source, "target": target, "category": source % 2, "points": points}
            arrays["hits"] = rng.binomial(points, 1 / (1 + np.exp(-odds)))
            settings = {"per": "point", "categories": ["cat", "dog"]}
            entry = ImageStatistics(kind="keypoints", name="pck", settings=settings, arrays=arrays)
            sides.append(Side(tuple(map(str, range(n))), (entry,)))
        yield (sides[0], sides[1]), 0.0


def line(name: str, found: Iterator[tuple[Pair, float]], null: bool) -> None:
    """Print how often the interval holds the truth, where the value lies in it, and what p-values say."""
    held, place, p = [], [], []
    for trial, ((a, b), truth) in enumerate(found):
        each = paired(a, b, draws=DRAWS, swaps=SWAPS, seed=trial)
        assert each.low is not None
        assert each.high is not None
        held.append(each.low <= truth <= each.high)
        place.append((each.difference - each.low) / (each.high - each.low))
        p.append(each.p)
    low, high = np.quantile(place, [0.05, 0.95])
    said = f"p <= 0.05 in {100 * np.mean(np.array(p) <= 0.05):.1f} %" if null else ""
    print(f"{name:<58} {100 * np.mean(held):5.1f} %  value at {low:.2f} to {high:.2f}  {said}", flush=True)


def ranks(n_models: int, n: int, n_classes: int, rng: np.random.Generator) -> None:
    """Print the seconds that ranks of models take in one column."""
    truth = segmentation(n_classes, 0, rng)[0][:n, 2]
    shared = rng.normal(0, 1, truth.shape)
    column = []
    for model in range(n_models):
        right = (truth / (1 + np.exp(-0.01 * model - shared - rng.normal(0, 0.5, truth.shape)))).round()
        side = stored(np.stack([right, right + np.roll(truth - right, 1, 1), truth], 1))
        row = SimpleNamespace(value=value(side.entries), higher_is_better=True, ci95_low=None, ci95_high=None)
        column.append(Contender(row, lambda side=side: side))  # type: ignore[arg-type, misc]
    began, used = time.perf_counter(), time.process_time()
    found, _ = rank_column(column)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"ranks of {n_models} models, {n} images, {n_classes} classes: {seconds:.1f} s ({cpu:.1f} of CPU), "
          f"{len(set(found))} different ranks")  # fmt: skip


def main() -> None:
    """Print every line."""
    trials, rng = int(sys.argv[1]) if len(sys.argv) > 1 else 400, np.random.default_rng(0)
    for n_classes, n in ((21, 30), (21, 120), (21, 500), (150, 120), (150, 500)):
        for gap in (0.3, 0.0):
            kind = "models alike" if not gap else "one model better"
            line(f"mIoU, {n} images, {n_classes} classes, {kind}", miou(n, n_classes, gap, trials, rng), not gap)
    for n in (15, 40, 654):
        line(f"RMSE, {n} images, one model better", errors(n, 0.1, trials, rng), null=False)
        line(f"RMSE, {n} images, models alike", errors(n, 0.0, trials, rng), null=True)
    for n, n_pairs in ((60, 150), (100, 600)):
        for shared in (0.0, 0.3, 1.0):
            name = f"PCK, {n_pairs} pairs of {n} images, {shared} shared, models alike"
            line(name, pairs(n, n_pairs, shared, trials, rng), null=True)
    ranks(200, 1449, 21, rng)


if __name__ == "__main__":
    main()
