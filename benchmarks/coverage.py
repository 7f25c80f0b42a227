"""How often 95 % intervals hold the truth, on drawn data whose truth is known: the figure in docs/results.md.

Run by hand: `python benchmarks/coverage.py [coverage.png]`; five minutes. A trial draws a validation set and asks each
rule for its interval. The truth is the mean score of such sets: for mIoU, of each class that the set holds over all
sets of this size that hold it; for PCK and NMI over all trials, for PCK of the same categories. "Whole source" asks
instead whether the interval holds the IoU of all 20,000 images at once. Where classes are so rare that few sets hold
one, the two differ: a set that holds the one image in 400 with a class shows it too often, and mistakes for it too
rarely.

Rules: "jackknife" is `densebench/ops/jackknife.py`. The others are percentiles of bootstrap replicates: "lost = 0"
counts a class that a replicate lost as 0, "left out" averages over the classes that it holds. For depth and PCK, which
have no classes, "lost = 0" is the bootstrap over images, for PCK with pairs weighted by the product of their images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from densebench.ops.confusion import Counts, iou, mean_iou, mean_iou_left_out
from densebench.ops.correspondence import PCK
from densebench.ops.information import mutual_information
from densebench.ops.jackknife import GROUPS, group_of, jackknife_interval

TRIALS, REPLICATES, SOURCE = 400, 300, 20_000
RULES = ("bootstrap, lost = 0", "bootstrap, left out", "jackknife")
Array = NDArray[np.float64]
Ends = tuple[float, float]


class Trial(NamedTuple):
    """One validation set."""

    value: float
    truth: float
    """NaN: the mean of the values of all trials."""
    ends: dict[str, Ends]
    source: float = np.nan
    """The mIoU of the whole source over the set's classes."""
    rare: float = 0.0
    """Share of the set's classes that at most five images hold."""


def percentiles(replicates: torch.Tensor) -> Ends:
    """Return the ends of the central 95 %."""
    low, high = np.nanquantile(replicates.numpy(), [0.025, 0.975])
    return float(low), float(high)


def jackknife(value: float, left_out: torch.Tensor) -> Ends:
    """Return the ends of our interval."""
    low, high = jackknife_interval(value, left_out).tolist()
    return low, high


@cache
def groups_of(n: int, n_groups: int) -> torch.Tensor:
    """Return the group of each of n images."""
    return torch.tensor([group_of(i, n_groups) for i in range(n)])


def without_groups(tables: torch.Tensor, n_groups: int = GROUPS) -> torch.Tensor:
    """Return (G, ...) the sum of tables (N, ...) without each group in turn."""
    groups = groups_of(len(tables), n_groups)
    sums = tables.new_zeros(n_groups, *tables.shape[1:]).index_add_(0, groups, tables)
    return (sums.sum(0) - sums)[groups.unique()]


def segmented_images(n_classes: int, rng: np.random.Generator) -> torch.Tensor:
    """Return counts (SOURCE, 3, C): class c is in one of (c + 1)^1.2 images.

    Most of what is lost of a class falls to class 0, the rest to others, present or not. Classes differ in difficulty,
    images too, and so does a class from image to image: pixels are not independent.
    """
    classes = np.arange(n_classes)
    present = rng.random((SOURCE, n_classes)) < 1 / (1 + classes) ** 1.2
    area = np.where(present, rng.lognormal(0, 1, present.shape), 0) * 1000
    ease = rng.normal(0.5, 1, n_classes)
    right = area / (1 + np.exp(-ease - rng.normal(0, 0.7, (SOURCE, 1)) - rng.normal(0, 1.2, present.shape)))
    goes = (classes + rng.choice([1, 2, 5], present.shape)) % n_classes
    goes[(rng.random(present.shape) < 0.7) & (classes > 0)] = 0
    wrong = np.zeros_like(area)
    np.add.at(wrong, (np.arange(SOURCE)[:, None], goes), area - right)
    return torch.from_numpy(np.stack([right, wrong, area - right], 1).round()).float()


