"""Lloyd's iterations as faiss does them, exact, and on a CPU without most of the distances.

Late in k-means most rows keep their centroid, and the triangle inequality proves it without looking: a distance
changes by no more than its centroid moves (Elkan 2003; Hamerly 2010). One bound per row and group of centroids, as
in Yinyang k-means (Ding et al. 2015), is the compromise that pays here: on 50-dimensional tokens and K = 500 it
leaves an eighth of the distances, where one bound per row (Hamerly) leaves half, since few fast centroids spoil it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops import faiss_calls, ties

SPLIT_EPSILON = 1 / 1024  # by how much faiss pushes the halves of a split cluster apart
GROUP_SIZE = 25  # centroids that share a bound: fewer prune more but make the matrix products thin
WARM_UP = 2  # iterations before bounds are kept: centroids still jump, and groups of random rows mean little
MIN_CLUSTERS = 64  # below, all distances cost less than the bookkeeping
ROWS = 8192  # at a time, so that what belongs to them stays in the processor's cache

Each = Callable[[Callable[[Any], Tensor], Iterable[Any]], Iterable[Tensor]]  # as `map` of one iterable


def lloyd(
    x: Tensor,
    centroids: Tensor,
    n_iter: int,
    spherical: bool = False,
    prune: bool | None = None,
    find: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, float]:
    """Return the centroids (K, D) after at most ``n_iter`` iterations from ``centroids``, and the last objective.

    Args:
        x: rows (N, D), float32.
        centroids: where to start, (K, D).
        n_iter: iterations, at least 1; they end early once no row changes its cluster.
        spherical: normalise the centroids before each iteration and at the end.
        prune: skip distances that cannot matter. It changes time only; ``None`` does so where it saves time.
        find: used instead of :func:`assign`, with all distances.

    The objective is the sum over rows of the squared distance to the nearest centroid (spherical: of the dot product
    with it) at the last assignment. Sums of clusters are kept in float64 and updated by the rows that move only.
    """
    if prune is None:
        prune = find is None and x.device.type == "cpu" and len(centroids) >= MIN_CLUSTERS
    with _crew(prune) as each:
        return _iterate(x, centroids, n_iter, spherical, prune, each, find or assign)


def _iterate(
    x: Tensor,
    centroids: Tensor,
    n_iter: int,
    spherical: bool,
    prune: bool,
    each: Each,
    find: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, float]:
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=x.device)
    members = used = bounds = None
    for step in range(n_iter):
        used = centroids = F.normalize(centroids, dim=1) if spherical else centroids
        if prune and step == WARM_UP and members is not None:
            order = members.argsort(stable=True)  # rows of one cluster need the same centroids: keep them together
            members = members[order]
            bounds = _Bounds(x[order], members, centroids, each)
            x = bounds.x[:, :-1]
        if bounds is not None:
            nearest = bounds.nearest(centroids)
        elif prune:
            nearest = torch.cat(list(each(partial(assign, centroids=centroids), x.split(ROWS))))
        else:
            nearest = find(x, centroids)
        moved = torch.arange(len(x), device=x.device) if members is None else (nearest != members).nonzero().squeeze(1)
        if not len(moved):
            break  # converged: further iterations would repeat this one
        for some in moved.split(ROWS):
            rows = x[some].double()
            sums.index_add_(0, nearest[some], rows)
            if members is not None:
                sums.index_add_(0, members[some], rows, alpha=-1)
        members = nearest
        sizes = torch.bincount(members, minlength=len(centroids))
        centroids = _split_empty((sums / sizes.clamp(min=1)[:, None]).to(x.dtype), sizes, len(x))
    assert members is not None
    assert used is not None
    objective = 0.0
    for rows, own in zip(x.split(ROWS), used[members].split(ROWS), strict=True):
        objective += float((rows * own if spherical else (rows - own).square()).sum(dtype=torch.float64))
    return F.normalize(centroids, dim=1) if spherical else centroids, objective


def assign(x: Tensor, centroids: Tensor, chunk: int | None = None) -> Tensor:
    """Return the (N,) int64 index of the nearest centroid by Euclidean distance, of rows (N, D).

    Near ties go to the lowest by the rule of :mod:`densebench.ops.ties`: the outcome does not depend on the chunks.
    """
    centroids = centroids.to(x.device)
    wide = centroids.double()
    squares = wide.square().sum(1)
    longest, bias = squares.max().sqrt(), (-squares / 2).to(centroids.dtype)
    # the scores of a chunk: on a CPU half a second-level cache
    chunk = chunk or max(1, (2**17 if x.device.type == "cpu" else 2**22) // len(centroids))
    nearest = torch.empty(len(x), dtype=torch.int64, device=x.device)
    lead = centroids.new_empty(len(x))
    for some, index, ahead in zip(x.split(chunk), nearest.split(chunk), lead.split(chunk), strict=True):
        scores = torch.addmm(bias, some.to(centroids.dtype), centroids.T)  # of the nearest x.c - |c|^2 / 2 is greatest
        ties.leader(scores, index, ahead)
    scale = (torch.linalg.vector_norm(x, dim=1, dtype=centroids.dtype) + longest / 2) * longest
    unsure = (lead <= ties.margin(scale, x.shape[1], centroids.dtype)).nonzero().squeeze(1)
    for rows in unsure.split(max(chunk, 4096)):
        exact = torch.addmm(-squares / 2, x[rows].double(), wide.T)
        nearest[rows] = ties.first_greatest(exact, scale[rows, None])
    return nearest


def assign_with_faiss(x: Tensor, centroids: Tensor) -> Tensor:
    """Return what :func:`assign` returns, of contiguous float32 rows on one device, by faiss's search.

    Squared distances that are more than twice their rounding error and a step apart are in order; the rule decides the
    rest. The error of |x|^2 + |c|^2 - 2 x.c is at most (D + 4) u (|x| + |c|)^2, see `_Bounds`.
    """
    if len(centroids) == 1:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)
    squares, found = faiss_calls.knn(centroids.contiguous(), x, 2, "l2")
    reach = (torch.linalg.vector_norm(x, dim=1) + torch.linalg.vector_norm(centroids, dim=1).max()).square()
    nearest = found[:, 0].clone()
    unsure = (squares[:, 1] - squares[:, 0] <= ties.margin(reach, x.shape[1], x.dtype)).nonzero().squeeze(1)
    nearest[unsure] = assign(x[unsure], centroids)
    return nearest


class _Bounds:
    """What is known of the distances of rows (N, D) to centroids that move.

    Per row ``upper`` (N,) bounds the distance to its own centroid from above; per group g of centroids and row
    ``lower[g] - travelled[g]`` bounds the distances to all centroids of g but its own from below. ``travelled`` adds up
    the farthest that any centroid of g moved in each step, so that a step needs no pass over the bounds.

    Rounding cannot prune wrongly. With u = 2**-24, a squared distance from norms and a dot product of D terms is off
    by at most e = (D + 4) u (|x| + |c|)^2 (standard bound of a dot product, and Cauchy-Schwarz). ``margin`` is 2 e for
    the longest centroid; lower bounds give up one margin and upper bounds take two, hence a centroid is dropped only
    if it is more than 2 e farther in the square, where ``assign`` cannot have found it nearer or tied either. The
    factors 1 + few eps cover the rounding of the bounds' own sums and roots.
    """

    def __init__(self, x: Tensor, members: Tensor, centroids: Tensor, each: Each = map) -> None:
        self.each = each
        self.x = F.pad(x, (0, 1), value=1.0)  # a column of ones adds the centroids' norms within the matrix product
        self.members, self.centroids = members, centroids
        self.norm = torch.cat([rows.square().sum(1) for rows in x.split(ROWS)])
        self.group = _group(centroids)
        self.parts = [(self.group == g).nonzero().squeeze(1) for g in range(int(self.group.max()) + 1)]
        self.sizes = torch.tensor([len(part) for part in self.parts], device=x.device)
        self.place = torch.empty_like(self.group)  # of a centroid within its group
        for part in self.parts:
            self.place[part] = torch.arange(len(part), device=x.device)
        self.lower = x.new_full((len(self.parts), len(x)), -1.0)
        self.travelled = x.new_zeros(len(self.parts), dtype=torch.float64)
        self.upper = x.new_empty(len(x))
        self.margin = x.new_empty(len(x))
        self.stale = torch.ones(len(x), dtype=torch.bool, device=x.device)  # whose upper bound is out of date
        self.eps = torch.finfo(x.dtype).eps

    def nearest(self, centroids: Tensor) -> Tensor:
        """Return the (N,) nearest centroid of every row, now that the centroids are at ``centroids``."""
        drift = (centroids.double() - self.centroids.double()).norm(dim=1)
        farthest = torch.zeros_like(self.travelled).scatter_reduce_(0, self.group, drift, "amax")
        self.travelled += farthest * (1 + self.eps)
        self.centroids = centroids
        n_dims = centroids.shape[1]
        torch.add(self.norm.sqrt(), centroids.norm(dim=1).max(), out=self.margin)
        self.margin.square_().mul_((n_dims + 4) * self.eps + ties.GRID)
        wide = torch.cat([centroids, -centroids.square().sum(1, keepdim=True) / 2], 1)
        never = F.pad(torch.zeros_like(wide[:1, :-1]), (0, 1), value=-torch.inf)  # for rows that belong elsewhere
        tables = [torch.cat([wide[part], never]) for part in self.parts]
        blocks = [slice(start, start + ROWS) for start in range(0, len(self.x), ROWS)]
        rows = torch.cat(list(self.each(lambda b: b.start + self._doubtful(b, drift > 0, tables), blocks)))
        parts = self.each(lambda some: assign(self.x.index_select(0, some)[:, :n_dims], centroids), rows.split(ROWS))
        found = torch.cat(list(parts))
        moved = found != self.members[rows]
        rows, found = rows[moved], found[moved]
        group = self.group[self.members[rows]]
        left = (self.upper[rows].square() - 3 * self.margin[rows]).clamp_(min=0).sqrt_()  # the centroid left behind
        left += self.travelled[group].to(left.dtype)
        self.lower[group, rows] = torch.minimum(self.lower[group, rows], left)
        self.members = self.members.index_copy(0, rows, found)
        self.stale[rows] = True
        return self.members

    def _doubtful(self, block: slice, moving: Tensor, tables: list[Tensor]) -> Tensor:
        """Renew the bounds that fail in a block; return its rows that may have another nearest centroid."""
        x, members, upper, stale = self.x[block], self.members[block], self.upper[block], self.stale[block]
        margin, lower, travelled = self.margin[block], self.lower[:, block], self.travelled.to(x.dtype)
        stale |= moving.index_select(0, members)
        rows = stale.nonzero().squeeze(1)
        own = self.centroids.index_select(0, members.index_select(0, rows))
        squares = (x.index_select(0, rows)[:, :-1] - own).square_().sum(1)
        upper[rows] = squares.add_(margin.index_select(0, rows), alpha=2).sqrt_()
        stale.zero_()

        fails = lower <= (upper + travelled[:, None]).mul_(1 + 4 * self.eps)
        groups, rows = fails.nonzero().unbind(1)  # group after group
        own = members.index_select(0, rows)
        inside = self.group.index_select(0, own) == groups
        place = torch.where(inside, self.place.index_select(0, own), self.sizes.index_select(0, groups))
        best, end = x.new_empty(len(rows)), 0
        for table, n in zip(tables, torch.bincount(groups, minlength=len(tables)).tolist(), strict=True):
            pairs = slice(end, end + n)
            end += n
            if n:
                scores = table @ x.index_select(0, rows[pairs]).T  # (group, rows): maxima over the first axis are quick
                scores.scatter_(0, place[None, pairs], -torch.inf)
                torch.amax(scores, 0, out=best[pairs])
        squares = (self.norm[block] - margin).index_select(0, rows).sub_(best, alpha=2)
        found = squares.clamp_(min=0).sqrt_()
        lower[groups, rows] = found + travelled.index_select(0, groups)
        nearer = rows[found <= upper.index_select(0, rows)]
        return torch.zeros_like(stale).index_fill_(0, nearer, True).nonzero().squeeze(1)


@contextmanager
def _crew(wanted: bool) -> Iterator[Each]:
    """Yield a ``map`` over blocks of rows, done by as many threads as torch uses, each of which computes alone.

    The steps are too small for torch to share them out, which costs more than it saves, least of all on a busy machine.
    """
    n_threads = torch.get_num_threads()
    if not wanted or n_threads == 1:
        yield map
        return
    inference = torch.is_inference_mode_enabled()  # which is each thread's own
    with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def each(work: Callable[[Any], Tensor], blocks: Iterable[Any]) -> Iterable[Tensor]:
            def alone(block: Any) -> Tensor:
                with torch.inference_mode(inference):
                    return work(block)

            return pool.map(alone, blocks)

        torch.set_num_threads(1)
        try:
            yield each
        finally:
            torch.set_num_threads(n_threads)


def _group(centroids: Tensor, rounds: int = 5) -> Tensor:
    """Return the group (K,) of each centroid, from 0 without gaps: k-means of the centroids themselves."""
    n_groups = max(1, len(centroids) // GROUP_SIZE)
    start = centroids[torch.linspace(0, len(centroids) - 1, n_groups, device=centroids.device).long()]
    centres, _ = lloyd(centroids, start, rounds, prune=False)
    return assign(centroids, centres).unique(return_inverse=True)[1]


def _split_empty(centroids: Tensor, sizes: Tensor, n_rows: int) -> Tensor:
    """Give every empty cluster half of another one, drawn with odds that grow with its size, as faiss does."""
    empty = (sizes == 0).nonzero().squeeze(1).tolist()
    if not empty:
        return centroids
    size = sizes.tolist()
    draw = np.random.RandomState(1234)
    sign = 1 - 2 * (torch.arange(centroids.shape[1], device=centroids.device) % 2)
    for cluster in empty:
        donor = 0
        while draw.randint(2**32, dtype=np.uint32) / (2**32 - 1) >= (size[donor] - 1) / max(1, n_rows - len(size)):
            donor = (donor + 1) % len(size)
        centroids[cluster] = centroids[donor] * (1 + SPLIT_EPSILON * sign)
        centroids[donor] = centroids[donor] * (1 - SPLIT_EPSILON * sign)
        size[cluster] = size[donor] // 2
        size[donor] -= size[cluster]
    return centroids
