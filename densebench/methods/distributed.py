"""Several processes under `torchrun`: each computes its share of every batch, and gradients are averaged.

W processes give the numbers of one process with `accumulate` W times as large: parts of a batch, and the seeds of
everything random in them, are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Group:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Is it this process that writes files and shows progress?"""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def average(self, scalars: dict[str, float], device: torch.device) -> dict[str, float]:
        """Return the mean of each scalar over the processes."""
        if self.size == 1:
            return scalars
        values = torch.tensor(list(scalars.values()), dtype=torch.float64, device=device)
        dist.all_reduce(values)
        return dict(zip(scalars, (values / self.size).tolist(), strict=True))

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def process_group(device: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that `torchrun` started, if any; yield the group and this process's device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(), torch.device(device)
        return
    where = torch.device(device)
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size), where
    finally:
        dist.destroy_process_group()