def miou(n: int, source: torch.Tensor, rng: np.random.Generator) -> Iterator[Trial]:
    """Draw n images of a long tail of classes."""
    whole, sums, sets = iou(*source.double().sum(0)), 0.0, 0.0
    for _ in range(1000):
        found = Counts(*source[rng.integers(SOURCE, size=n)].double().sum(0))
        held = found.tp + found.fn > 0
        sums, sets = sums + iou(*found) * held, sets + held.double()
    truth = torch.where(sets > 0, sums / sets, whole)
    for _ in range(TRIALS):
        tables = source[rng.integers(SOURCE, size=n)]
        found = Counts(*tables.double().sum(0))
        held = found.tp + found.fn > 0
        lacking = torch.nonzero(~held).flatten().tolist()
        weights = torch.from_numpy(rng.poisson(1, (REPLICATES, n))).float()
        again = Counts(*(weights @ tables.flatten(1)).double().view(REPLICATES, 3, -1).unbind(1))
        rest = Counts(*without_groups(tables.double()).unbind(1))
        value = float(mean_iou(*found, exclude=lacking))
        yield Trial(
            value,
            float(truth[held].mean()),
            {
                RULES[0]: percentiles(mean_iou(*again, exclude=lacking)),
                RULES[1]: percentiles(mean_iou_left_out(found, again, exclude=lacking)),
                RULES[2]: jackknife(value, mean_iou_left_out(found, rest, exclude=lacking)),
            },
            float(whole[held].mean()),
            float(((tables[:, 0] + tables[:, 2] > 0).sum(0)[held] <= 5).double().mean()),
        )


def depth(n: int, rng: np.random.Generator) -> Iterator[Trial]:
    """Draw n images whose RMSE is skewed."""
    for _ in range(TRIALS):
        errors = torch.from_numpy(rng.lognormal(0, 0.7, n))
        rest = without_groups(torch.stack([errors, torch.ones(n)], 1))
        weights = torch.from_numpy(rng.poisson(1.0, (REPLICATES, n))).double()
        value = float(errors.mean())
        yield Trial(
            value,
            float(np.exp(0.7**2 / 2)),
            {
                RULES[0]: percentiles(weights @ errors / weights.sum(1)),
                RULES[2]: jackknife(value, rest[:, 0] / rest[:, 1]),
            },
        )


