"""Exact top-k of ``queries @ keys.T``, block by block, at nearly the cost of the matrix product alone.

A block of scores is reduced to the maximum of every group of columns; only groups whose maximum reaches the
query's current k-th best are looked into. After the first block those are few, so no score matrix is ever sorted.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 32  # columns per maximum: small enough to skip, large enough that the maxima cost nothing
CROWD = 8  # candidate groups per query of a block above which a tighter bound is worth its sorting


def default_blocks(n_queries: int, device: torch.device) -> tuple[int, int]:
    """Return (queries, keys) per block; their table of scores is 16 MiB on a CPU and 512 MiB on a GPU.

    On a CPU the table should stay in the last-level cache, and many queries with few keys multiply fastest.
    """
    cells, most = (2**22, 2048) if device.type == "cpu" else (2**27, 8192)
    rows = max(1, min(n_queries, most))
    return rows, min(cells // rows, 2**16)


def blockwise_topk(
    keys: Tensor,
    queries: Tensor,
    k: int,
    bias: Tensor | None = None,
    query_block: int | None = None,
    key_block: int | None = None,
    step: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k greatest ``queries @ keys.T + bias`` per query, descending, and their key indices.

    Ties go to the lower index. Temporaries are bounded by a few query_block x key_block tables whatever the sizes
    and the order of the keys.

    Args:
        keys: (N, D); blocks of another dtype are converted to that of the queries on the fly.
        queries: (Q, D) floating.
        k: 1 <= k <= N.
        bias: (N,) added to the scores, or None.
        query_block: queries per block, by default :func:`default_blocks`.
        key_block: keys per block, likewise.
        step: (Q, 1) of the queries' dtype; scores are rounded to multiples of it, and tied where those are equal.

    Returns:
        scores (Q, k) of the queries' dtype and indices (Q, k) int64.

    Raises:
        ValueError: k does not fit the number of keys.
    """
    if not 1 <= k <= len(keys):
        raise ValueError(f"k is between 1 and the number of keys {len(keys)}, got {k}")
    rows, columns = default_blocks(query_block or len(queries), queries.device)
    rows = min(query_block or rows, max(1, len(queries)))
    columns = _whole_groups(min(key_block or columns, len(keys)))
    table = queries.new_empty(rows * columns)
    held = _Candidates(rows, k, columns, queries)
    scores, indices = queries.new_empty(len(queries), k), held.where.new_empty(len(queries), k)
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows]
        held.reset()
        _scan(keys, part, bias, None if step is None else step[start : start + rows], columns, table, held)
        scores[start : start + rows] = held.best[: len(part), :k]
        indices[start : start + rows] = held.where[: len(part), :k]
    return scores if step is None else scores.mul_(step), indices


def _whole_groups(n_columns: int) -> int:
    return -(-n_columns // GROUP) * GROUP


def _scan(
    keys: Tensor,
    queries: Tensor,
    bias: Tensor | None,
    step: Tensor | None,
    columns: int,
    buffer: Tensor,
    held: _Candidates,
) -> None:
    """Leave the top k of one block of queries over all keys in ``held``."""
    n = len(queries)
    for start in range(0, len(keys), columns):
        block = keys[start : start + columns].to(queries.dtype)
        width = _whole_groups(len(block))
        table = buffer[: n * width].view(n, width)
        table[:, len(block) :] = -torch.inf
        if bias is None:
            torch.mm(queries, block.T, out=table[:, : len(block)])
        else:
            torch.addmm(bias[start : start + columns], queries, block.T, out=table[:, : len(block)])
        if step is not None:
            table.div_(step).round_()
        groups = table.view(n, width // GROUP, GROUP)
        maxima = groups.amax(-1)
        floor = held.floor[:n, None]
        query, group = (maxima >= floor).nonzero(as_tuple=True)
        if len(query) > CROWD * n and width >= held.k:  # the first block, or keys that come in ascending order
            sample = maxima if maxima.shape[1] >= 1.5 * held.k else table
            torch.maximum(floor, sample.topk(held.k).values[:, -1:], out=floor)  # k scores here reach it
            query, group = (maxima >= floor).nonzero(as_tuple=True)
        found = groups[query, group]
        hit, column = (found >= floor[query]).nonzero(as_tuple=True)
        held.add(query[hit], start + group[hit] * GROUP + column, found[hit, column])
    held.shrink(held.k)


class _Candidates:
    """Per query, the best k so far followed by unsorted candidates; ``floor`` is what a newcomer has to reach.

    Once k are held that is the next number above their worst: an equal newcomer has a higher index.

    Newcomers come in ascending order of index and behind those held, so that a stable sort prefers low indices.
    """

    def __init__(self, n_queries: int, k: int, most_new: int, like: Tensor) -> None:
        self.k, self.patience = k, 4 * k  # a query is sorted only when that many candidates have gathered
        self.best = like.new_empty(n_queries, self.patience + most_new)
        self.where = torch.empty(self.best.shape, dtype=torch.int64, device=like.device)
        self.count = torch.zeros(n_queries, dtype=torch.int64, device=like.device)
        self.floor = like.new_empty(n_queries)
        self.slots = torch.arange(self.best.shape[1], device=like.device)

    def reset(self) -> None:
        self.count.zero_()
        self.floor.fill_(torch.finfo(self.floor.dtype).min)  # finite, so that -inf padding never passes

    def add(self, query: Tensor, index: Tensor, score: Tensor) -> None:
        """Take candidates sorted by query, then index."""
        new = torch.bincount(query, minlength=len(self.count))
        rank = torch.arange(len(query), device=query.device) - (new.cumsum(0) - new)[query]
        slot = self.count[query] + rank
        self.best[query, slot] = score
        self.where[query, slot] = index
        self.count += new
        self.shrink(self.patience)

    def shrink(self, allowed: int) -> None:
        """Sort the queries that hold more than ``allowed`` candidates and keep their best k."""
        full = (self.count > allowed).nonzero().squeeze(1) if allowed > self.k else self.count.nonzero().squeeze(1)
        if not len(full):
            return
        count = self.count[full]
        width = max(self.k, int(count.max()))
        held = self.best[full, :width].masked_fill_(self.slots[:width] >= count[:, None], -torch.inf)
        top, choice = held.sort(dim=1, descending=True, stable=True)
        self.best[full, : self.k] = top[:, : self.k]
        self.where[full, : self.k] = self.where[full, :width].gather(1, choice[:, : self.k])
        self.count[full] = count.clamp(max=self.k)
        # above -inf, where fewer than k are held, comes the floor's start
        above = top[:, self.k - 1].nextafter(top.new_tensor(torch.inf))
        self.floor[full] = torch.maximum(self.floor[full], above)
