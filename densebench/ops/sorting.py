"""Differentiable sorting networks: soft sorted values, and the soft permutation that sorts.

A sorting network compares fixed pairs of wires, layer after layer. Here a comparison does not swap its two values
a and b but mixes them: the smaller place receives f a + (1 - f) b, the greater one (1 - f) a + f b, where f rises from
0 to 1 with b - a. The product of all mixings is a doubly stochastic matrix, a permutation in the limit of a steep f.

Source: Petersen et al., "Differentiable Sorting Networks for Scalable Sorting and Ranking Supervision", ICML 2021
(logistic, logistic with the activation replacement trick phi), and "Monotonic Differentiable Sorting Networks",
ICLR 2022 (Cauchy); numbers as in the package ``diffsort`` 0.2.0, also for lists whose length is no power of two.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from densebench.ops.ordering import Distribution, Network, check_sorting
from densebench.ops.precision import full_precision


class SoftSort(NamedTuple):
    """Lists in soft ascending order."""

    values: Tensor
    """(B, n); ``values[b, k]`` is the sum over i of ``x[b, i] * matrix[b, i, k]``."""
    matrix: Tensor
    """(B, n, n); ``matrix[b, i, k]`` is the share of item i in the k-th smallest. Rows and columns sum to 1."""


class Comparator(NamedTuple):
    """Compare wires ``first`` < ``second``; ``first`` receives the smaller value if ``ascending``, else the greater."""

    first: int
    second: int
    ascending: bool


@full_precision
def soft_sort(
    x: Tensor,
    network: Network = "bitonic",
    distribution: Distribution = "cauchy",
    steepness: float = 10.0,
    art_lambda: float = 0.25,
    block: int | None = 4096,
) -> SoftSort:
    """Return the soft sorted values and the soft permutation of lists x (B, n), in float32 at least.

    Each layer of the network costs one gather and one mixing for all pairs and lists, with n / 2 pairs at most.

    Args:
        x: (B, n) floating, n >= 1.
        network: ``"bitonic"`` with about log2(n)^2 / 2 layers, or ``"odd_even"`` with n layers.
        distribution: whose distribution function is f, see :func:`swap_share`.
        steepness: > 0, the inverse temperature; comparisons are soft where values differ by less than its inverse.
        art_lambda: in [0, 1), strength of the activation replacement trick; read by ``"logistic_phi"`` only.
        block: lists sorted at a time. The layers of a block are not kept for the backward pass but computed again,
            so that B lists need room for the result and one block of layers, instead of all layers of all lists.
            ``None`` keeps everything, which saves the second computation and is fit for small B.

    Raises:
        ValueError: x is no matrix with a column, or a setting is unknown or out of range.
    """
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"expected lists (B, n) with n >= 1, got {tuple(x.shape)}")
    check_sorting(network, distribution, steepness, art_lambda)
    layers, last = _plan(network, x.shape[1], x.device)

    def run(part: Tensor) -> tuple[Tensor, Tensor]:
        return _run(part, layers, last, distribution, steepness, art_lambda)

    if block is None or not (x.requires_grad and torch.is_grad_enabled()):
        parts = [run(x)] if block is None else [run(part) for part in x.split(block)]
    else:
        parts = [checkpoint(run, part, use_reentrant=False, preserve_rng_state=False) for part in x.split(block)]
    values, matrix = parts[0] if len(parts) == 1 else (torch.cat(same, 1) for same in zip(*parts, strict=True))
    return SoftSort(values.squeeze(-1).t(), matrix.permute(1, 2, 0))


def swap_share(difference: Tensor, distribution: Distribution, steepness: float, art_lambda: float) -> Tensor:
    """Return f(b - a) in [0, 1], the share of a in the softly smaller one of a and b; 1/2 where they are equal.

    With s the steepness and d = b - a: ``"cauchy"`` is 1/2 + atan(s d) / pi, ``"logistic"`` 1 / (1 + exp(-s d)), and
    ``"logistic_phi"`` the logistic of s d / |d|^lambda, which separates close values more clearly.
    """
    if distribution == "cauchy":
        return torch.atan(steepness * difference) / math.pi + 0.5
    scaled = steepness * difference
    if distribution == "logistic_phi":
        scaled = scaled / (difference.abs() + 1e-10) ** art_lambda  # the constant of diffsort
    return torch.sigmoid(scaled)


def comparators(network: Network, n: int) -> tuple[tuple[Comparator, ...], ...]:
    """Return the layers of a network for n wires; the comparators of a layer touch disjoint wires.

    A bitonic network exists for powers of two. For another n the first wires of the next greater network are left
    out, with every comparator that touches them.
    """
    if network == "odd_even":
        return tuple(tuple(Comparator(i, i + 1, True) for i in range(step % 2, n - 1, 2)) for step in range(n))
    doublings = (n - 1).bit_length()
    absent = 2**doublings - n
    return tuple(
        tuple(
            # runs of 2^(merge + 1) wires are sorted alternately up and down, so that the next merge finds them bitonic
            Comparator(i - absent, i - absent + gap, not (i >> (merge + 1)) & 1)
            for i in range(absent, 2**doublings - gap)
            if not i & gap
        )
        for merge in range(doublings)
        for gap in (2**step for step in range(merge, -1, -1))
    )


class _Swaps(NamedTuple):
    rows: Tensor  # (n,) where the layer before left the first wires of all pairs, the second wires, and the rest
    pairs: int


@lru_cache(maxsize=64)
def _plan(network: Network, n: int, device: torch.device) -> tuple[tuple[_Swaps, ...], Tensor]:
    """Return the layers and, at last, the row (n,) of each wire.

    A layer writes its smaller values, its greater values and the untouched rest one after the other. Wires are not
    moved back to their places: the next layer knows where to look, so nothing is ever scattered.
    """
    row_of = list(range(n))
    layers = []
    with torch.inference_mode(False):  # cached for all callers, of whom some need gradients
        for pairs in comparators(network, n):
            touched = {wire for pair in pairs for wire in pair[:2]}
            rest = [wire for wire in range(n) if wire not in touched]
            reads = [pair.first for pair in pairs] + [pair.second for pair in pairs] + rest
            layers.append(_Swaps(torch.tensor([row_of[wire] for wire in reads], device=device), len(pairs)))
            smaller = [pair.first if pair.ascending else pair.second for pair in pairs]
            greater = [pair.second if pair.ascending else pair.first for pair in pairs]
            for row, wire in enumerate(smaller + greater + rest):
                row_of[wire] = row
        return tuple(layers), torch.tensor(row_of, device=device)


def _run(
    x: Tensor,
    layers: tuple[_Swaps, ...],
    last: Tensor,
    distribution: Distribution,
    steepness: float,
    art_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Return values (n, B, 1) and matrix (n, B, n), wires first: then a gather copies long runs of memory."""
    n = x.shape[1]
    values = x.t().unsqueeze(-1)
    matrix = torch.eye(n, dtype=x.dtype, device=x.device).unsqueeze(1).expand(n, len(x), n)
    for rows, pairs in layers:
        first, second = values.index_select(0, rows[: 2 * pairs]).chunk(2)
        share = swap_share(second - first, distribution, steepness, art_lambda)  # (pairs, B, 1)
        values, matrix = _mix(values, rows, share), _mix(matrix, rows, share)
    return values.index_select(0, last), matrix.index_select(0, last)


def _mix(state: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    """Mix the paired rows of a state (n, B, m) by their share (pairs, B, 1).

    A convex combination as it stands: b + share * (a - b) would lose the entries that are tiny beside others, and the
    losses built on this take their logarithm.
    """
    pairs = len(share)
    a, b, rest = state.index_select(0, rows).split((pairs, pairs, len(rows) - 2 * pairs))
    other = 1 - share
    return torch.cat([torch.addcmul(share * a, other, b), torch.addcmul(other * a, share, b), rest])
