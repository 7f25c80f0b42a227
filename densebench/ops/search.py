"""Nearest neighbours among keys: exact on two backends, approximate with ScaNN as open-hummingbird-eval sets it.

Both run where the tensors are; torch needs nothing installed, faiss what :mod:`densebench.ops.faiss_calls` says. Both
are exact, and near ties are decided by the rule of :mod:`densebench.ops.ties`, so that both find the same keys in the
same order, whatever the blocks, the threads and the processor; of scores, the last digit may differ.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops import faiss_calls, ties
from densebench.ops.precision import widen
from densebench.ops.topk import blockwise_topk

Metric = Literal["ip", "l2"]
Backend = Literal["auto", "torch", "faiss"]

SCANN_CENTRES = 16
"""Centres that ScaNN's hashing has per block, trained on as many keys at least."""
SPARE = 8
"""Keys beyond the k-th that the first pass returns, to see what is tied with it."""


class Neighbours(NamedTuple):
    """The k nearest keys of each query, best first.

    ``scores`` (Q, k) of the queries' type, float32 at least: dot products descending for ``ip``, squared distances
    ascending for ``l2``; ``indices`` (Q, k) int64 rows of the keys.
    """

    scores: Tensor
    indices: Tensor


class Index(Protocol):
    """What a search needs to offer."""

    @property
    def backend(self) -> str:
        """The library that searches, for the result record."""

    def search(self, queries: Tensor, k: int) -> Neighbours:
        """Return the min(k, N) nearest keys of queries (Q, D)."""


