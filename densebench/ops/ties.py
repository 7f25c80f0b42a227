"""Which of nearly equal scores comes first: by rule, not by how the processor at hand rounds.

A matrix product in float32 adds its terms in an order that depends on the processor, the threads and the shape of the
product. Scores that are equal on paper, of duplicated patches or of constant and symmetric maps, then differ in their
last digits, and the first place among them would be a matter of the machine. The rule instead: scores are taken in
float64 and rounded to a multiple of ``GRID`` of their scale; the greatest wins, among equals the lowest index.

Scale is the most that a score can be by Cauchy-Schwarz: |q| |x| for a dot product. float64 is off by D 2^-53 of it,
which for a thousand dimensions is 2^-43 and takes one tie in ten thousand to another step at worst; typical sums are
off by 2^-50 and equal rows by nothing at all. A step is a sixty-fourth of what float32 tells apart.

Nearly all scores need no float64. One of D terms is off in float32 by no more than e = (D + 4) 2^-24 of the scale,
whatever the order of the sum (Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1; four roundings more for
norms and a square), so that two which are more than ``margin`` = 2 e and a step apart are in order already. Only closer
ones are computed again. What follows from it is a function of the inputs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 2.0**-30
"""Scores whose float64 values round to the same multiple of this share of their scale are tied."""


def step_of(scale: Tensor) -> Tensor:
    """Return the float64 width of a step for scores of at most ``scale``, above 0 for a scale of 0 too."""
    return (scale.double() * GRID).clamp(min=torch.finfo(torch.float64).tiny)


def margin(scale: Tensor, n_terms: int, dtype: torch.dtype) -> Tensor:
    """Return how far apart scores of ``n_terms`` terms, computed in ``dtype``, must be for their order to be sure."""
    return scale.double() * ((n_terms + 4) * torch.finfo(dtype).eps + GRID)


def first_greatest(scores: Tensor, scale: Tensor) -> Tensor:
    """Return the (N,) index of each row's greatest score by the rule, of float64 scores (N, K) and scales (N, 1)."""
    return (scores / step_of(scale)).round_().argmax(1)  # of equals torch returns the first


def leader(scores: Tensor, best: Tensor, lead: Tensor) -> None:
    """Write the index of each row's greatest score to ``best`` (N,) and how far it leads to ``lead`` (N,).

    Overwrites the greatest of scores (N, K).
    """
    torch.max(scores, 1, out=(lead, best))
    lead -= scores.scatter_(1, best[:, None], -torch.inf).amax(1)
