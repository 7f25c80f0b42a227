"""Several processes under `torchrun`: each computes its share of every batch, and gradients are averaged.

W processes give the numbers of one process with `accumulate` W times as large: parts of a batch, and the seeds of
everything random in them, are the same.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from densebench.core.errors import UsageError

MEETING = 300.0
"""Seconds that processes wait for each other at the start."""


@dataclass(frozen=True)
class ProcessGroup:
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


def _launched() -> int:
    """Return how many processes a launcher started: 1 where WORLD_SIZE is all there is, as clusters set it for jobs."""
    needed = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
    given = {name: os.environ[name] for name in needed if os.environ.get(name)}
    if "WORLD_SIZE" not in given:
        return 1
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        value = os.environ.get(name) or "0"
        if not (value.isascii() and value.isdecimal()) or (name == "WORLD_SIZE" and not int(value)):
            raise UsageError(f"{name}={value!r}: expected a number, as torchrun sets it. Unset it to train alone.")
    size = int(given["WORLD_SIZE"])
    missing = [name for name in needed if name not in given]
    if size > 1 and missing:
        print(
            f"WORLD_SIZE={size} is left alone, since {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
            "set: this process trains alone. For several, start with torchrun.",
            file=sys.stderr,
        )
        return 1
    if size > 1 and int(given["RANK"]) >= size:
        raise UsageError(f"RANK={given['RANK']} and WORLD_SIZE={size}: expected a rank below it.")
    return size


@contextmanager
def process_group(device: str) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """Join the processes that `torchrun` started, if any; yield the group and this process's device.

    Raises UsageError for variables of a launcher that are not numbers, and where the other processes do not come.
    """
    size = _launched()
    if size == 1:
        yield ProcessGroup(), torch.device(device)
        return
    where = torch.device(device)
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    try:
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=datetime.timedelta(seconds=MEETING))))
    except (dist.DistError, ValueError, OSError) as error:
        raise UsageError(
            f"WORLD_SIZE={size}, but the processes did not meet within {MEETING:.0f} s "
            f"({(str(error).splitlines() or [''])[0][:200]}). Start all of them, as torchrun does, or unset WORLD_SIZE."
        ) from None
    store.set_timeout(datetime.timedelta(minutes=30))  # ranks may be at work for long before they meet again
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield ProcessGroup(dist.get_rank(), size), where
    finally:
        dist.destroy_process_group()