class ExactIndex:
    """Exact search over keys (N, D), which are not copied.

    Args:
        keys: floating; float16 and bfloat16 are widened block by block (torch) or once (faiss).
        backend: ``auto`` is faiss for keys on a CPU if installed, otherwise torch. Measured on a CPU per thread,
            faiss took 0.89 (128 dimensions) and 0.94 (384) of torch's time, and it suffers less when other
            programs compete for the cores; ``benchmarks/retrieval.py`` measures it again. On a GPU nothing was
            measured, so it is torch there.
        metric: ``ip``, the dot product with the query as it is, or ``l2``, the squared Euclidean distance.
        query_block: of the torch backend, see :func:`densebench.ops.topk.blockwise_topk`.
        key_block: likewise.

    Raises:
        ValueError: keys that are empty, not (N, D), or not finite; an unknown backend or metric.
        ImportError: faiss was asked for and cannot search where the keys are.
    """

    def __init__(
        self,
        keys: Tensor,
        backend: Backend = "auto",
        metric: Metric = "ip",
        *,
        query_block: int | None = None,
        key_block: int | None = None,
    ) -> None:
        if keys.ndim != 2 or not len(keys):
            raise ValueError(f"keys are a non-empty (N, D) table, got {tuple(keys.shape)}")
        if metric not in ("ip", "l2"):
            raise ValueError(f"metric is 'ip' or 'l2', got {metric!r}")
        _require_finite(keys, "keys")
        self.backend: str = choose_backend(backend, keys.device)
        self.metric: Metric = metric
        self.query_block, self.key_block = query_block, key_block
        self.keys = keys.float().contiguous() if self.backend == "faiss" else keys
        halves = _half_norms(keys)
        self._longest = float((2 * halves.max()).sqrt())
        self._half_norms = halves if metric == "l2" else None

    def search(self, queries: Tensor, k: int) -> Neighbours:
        """Return the min(k, N) nearest keys of queries (Q, D), on the device of the keys."""
        if queries.ndim != 2 or queries.shape[1] != self.keys.shape[1]:
            raise ValueError(f"queries {tuple(queries.shape)} do not match keys {tuple(self.keys.shape)}")
        queries = widen(queries.to(self.keys.device))
        _require_finite(queries, "queries")
        k = min(k, len(self.keys))
        first_pass = self._with_faiss if self.backend == "faiss" else self._with_torch
        found = self._settle(queries, first_pass(queries, min(k + SPARE, len(self.keys))), k)
        return found if self.metric == "ip" else found._replace(scores=found.scores.neg_().clamp_(min=0))

    def _settle(self, queries: Tensor, found: Neighbours, k: int) -> Neighbours:
        """Return the first k by rule of the best k + SPARE (or all) of the first pass; scores are descending, or -d^2.

        Near ties among them are scored again. Where more keys than these are tied with the k-th, which are duplicates
        as a rule, all keys are searched again in float64: constant features cost twice the time and no memory.
        """
        scores, indices = found
        norms = queries.double().norm(dim=1, keepdim=True)
        if self.metric == "ip":
            reach = step_scale = norms * self._longest
        else:  # no key longer than |q| + d is nearer than d
            farthest = (-scores[:, -1:]).clamp(min=0).double().sqrt()
            reach = (norms + (norms + farthest).clamp(max=self._longest)).square()
            step_scale = 2 * norms.square()
        margin, step = ties.margin(reach, queries.shape[1], scores.dtype), ties.step_of(step_scale)
        near = scores[:, :-1] - scores[:, 1:] <= margin
        unsure = near[:, :k].any(1)
        crowded = unsure & (scores[:, k - 1] - scores[:, -1] <= margin.squeeze(1))
        if scores.shape[1] == len(self.keys):
            crowded.zero_()
        rows = (unsure & ~crowded).nonzero().squeeze(1)
        if len(rows):
            slots = F.pad(near[rows], (0, 1)) | F.pad(near[rows], (1, 0))
            at, place = slots.nonzero(as_tuple=True)
            exact, mine = scores[rows].double(), indices[rows]
            exact[at, place] = self._exact(queries, step, rows[at], mine[at, place])
            ascending = mine.argsort(dim=1)
            order = exact.gather(1, ascending).sort(dim=1, descending=True, stable=True).indices
            order = ascending.gather(1, order)
            scores[rows], indices[rows] = exact.gather(1, order).to(scores.dtype), mine.gather(1, order)
        rows = crowded.nonzero().squeeze(1)
        if len(rows):
            wide, bias = queries[rows].double(), None if self._half_norms is None else -self._half_norms
            best, indices[rows, :k] = blockwise_topk(
                self.keys, wide, k, bias, self.query_block, self.key_block, step[rows]
            )
            scores[rows, :k] = self._as_scores(best, wide).to(scores.dtype)
        return Neighbours(scores[:, :k], indices[:, :k])

    def _exact(self, queries: Tensor, step: Tensor, rows: Tensor, indices: Tensor, block: int = 512) -> Tensor:
        """Return the float64 scores (P,), rounded to steps, of pairs of rows of queries and of keys."""
        found = []
        for row, index in zip(rows.split(block), indices.split(block), strict=True):
            q, x = queries[row].double(), self.keys[index].double()
            best = (q * x).sum(1) if self._half_norms is None else (q * x).sum(1) - self._half_norms[index]
            best = (best[:, None] / step[row]).round_() * step[row]
            found.append(self._as_scores(best, q).squeeze(1))
        return torch.cat(found)

    def _as_scores(self, best: Tensor, queries: Tensor) -> Tensor:
        """Return dot products as they are, and q.x - |x|^2 / 2 (Q, k) as -|q - x|^2."""
        return best if self.metric == "ip" else 2 * best - queries.square().sum(1, keepdim=True)

    def _with_torch(self, queries: Tensor, k: int) -> Neighbours:
        blocks = (self.query_block, self.key_block)
        if self._half_norms is None:
            return Neighbours(*blockwise_topk(self.keys, queries, k, None, *blocks))
        # |q - x|^2 = |q|^2 - 2 (q.x - |x|^2 / 2): the nearest key has the greatest bracket
        best, indices = blockwise_topk(self.keys, queries, k, -self._half_norms.to(queries.dtype), *blocks)
        return Neighbours(self._as_scores(best, queries), indices)

    def _with_faiss(self, queries: Tensor, k: int) -> Neighbours:
        scores, indices = faiss_calls.knn(self.keys, queries.float().contiguous(), k, self.metric)
        return Neighbours(scores if self.metric == "ip" else -scores, indices)


