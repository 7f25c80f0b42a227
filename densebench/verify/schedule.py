"""Group j: the cosine schedule of weight decay and momentum. Source of the vectors: Leopart ``cosine_scheduler``."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from densebench.methods.trainer import cosine, warm_cosine
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind


def schedule(v: Golden) -> Iterator[GoldenCheck]:
    """Both of the trainer's schedules; the final value would be reached one step after the last."""
    steps = v.integer("epochs") * v.integer("niter_per_ep")
    ends = list(zip(v["base"].tolist(), v["final"].tolist(), strict=True))
    plain = [[cosine(base, final, step, steps) for step in range(steps)] for base, final in ends]
    warm = [[warm_cosine(base, final, step, steps, 0) for step in range(steps)] for base, final in ends]
    for curves, label in ((plain, ""), (warm, "without warm-up")):
        yield v.close("values", torch.tensor(curves, dtype=torch.float64), 1e-12, label)


KINDS = (GoldenKind("j_cosine", "cosine schedule", schedule, "base final epochs niter_per_ep values"),)