def pck(n: int, n_pairs: int, n_categories: int, rng: np.random.Generator) -> Iterator[Trial]:
    """Draw images of categories of different difficulty, and pairs of them."""
    ease = rng.normal(-0.3, 0.7, n_categories)
    category = np.arange(n) % n_categories
    for _ in range(TRIALS):
        source = rng.integers(n, size=n_pairs)
        target = (source + n_categories * rng.integers(1, n // n_categories, n_pairs)) % n
        target = np.where(category[target] == category[source], target, source - n_categories)
        easy = rng.normal(0, 0.7, n)
        points = rng.integers(1, 13, n_pairs)
        odds = ease[category[source]] + easy[source] + easy[target] + rng.normal(0, 0.7, n_pairs)
        hits = rng.binomial(points, 1 / (1 + np.exp(-odds)))
        found = PCK(n_categories, 1)
        for c, s, t, k, h in zip(category[source], source, target, points, hits, strict=True):
            found.update(int(c), int(s), int(t), (torch.arange(k) < h)[None])
        value = float(found.overall()[0, 0])
        weights = rng.poisson(1, (REPLICATES, n))
        pairs = torch.from_numpy(weights[:, source] * weights[:, target]).double()
        again = pairs @ torch.from_numpy(hits).double() / (pairs @ torch.from_numpy(points).double())
        yield Trial(
            value, np.nan, {RULES[0]: percentiles(again), RULES[2]: jackknife(value, found.left_out()[:, 0, 0])}
        )


def nmi(n: int, rng: np.random.Generator) -> Iterator[Trial]:
    """Draw n label maps of 6 classes on a 4 x 4 grid: a layout, the image's own mixture, one label per position."""
    layout = rng.dirichlet(np.ones(6), 16)
    for _ in range(TRIALS):
        shares = layout * rng.dirichlet(np.ones(6), n)[:, None]
        drawn = (shares / shares.sum(2, keepdims=True)).cumsum(2)
        labels = (rng.random((n, 16, 1)) > drawn).sum(2).clip(max=5)
        tables = torch.nn.functional.one_hot(torch.from_numpy(labels), 6)
        value = mutual_information(tables.sum(0)).nmi
        rest = torch.tensor([mutual_information(t).nmi for t in without_groups(tables, 10)], dtype=torch.float64)
        yield Trial(value, np.nan, {RULES[2]: jackknife(value, rest)})


class Row(NamedTuple):
    """One line of the table; by rule: coverage in percent, width relative to the jackknife's, place of the value."""

    name: str
    rare: float
    coverage: dict[str, float]
    of_source: float
    """Coverage of the whole source by the jackknife; NaN where there is none."""
    width: dict[str, float]
    place: dict[str, tuple[float, float]]
    """Of the value between the ends 0 and 1, the 5th and the 95th percentile of the trials."""


def row(name: str, trials: list[Trial]) -> Row:
    """Sum up the trials of a line."""
    values, truths = (np.array([getattr(t, key) for t in trials]) for key in ("value", "truth"))
    truths = np.where(np.isnan(truths), values.mean(), truths)
    ends = {rule: np.array([t.ends[rule] for t in trials]) for rule in RULES if rule in trials[0].ends}
    width = {rule: float((e[:, 1] - e[:, 0]).mean()) for rule, e in ends.items()}
    places = {rule: (values - e[:, 0]) / (e[:, 1] - e[:, 0]) for rule, e in ends.items()}
    source, (low, high) = np.array([t.source for t in trials]), ends[RULES[2]].T
    of_source = 100 * float(((low <= source) & (source <= high)).mean())
    return Row(
        name,
        100 * float(np.mean([t.rare for t in trials])),
        {rule: 100 * float(((e[:, 0] <= truths) & (truths <= e[:, 1])).mean()) for rule, e in ends.items()},
        np.nan if np.isnan(source).all() else of_source,
        {rule: w / width[RULES[2]] for rule, w in width.items()},
        {rule: (float(np.quantile(p, 0.05)), float(np.quantile(p, 0.95))) for rule, p in places.items()},
    )


def rows() -> Iterator[Row]:
    """Yield all lines."""
    for n_classes in (21, 150):
        source = segmented_images(n_classes, np.random.default_rng(n_classes))
        for n in (30, 120, 500, 1449):
            trials = list(miou(n, source, np.random.default_rng(n)))
            yield row(f"mIoU, {n_classes} classes, {n} images", trials)
    for n in (30, 120, 654):
        yield row(f"depth error, {n} images", list(depth(n, np.random.default_rng(n))))
    for n, n_pairs, n_categories in ((30, 60, 3), (160, 200, 5), (100, 900, 5)):
        trials = list(pck(n, n_pairs, n_categories, np.random.default_rng(n)))
        yield row(f"PCK, {n_pairs} pairs of {n} images", trials)
    for n in (30, 120, 500):
        yield row(f"NMI, {n} images", list(nmi(n, np.random.default_rng(n))))


def draw(found: list[Row]) -> Figure:
    """Return the figure: coverage, and where the value lies in its interval."""
    figure = Figure(figsize=(10, 0.34 * len(found) + 1.4), layout="constrained")
    coverage, place = figure.subplots(1, 2, sharey=True)
    coverage.axvspan(92, 98, color="0.92")
    coverage.axvline(95, color="0.7", linewidth=1)
    place.axvline(0.5, color="0.7", linewidth=1)
    for end in (0, 1):
        place.axvline(end, color="0.4", linewidth=1)
    for rule, color, shift in zip(RULES, ("#d1605e", "#e7a04f", "#3a6ea5"), (-0.2, 0.0, 0.2), strict=True):
        lines = [(i + shift, r) for i, r in enumerate(found) if rule in r.coverage]
        at = [y for y, _ in lines]
        coverage.plot([r.coverage[rule] for _, r in lines], at, "o", color=color, label=rule, markersize=5)
        low, high = np.array([r.place[rule] for _, r in lines]).T
        place.hlines(at, low, high, color=color, linewidth=3)
        place.plot((low + high) / 2, at, "o", color=color, markersize=5)
    coverage.set_yticks(range(len(found)), [r.name for r in found])
    coverage.invert_yaxis()
    coverage.set_xlabel("sets whose 95 % interval holds the truth [%]")
    place.set_xlabel("place of the value in its interval (ends at 0 and 1)")
    coverage.legend(frameon=False, loc="lower left")
    for axes in (coverage, place):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Print the table, and draw the figure where a file is named."""
    titles = ["drawn data", "rare classes [%]", *RULES, "the same, whole source", "width of the first, of ours"]
    print("| " + " | ".join(titles) + " |")
    print("|---" * len(titles) + "|")
    found = []
    for line in rows():
        found.append(line)
        cells = [line.name, f"{line.rare:.0f}" if line.rare else ""]
        cells += [f"{line.coverage[rule]:.1f}" if rule in line.coverage else "" for rule in RULES]
        cells += ["" if np.isnan(line.of_source) else f"{line.of_source:.1f}"]
        cells += [f"{line.width[RULES[0]]:.2f}" if RULES[0] in line.width else ""]
        print("| " + " | ".join(cells) + " |", flush=True)
    if len(sys.argv) > 1:
        draw(found).savefig(sys.argv[1], dpi=110)


if __name__ == "__main__":
    main()
