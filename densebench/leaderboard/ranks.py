"""Ranks with ties: 1 + the number of models that are better, where better means more than noise.

On the same images, model i is better than j where the 95 % interval of their paired difference (`results/compare.py`)
excludes 0. Being told apart is not transitive: where A beats C, and B can be told from neither, A and B share rank 1
and C has rank 2. So several models may share a rank, and ranks may be skipped.

Where no images are kept, two models tie if their unpaired intervals overlap, which is lenient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DensebenchError
from densebench.leaderboard.row import Row
from densebench.results.compare import AS_STORED, DRAWS, SEED
from densebench.results.resample import Sizes, draw_weights, drawn_scores, interval
from densebench.results.sums import AlignedSums, Floats, Side, align

IMAGES, INTERVALS, SOME = "images", "intervals", "some"
"""What ranks come from: paired images, overlap of unpaired intervals, or the one and the other."""
SURE, UNSURE = 9.0, 0.8
"""Standard deviations from 0, to first order, beyond and below which nothing is drawn: intervals are between them."""
HELD = 1 << 23
"""Numbers of weights that are held for all models; more are drawn again for each."""
CHUNK = 512
"""Pairs whose draws are held at a time."""


class Contender(NamedTuple):
    """One model in one column of a table, with what decides its rank."""

    row: Row
    side: Callable[[], Side] | None
    """Reads what its images add; None where nothing is kept."""


class _Known(NamedTuple):
    """What is held of a model: numbers, not its tables."""

    like: tuple[object, ...]
    """What two models have to share to be paired as they are: images, pairs of them, and rules."""
    value: float
    moves: Floats
    """(n,)."""
    aligned: AlignedSums
    """With no tables."""
    side: Side


def ranks(better: NDArray[np.bool_]) -> list[int]:
    """Return the rank of each model of a table (n, n) of who (row) is better than whom (column).

    >>> ranks(np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]], bool))
    [1, 1, 2]
    """
    return [1 + int(count) for count in better.sum(0)]


def rank_column(column: Sequence[Contender]) -> tuple[list[int], str]:
    """Return the ranks of models in one metric, in their order, and what they come from."""
    known = [_read(contender) for contender in column]
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, each in enumerate(known):
        groups.setdefault(("alone", index) if each is None else each.like, []).append(index)
    signs = _unpaired([contender.row for contender in column])
    for members in groups.values():
        signs[np.ix_(members, members)] = (
            _signs([each for i in members if (each := known[i])]) if len(members) > 1 else 0
        )
    higher = column[0].row.higher_is_better if column else True
    upper = np.triu(signs, 1) * (1 if higher else -1)
    better = (upper < 0) | (upper.T > 0)
    pairs, paired = (len(column) * (len(column) - 1) // 2, sum(len(m) * (len(m) - 1) // 2 for m in groups.values()))
    return ranks(better), IMAGES if paired == pairs else SOME if paired else INTERVALS


def _read(contender: Contender) -> _Known | None:
    if contender.side is None:
        return None
    try:
        side = contender.side()
        found = align((side,))
    except DensebenchError:  # gone, damaged, or of no image
        return None
    runs = found.sums[0]
    value = float(np.mean([run.value()[0] for run in runs]))
    if not abs(value - contender.row.value) <= AS_STORED * max(1, abs(value)):  # not what the record says
        return None
    ends = () if found.ends is None else tuple(end.tobytes() for end in found.ends)
    light = replace(found, sums=((replace(runs[0], table=runs[0].truth if found.ends else None),),))
    return _Known(
        (side.ids, ends, runs[0].rule, runs[0].n_classes),
        value,
        np.mean([run.moves()[:, 0] for run in runs], 0),
        light,
        side,
    )


def _signs(known: Sequence[_Known]) -> NDArray[np.int8]:
    """Return (n, n), above the diagonal 1 where the second value is greater beyond noise, -1 where it is smaller."""
    values, moves = np.array([each.value for each in known]), np.stack([each.moves for each in known])
    apart = values[None] - values[:, None]
    gram = moves @ moves.T
    spread = np.sqrt(np.maximum(gram.diagonal()[None] + gram.diagonal()[:, None] - 2 * gram, 0))
    if known[0].aligned.ends is not None:  # pairs share images
        spread = np.zeros_like(spread)
    signs = np.where(abs(apart) > SURE * spread, np.sign(apart), 0).astype(np.int8)
    unsure = np.triu((abs(apart) >= UNSURE * spread) & (abs(apart) <= SURE * spread), 1)
    if known[0].aligned.ends is not None:
        unsure = np.triu(~np.isnan(apart), 1)
    first, second = np.nonzero(unsure)
    drawn = _drawn({index: known[index].side for index in np.unique([first, second]).tolist()}, known[0].aligned.n)
    for start in range(0, len(first), CHUNK):
        i, j = first[start : start + CHUNK], second[start : start + CHUNK]
        sizes = Sizes.of_values((moves[j] - moves[i]).T, known[0].aligned)
        low, high = interval(np.stack([drawn[b] - drawn[a] for a, b in zip(i, j, strict=True)], 1), sizes)
        signs[i, j] = (low > 0).astype(np.int8) - (high < 0)
    return signs


def _drawn(sides: Mapping[int, Side], n: int) -> dict[int, Floats]:
    """Return (R,) of each: what draws of its images score, the same draws for every model, as `paired` has them."""
    held = list(draw_weights(n, DRAWS, SEED)) if n * DRAWS <= HELD else None
    found = {}
    for index, side in sides.items():
        (runs,) = align((side,)).sums
        blocks = held or draw_weights(n, DRAWS, SEED)
        found[index] = np.concatenate([drawn_scores(runs, weights)[:, 0] for weights in blocks])
    return found


def _unpaired(rows: Sequence[Row]) -> NDArray[np.int8]:
    """Return the signs (n, n) of unpaired intervals that do not overlap; where one has none, of values that differ."""
    ends = [(row.value, row.ci95_low, row.ci95_high) for row in rows]
    value, low, high = np.array(ends, np.float64).reshape(-1, 3).T
    overlap = (low[None] <= high[:, None]) & (low[:, None] <= high[None])  # False where one is NaN
    apart = value[None] - value[:, None]
    return np.where(overlap | np.isnan(apart), 0, np.sign(apart)).astype(np.int8)
