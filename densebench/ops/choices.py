"""Choices between numerics, by name; without torch, so that settings can be checked before it is imported."""

from __future__ import annotations

from typing import Literal, TypeAlias

AbsentRule: TypeAlias = Literal["zero", "skip"]
"""What a class without a single pixel in ground truth and prediction scores: 0, or nothing at all (NaN)."""

BinNorm: TypeAlias = Literal["linear", "softmax", "sigmoid"]
"""How logits become weights of bins that sum to 1: relu + 0.1, exp, or the logistic function, over their sum."""

ClusterMatching: TypeAlias = Literal["by_count", "greedy_hungarian"]
"""How clusters become classes: one to one by Hungarian if they are as many, else each its best class by precision; or
always the latter, and then Hungarian on what was grouped."""

Schedule: TypeAlias = Literal["cosine", "one_cycle"]
"""Of learning rate and first beta, see `densebench.ops.depth.rate_and_beta`."""
