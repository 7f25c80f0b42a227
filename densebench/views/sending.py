"""How batches come from worker processes: through shared memory where that has room, else as bytes through pipes.

A container's /dev/shm holds 64 MB by default, and a tensor that finds no room there leaves the loader waiting for ever.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SHARED = "/dev/shm"


class _Piped:
    """A batch as bytes, which go through a pipe."""

    def __init__(self, content: bytes) -> None:
        self.content = content


class Sent:
    """Collates in a worker; without room in shared memory for what all workers may have on the way, the batch is bytes.

    Every batch is measured: images of one dataset need not be of one size.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], workers: int) -> None:
        self.collate, self.workers = collate, workers

    def __call__(self, items: list[Any]) -> Any:
        """Return the batch of these items, or it as bytes."""
        batch = self.collate(items)
        # two batches per worker are fetched ahead, one is being written, and one read
        if free_shared_memory() > 4 * self.workers * shared_bytes(batch):
            return batch
        return _Piped(_as_bytes(batch))


class _Meter(pickle.Pickler):
    """Notes the storages of tensors, which is what goes through shared memory."""

    found: dict[int, int]

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        storage = value.untyped_storage()
        self.found[storage.data_ptr()] = storage.nbytes()
        return int, ()


def shared_bytes(batch: Any) -> int:
    """Return how many bytes of shared memory the tensors of a batch take on their way, wherever in it they are."""
    meter = _Meter(io.BytesIO(), protocol=pickle.HIGHEST_PROTOCOL)
    meter.found = {}
    meter.dump(batch)
    return sum(meter.found.values())


class _Pickler(pickle.Pickler):
    """Pickles tensors by their values, which torch would put into shared memory or a file."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def _as_bytes(batch: Any) -> bytes:
    out = io.BytesIO()
    _Pickler(out, protocol=pickle.HIGHEST_PROTOCOL).dump(batch)
    return out.getvalue()


@functools.cache
def _say_pipes() -> None:
    logging.getLogger(__name__).warning(
        f"{SHARED} has little room: images come through pipes, which takes more time. In docker: --shm-size=2g."
    )


def unpacked(batch: Any) -> Any:
    """Return a batch as `collate` made it, whichever way it came."""
    if not isinstance(batch, _Piped):
        return batch
    _say_pipes()
    return pickle.loads(batch.content)


def free_shared_memory() -> int:
    """Return the bytes that are free in shared memory, 0 where there is none."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