class ScannIndex:
    """Approximate dot-product search with the settings of open-hummingbird-eval ``nn/search_scann.py``.

    A tree of 512 leaves of which 32 are searched, trained on all keys; asymmetric hashing in blocks of 2 dimensions
    with anisotropic threshold 0.2; the best 120 re-scored exactly. ``dimensions_per_block`` is 2: the reference
    passes 2 by position and 4 by keyword in one call, and the built index has 2. Below 16,384 keys the
    tree gets fewer leaves, see :func:`shrink_tree` (our choice; no published memory is that small).

    Args:
        keys: (N, D) on any device; ScaNN keeps its own copy.
        n_neighbours: neighbours per query, fixed when the index is built.
        leaves: of the tree; 512 published.
        leaves_to_search: 32 published.
        reorder: candidates re-scored exactly; 120 published.

    Raises:
        ImportError: ScaNN is not installed.
    """

    backend = "scann"

    def __init__(
        self,
        keys: Tensor,
        n_neighbours: int = 30,
        leaves: int = 512,
        leaves_to_search: int = 32,
        reorder: int = 120,
    ) -> None:
        try:
            import scann
        except ImportError as error:
            raise ImportError(
                "search='scann' needs ScaNN (Linux): pip install 'densebench[scann]', or use search='exact'"
            ) from error
        _require_finite(keys, "keys")
        self.n_keys, self.n_neighbours = len(keys), min(n_neighbours, len(keys))
        self.leaves, self.leaves_to_search = shrink_tree(len(keys), leaves, leaves_to_search)
        builder: Any = scann.scann_ops_pybind.builder(
            keys.detach().float().cpu().numpy(), self.n_neighbours, "dot_product"
        )
        self._searcher = (
            builder.tree(
                num_leaves=self.leaves,
                num_leaves_to_search=self.leaves_to_search,
                training_sample_size=self.n_keys,
            )
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(min(reorder, self.n_keys))
            .build()
        )

    def search(self, queries: Tensor, k: int) -> Neighbours:
        """Return the min(k, N) approximate neighbours of queries (Q, D), on the queries' device.

        Where the searched leaves hold fewer than k keys, the rest scores -inf (ScaNN says NaN), which is no weight
        in :func:`densebench.ops.retrieval.attend`.
        """
        _require_finite(queries, "queries")
        k = min(k, self.n_keys)
        indices, scores = self._searcher.search_batched(queries.detach().float().cpu().numpy(), k)
        found = torch.from_numpy(scores).nan_to_num(-torch.inf), torch.from_numpy(indices.astype("int64"))
        if k and bool((found[0][:, 0] == -torch.inf).any()):
            raise ValueError("ScaNN found no neighbour at all for a query: search more leaves")
        return Neighbours(*(table.to(queries.device) for table in found))


def make_index(
    keys: Tensor,
    search: Literal["exact", "scann"] = "exact",
    backend: Backend = "auto",
    metric: Metric = "ip",
    n_neighbours: int = 30,
) -> Index:
    """Return the index that a configuration names; ``n_neighbours`` matters to ScaNN only."""
    if search == "exact":
        return ExactIndex(keys, backend, metric)
    if search != "scann":
        raise ValueError(f"search is 'exact' or 'scann', got {search!r}")
    if metric != "ip":
        raise ValueError("the published ScaNN settings search by dot product: metric must be 'ip'")
    return ScannIndex(keys, n_neighbours)


def search(keys: Tensor, queries: Tensor, k: int, backend: Backend = "auto", metric: Metric = "ip") -> Neighbours:
    """Return the min(k, N) exact nearest keys of each query, see :class:`ExactIndex`."""
    return ExactIndex(keys, backend, metric).search(queries, k)


def recall_at_k(found: Tensor, exact: Tensor) -> float:
    """Return the share of the exact neighbours (Q, k) that were found (Q, k'), in [0, 1]; order is ignored."""
    if len(found) != len(exact):
        raise ValueError(f"{len(found)} and {len(exact)} queries do not match")
    hits = sum(int(torch.isin(e, f).sum()) for f, e in zip(found, exact, strict=True))
    return hits / max(1, exact.numel())


def choose_backend(backend: Backend, device: torch.device) -> str:
    """Return ``torch`` or ``faiss`` for keys on ``device``.

    Raises:
        ValueError: the name is unknown.
        ImportError: faiss was asked for and cannot search there.
    """
    if backend == "auto":
        return "faiss" if device.type == "cpu" and faiss_calls.faiss_installed() else "torch"
    if backend not in ("torch", "faiss"):
        raise ValueError(f"backend is 'auto', 'torch' or 'faiss', got {backend!r}")
    if backend == "faiss" and (reason := faiss_calls.why_not(device)):
        raise ImportError(f"backend='faiss': {reason}, or use backend='torch'")
    return backend


def shrink_tree(n_keys: int, leaves: int, leaves_to_search: int) -> tuple[int, int]:
    """Return the leaves and searched leaves of a tree over ``n_keys`` keys: at least 32 keys per leaf."""
    leaves = max(1, min(leaves, n_keys // 32))
    return leaves, min(leaves, leaves_to_search)


def _half_norms(keys: Tensor, block: int = 65536) -> Tensor:
    return torch.cat([part.double().square().sum(1) / 2 for part in keys.split(block)])


def _require_finite(table: Tensor, name: str, block: int = 65536) -> None:
    for start in range(0, len(table), block):
        good = table[start : start + block].isfinite().all(1)
        if not bool(good.all()):
            raise ValueError(f"{name}: row {start + int((~good).nonzero()[0])} is not finite")
