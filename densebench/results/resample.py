"""Draws of images, and swaps of models, for differences between models that saw the same images: see `compare.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from densebench.results.sums import AlignedSums, Ends, Floats, Sums

LEVEL = 0.95
BLOCK = 1 << 22
"""Numbers of weights, and of their sums, that are held at a time."""


def draw_weights(n: int, draws: int, seed: int, block: int = BLOCK) -> Iterator[Floats]:
    """Yield (R, n): how often each image is in each of R draws of n images, in blocks of at most `block` numbers.

    Draws are the same however they are cut.
    """
    rng = np.random.default_rng([seed, n])
    rows = max(1, min(draws, block // n))
    for start in range(0, draws, rows):
        height = min(rows, draws - start)
        drawn = rng.integers(n, size=(height, n)) + n * np.arange(height)[:, None]
        yield np.bincount(drawn.ravel(), minlength=height * n).reshape(height, n).astype(np.float64)


def drawn_scores(runs: Sequence[Sums], weights: Floats) -> Floats:
    """Return (R, 1 + C), the mean over runs of what draws of images, as weights (R, n), score."""
    return np.mean([one.scores(np.asarray(weights @ one.table)) for one in runs], 0)


def drawn_differences(both: AlignedSums, draws: int, seed: int) -> Floats:
    """Return (R, 1 + C): the difference of the second model from the first in every draw."""
    blocks = draw_weights(both.n, draws, seed, _room(both))
    found = [[drawn_scores(runs, weights) for runs in both.sums] for weights in blocks]
    return np.concatenate([second - first for first, second in found])


def interval(drawn: Floats, sizes: Sizes) -> tuple[Floats, Floats]:
    """Return the ends of 95 % intervals of what was drawn (R, ...), NaN where a draw has none; NaN for a single image.

    They are percentiles, as far again from the median as few images make them too short: by Student's t over the
    normal quantile, and by sqrt(n / (n - 1)), of which draws of n know nothing. Hesterberg 2015, "What teachers should
    know about the bootstrap", takes further percentiles instead (the expanded percentile interval), which need more
    draws.
    """
    known = (~np.isnan(drawn)).sum(0) > 1
    middle, low, high = np.full((3, *drawn.shape[1:]), np.nan)
    if known.any():
        tail = (1 - LEVEL) / 2
        quantile = np.nanquantile if np.isnan(drawn[:, known]).any() else np.quantile  # which is quicker
        middle[known], low[known], high[known] = quantile(drawn[:, known], [0.5, tail, 1 - tail], axis=0)
    reach = np.where(sizes.n > 1, sizes.wider * sizes.quantile, np.nan)
    return middle + reach * (low - middle), middle + reach * (high - middle)


def swapped(both: AlignedSums, pairs: Sequence[tuple[Sums, Sums]], sizes: Sizes, swaps: int, seed: int) -> Floats:
    """Return p-values (1 + C,): the share of swaps that differ by at least as much as was found, which is one of them.

    Args:
        both: the models.
        pairs: their runs that are swapped with each other: in every swap, those of the same images.
        sizes: of which pairs that share images make the differences of swaps larger.
        swaps: how many are drawn.
        seed: of the draws.
    """
    rng = np.random.default_rng([seed, both.n, 1])
    wider = 1.0 if both.ends is None else sizes.wider * sizes.quantile
    moves = [second.table - first.table for first, second in pairs]
    found = abs(np.mean([second.value() - first.value() for first, second in pairs], 0))
    least = found - 1e-9 * np.maximum(1, np.nan_to_num(found))  # equal but for rounding
    at_least, rows = np.ones(len(found)), max(1, min(swaps, _room(both) // both.n))
    for start in range(0, swaps, rows):
        height = min(rows, swaps - start)
        bits = rng.integers(0, 256, size=(height, -(-both.n // 8)), dtype=np.uint8)
        chosen = np.unpackbits(bits, axis=1, count=both.n).astype(np.float64)
        apart = np.zeros((height, len(found)))
        for (first, second), move in zip(pairs, moves, strict=True):
            moved = np.asarray(chosen @ move)
            apart += second.scores(second.total - moved, fixed=False) - first.scores(first.total + moved, fixed=False)
        at_least += (abs(apart / len(pairs)) * wider >= least).sum(0)
    return np.where(np.isnan(found), np.nan, at_least / (swaps + 1))


class Sizes(NamedTuple):
    """How much there is to tell the spread of values by, (1 + C,) each: of the metric, and of each class."""

    n: Floats
    """Images; of classes, those that show it."""
    freedom: Floats
    """Degrees of freedom of the spread: fewer than images where few of these make most of it."""
    wider: Floats
    """By how much units that share images widen the spread; 1 where units are images."""

    @property
    def quantile(self) -> Floats:
        """How much wider intervals are than those of many images."""
        more, level = np.maximum(self.n - 1, 1), (1 + LEVEL) / 2
        return np.asarray(special.stdtrit(self.freedom, level) / special.ndtri(level) * np.sqrt(self.n / more))

    @classmethod
    def of(cls, both: AlignedSums) -> Sizes:
        """Return the sizes of the difference of two models.

        The variance of n moves u has 2 n / (k - 1) degrees of freedom, where k = n sum u^4 / (sum u^2)^2 is their
        kurtosis (Satterthwaite 1946): n where they are normal, few where few images decide. Classes have n - 1.

        Pairs that share an image are not independent. Were they, the variance would be the sum of u^2; with those that
        share one it is the sum over images of (the sum of u over their pairs)^2, less the sum of u^2. The larger of the
        two counts (Aronow, Samii and Assenova 2015, "Cluster-robust variance estimation for dyadic data"). What an
        image moves is taken as what the difference moves without it, u over 1 - its share, as a jackknife has it.
        """
        first, second = (np.mean([one.moves() for one in runs], 0) for runs in both.sums)
        moves, shown = second - first, both.shown()
        every, classes = cls.of_values(moves[:, :1], both), cls.of_values(moves[:, 1:], both, shown)
        return cls(*(np.concatenate(pair) for pair in zip(every, classes, strict=True)))

    @classmethod
    def of_values(cls, moves: Floats, both: AlignedSums, shown: NDArray[np.int64] | None = None) -> Sizes:
        """Return the sizes of K values of moves (n, K): whole metrics, or classes that `shown` images show (K,)."""
        by_image, wider = moves, np.ones(moves.shape[1])
        if both.ends is not None:
            by_image = _by_image(moves, both.ends) / (1 - _share(both)[:, None])
            alone = (moves**2).sum(0)
            together = (by_image**2).sum(0) - alone
            wider = np.sqrt(np.maximum(1, np.divide(together, alone, out=np.ones_like(alone), where=alone > 0)))
        if shown is not None:
            if both.ends is not None:
                shown = np.minimum(shown, np.maximum((by_image != 0).sum(0), 1))
            return cls(shown.astype(np.float64), np.maximum(shown - 1.0, 1), wider)
        n = len(by_image)
        if both.ends is not None:  # each category has a mean of its own
            wider *= np.sqrt(max(n - 1, 1) / max(n - int((both.shown() > 0).sum()), 1))
        square, fourth = (by_image**2).sum(0), (by_image**4).sum(0)
        kurtosis = np.divide(n * fourth, square**2, out=np.full(len(square), 3.0), where=square > 0)
        freedom = np.clip(2 * n / np.maximum(kurtosis - 1, 1e-8), min(2, n - 1), n - 1)
        return cls(np.full(len(freedom), float(n)), np.maximum(freedom, 1), wider)


def _share(both: AlignedSums) -> Floats:
    """Return what share of a category's keypoints, or pairs, each image has: at most a half of it counts."""
    assert both.ends is not None
    truth = both.sums[0][0].truth
    truth = truth if isinstance(truth, np.ndarray) else truth.toarray()
    return np.minimum(0.5, (_by_image(truth, both.ends) / np.maximum(truth.sum(0), 1e-8)).max(1))


def _by_image(moves: Floats, ends: Ends) -> Floats:
    """Return the sums (images, 1 + C) of what pairs move, over the pairs of each image."""
    found = np.zeros((1 + int(max(end.max() for end in ends)), moves.shape[1]))
    for end in ends:
        np.add.at(found, end, moves)
    return found


def _room(both: AlignedSums) -> int:
    """Return how many numbers of weights leave room for the sums and scores that they give."""
    return max(both.n, BLOCK * both.n // (both.n + 4 * len(both.sums[0][0].total)))
