"""Two models on the same images: by how much they differ, and whether that is noise.

Both saw the same images, so an image that is easy is so for both, and the difference is known better than either value.
Needed is what each image adds to the metric (`counts.py`), which lies beside every record. `docs/compare.md` has the
formulas and how well they hold.

- **Interval**: images are drawn with replacement, and both models scored on each draw, by the rules of `sums.py`
  (bootstrap, Efron and Tibshirani 1993; the percentiles are widened for few images).
- **p-value**: were the models alike, either could have made the predictions of any image. They are swapped image by
  image at random; p is the share of swaps that differ by at least as much, the true assignment being one of them
  (Phipson and Smyth 2010, "Permutation p-values should never be zero").
- **Classes**: each has its own difference, interval and p; `adjusted` holds p for as many as are tested (Holm 1979).
- **Keypoints**: pairs are drawn and swapped, and both spreads are widened by what pairs of one image share.
- **Seeds**: a model's score is the mean over its seeds in every draw. What seeds change stands beside, not in it.

What a memory, a matching or a head would be with other images is not known: they stay as they were fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densebench.results.resample import Sizes, drawn_differences, interval, swapped
from densebench.results.sums import AlignedSums, Floats, Side, Sums, align

DRAWS, SWAPS, SEED = 2000, 9999, 0
ALPHA = 0.05
AS_STORED = 1e-3
"""What a record's value may be off the one that its images give, as a share of it, or in its unit where it is small."""
FEWEST = 5
"""Images that must show a class for it to have an interval."""


@dataclass(frozen=True, kw_only=True)
class ClassDifference:
    """The difference of two models in one class, or category."""

    name: str
    a: float
    b: float
    difference: float
    """b - a."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None where fewer than five images show the class."""
    p: float | None
    """Two-sided."""
    adjusted: float | None
    """p for as many classes as are tested: below 0.05, the chance that any such class does not differ is below 0.05."""
    n: int
    """Images, or pairs, that show it."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The difference of two models in one metric, on the same images."""

    a: float
    b: float
    difference: float
    """b - a, in the metric's unit."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval over images; None for a single image."""
    p: float | None
    """Two-sided; None where the models cannot be swapped, as `reason` says."""
    reason: str
    n: int
    """Images, or pairs of them, that both models saw."""
    unit: str
    """"images" or "pairs"."""
    left_out: tuple[int, int]
    """Those of each that the other model did not see."""
    seeds: tuple[int, int]
    """How many runs each value is the mean of."""
    by_seed: tuple[float, ...]
    """The difference for each of several seeds that both have."""
    classes: tuple[ClassDifference, ...] = ()
    """Those that the images show."""

    @property
    def n_tested(self) -> int:
        """How many classes have a p-value."""
        return sum(each.p is not None for each in self.classes)

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation of the difference over seeds."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return excludes_zero(self.low, self.high)


def paired(
    a: Side, b: Side, *, classes: Sequence[str] = (), draws: int = DRAWS, swaps: int = SWAPS, seed: int = SEED
) -> Paired:
    """Return how model b differs from model a in one metric.

    Args:
        a: what images add to it, an entry per seed.
        b: the other's.
        classes: names of a segmentation's classes, in order.
        draws: of images, for the intervals.
        swaps: of models, for the p-values; 0 makes none.
        seed: of both; equal ones give equal results.

    Raises UsageError, with the reason, where the two have no images in common or count other things.
    """
    both = align((a, b))
    one, two = (np.mean([run.value() for run in runs], 0) for runs in both.sums)
    shown, sizes = both.shown(), Sizes.of(both)
    low, high = interval(drawn_differences(both, draws, seed), sizes)
    low[1:], high[1:] = (np.where(shown >= FEWEST, ends[1:], np.nan) for ends in (low, high))
    pairs, reason = _seed_pairs(a, b, both)
    p = np.full(len(one), np.nan)
    if pairs and swaps:
        p = swapped(both, pairs, sizes, swaps, seed)
    p[1:] = np.where(shown > 0, p[1:], np.nan)
    by_seed = tuple(float(second.value()[0] - first.value()[0]) for first, second in pairs)
    return Paired(
        a=float(one[0]),
        b=float(two[0]),
        difference=float(two[0] - one[0]),
        low=_known(low[0]),
        high=_known(high[0]),
        p=_known(p[0]),
        reason=reason,
        n=both.n,
        unit=both.unit,
        left_out=(both.left_out[0], both.left_out[1]),
        seeds=(len(both.sums[0]), len(both.sums[1])),
        by_seed=by_seed if len(by_seed) > 1 else (),
        classes=tuple(_classes(both.classes or tuple(classes), np.stack([one, two, low, high, p])[:, 1:], shown)),
    )


def excludes_zero(low: float | None, high: float | None) -> bool:
    """Whether an interval says that there is a difference; [0, 0], of equal models, does not."""
    return low is not None and high is not None and (low > 0 or high < 0)


def holm(p: Floats) -> Floats:
    """Return p-values adjusted for their number, NaN where there is none.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm(np.array([0.01, np.nan, 0.04, 0.03])).tolist()
    [0.03, nan, 0.06, 0.06]
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN sorts last
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def _classes(names: Sequence[str], columns: Floats, shown: NDArray[np.int64]) -> list[ClassDifference]:
    """Return the classes that images show, of columns a, b, low, high and p (5, C)."""
    adjusted = holm(columns[4])
    made = []
    for i in np.flatnonzero((shown > 0) & ~np.isnan(columns[:2]).any(0)).tolist():
        a, b, low, high, p = map(float, columns[:, i])
        made.append(
            ClassDifference(
                name=names[i] if len(names) == len(shown) else f"class {i}",
                a=a,
                b=b,
                difference=b - a,
                low=_known(low),
                high=_known(high),
                p=_known(p),
                adjusted=_known(adjusted[i]),
                n=int(shown[i]),
            )
        )
    return made


def _seed_pairs(a: Side, b: Side, both: AlignedSums) -> tuple[list[tuple[Sums, Sums]], str]:
    """Return the runs of both models that are swapped with each other, and in words why there are none.

    Runs of one seed go together; where seeds have other names, the first with the first.
    """
    if len({run.rule for runs in both.sums for run in runs}) > 1:
        return [], "they score absent classes, or pairs, by other rules"
    mine, theirs = ([entry.seed for entry in side.entries] for side in (a, b))
    shared = [seed for seed in mine if seed in theirs]
    if shared and len(set(mine)) == len(mine) and len(set(theirs)) == len(theirs):
        return [(both.sums[0][mine.index(seed)], both.sums[1][theirs.index(seed)]) for seed in shared], ""
    return list(zip(*both.sums, strict=False)), ""


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
