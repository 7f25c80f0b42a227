"""Discrete results that rounding may decide: which neighbour comes first, which class wins a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from densebench.ops.resize import resize_maps
from densebench.ops.search import Metric
from densebench.verify.golden import Golden, GoldenCheck

MARGIN = 1e-5
"""Where the two greatest values of a pixel are farther apart than this, the argmax must match (golden vectors)."""
FLOAT32_UNIT = 2.0**-24


def neighbours(v: Golden, found: Tensor, queries: Tensor, keys: Tensor, metric: Metric, label: str) -> GoldenCheck:
    """Compare neighbours (Q, k) with ``nn_index``: exact, but for keys that float32 cannot tell apart.

    A float32 dot product of D terms is off by at most e = (D + 2) 2^-24 |q| |x| whatever the order of its sum, unit
    keys included; a squared distance by (D + 4) 2^-24 (|q| + |x|)^2. The j-th best of a list whose entries are each off
    by e is within 2 e of the true j-th best, hence those of two implementations within 4 e of one another. Scores are
    taken in float64 to see that.
    """
    stored = v["nn_index"]
    if found.shape != stored.shape:
        return v.exact("nn_index", found, label)
    differs = (found != stored).nonzero()
    rows = differs[:, 0]
    q, ours, theirs = (t.double() for t in (queries[rows], keys[found[found != stored]], keys[stored[found != stored]]))
    reach, size = torch.maximum(ours.norm(dim=1), theirs.norm(dim=1)), q.norm(dim=1)
    if metric == "ip":
        apart = ((q * ours).sum(1) - (q * theirs).sum(1)).abs()
        rounding = (keys.shape[1] + 2) * FLOAT32_UNIT * size * reach
    else:
        apart = ((q - ours).square().sum(1) - (q - theirs).square().sum(1)).abs()
        rounding = (keys.shape[1] + 4) * FLOAT32_UNIT * (size + reach).square()
    wrong = int((apart > 4 * rounding).sum()) + int((found.sort(1).values.diff(dim=1) == 0).sum())
    note = f"{wrong} of {stored.numel()} differ" if wrong else ""
    return GoldenCheck(f"nn_index ({label})" if label else "nn_index", float(wrong), 0.0, note)


def argmax(v: Golden, name: str, pred: Tensor, maps: Tensor) -> tuple[GoldenCheck, Tensor]:
    """Compare class maps (B, H, W), the argmax of upsampled ``maps`` (B, C, h, w), wherever the margin allows.

    Returns:
        The finding, whose deviation counts wrong pixels, and the map to go on with: ours, and theirs at near ties.
    """
    stored = v[name].long()
    if pred.shape != stored.shape:
        return v.exact(name, pred), pred
    clear = margins(maps, (stored.shape[1], stored.shape[2])) > MARGIN
    wrong = int(((pred != stored) & clear).sum())
    note = f"{wrong} of {stored.numel()} pixels differ" if wrong else ""
    return GoldenCheck(name, float(wrong), 0.0, note), torch.where(clear, pred, stored)


def margins(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the difference (B, H, W) of the two greatest of maps (B, C, h, w) once upsampled; infinite for one map."""
    if maps.shape[1] < 2:
        return maps.new_full((len(maps), *size), torch.inf)
    first, second = resize_maps(maps, size).topk(2, dim=1).values.unbind(1)
    return first - second
