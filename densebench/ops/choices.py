"""Choices between numerics, by name; without torch, so that settings can be checked before it is imported."""

from __future__ import annotations

from typing import Literal, TypeAlias

AbsentRule: TypeAlias = Literal["zero", "skip"]
"""What a class without a single pixel in ground truth and prediction scores: 0, or nothing at all (NaN)."""

BinNorm: TypeAlias = Literal["linear", "softmax", "sigmoid"]
"""How logits become weights of bins that sum to 1: relu + 0.1, exp, or the logistic function, over their sum."""

Schedule: TypeAlias = Literal["cosine", "one_cycle"]
"""Of learning rate and first beta, see `densebench.ops.depth.rate_and_beta`."""
