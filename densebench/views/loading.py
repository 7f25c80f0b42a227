"""Reading in worker processes: one loader for all that never waits for ever and says what became of a worker.

Workers end with the process that started them. How batches come from them: `sending.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from densebench.core.errors import LoaderError, UsageError
from densebench.views import sending

LIMIT = 600.0
"""Seconds that a batch may take before its workers count as hanging; DENSEBENCH_LOADER_TIMEOUT is another limit."""
POLL = 5.0
"""Seconds after which workers are looked at while a batch is waited for."""
PARENT_DEATH = 1  # PR_SET_PDEATHSIG


class Items(Protocol):
    """Anything that can be indexed by a key, in another process too."""

    def __getitem__(self, key: Any, /) -> Any:
        """Return an item; what it raises ends the loading, so errors of a user's travel as values."""
        ...


def load(
    items: Items,
    keys: Iterable[Sequence[Any]],
    workers: int,
    collate: Callable[[list[Any]], Any],
    *,
    ids: Sequence[str] = (),
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Yield `collate` of the items of each batch of keys, in order, read by `workers` processes (0: by this one).

    Args:
        items: what to read.
        keys: of each batch: indices, or tuples that end in one.
        workers: they change no value.
        collate: runs in the worker.
        ids: the name of each index, for messages.
        pin_memory: copy tensors into memory that a GPU reads faster.

    Raises LoaderError for a worker that was killed, crashed, ended by itself or hangs.
    """
    limit = _limit()
    watched = _Watched(items, workers)
    loader = DataLoader(
        watched,
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=sending.Sent(collate, workers) if workers else collate,
        pin_memory=pin_memory,
        timeout=POLL if workers else 0,
        worker_init_fn=_start_worker if workers else None,
    )
    batches = iter(loader)
    watch = _Watch(batches, watched, ids)
    exhausted = False
    try:
        since = time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                exhausted = True
                return
            except (RuntimeError, OSError, EOFError) as error:
                timed_out = "DataLoader timed out" in str(error)
                # what a worker had sent may be lost with it, which is an error of many kinds
                if watch.lost(0.0 if timed_out else 1.0):
                    raise LoaderError(watch.died()) from error
                if not timed_out:
                    raise
                if time.monotonic() - since >= limit:
                    raise LoaderError(watch.hangs(limit)) from error
                continue
            yield sending.unpacked(batch)
            since = time.monotonic()
    finally:
        watch.close(now=not exhausted and not pin_memory)


def explain(error: BaseException) -> LoaderError | None:
    """Return in words what became of a worker; None for an error that does not tell of one.

    torch raises it wherever the main process happens to be when a worker dies.
    """
    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")):
        return None
    return LoaderError(_Watch.latest.died() if _Watch.latest else str(error))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise LoaderError for what torch raises in this block when a worker of a loader dies."""
    try:
        yield
    except RuntimeError as error:
        if (lost := explain(error)) is None:
            raise
        raise lost from error


class _Watched(Dataset[Any]):
    """Items, with a note of the one that each worker opened last."""

    def __init__(self, items: Items, workers: int) -> None:
        self.items = items
        self.opened: Tensor | None = None
        with contextlib.suppress(RuntimeError, OSError):  # no shared memory at all: then without names
            self.opened = torch.full((workers,), -1).share_memory_() if workers else None

    def __getitem__(self, key: Any) -> Any:
        worker = get_worker_info()
        if worker is not None and self.opened is not None:
            self.opened[worker.id] = key[-1] if isinstance(key, tuple) else key
        return self.items[key]


class _Watch:
    """The workers of one loader: what becomes of them, and their end."""

    latest: _Watch | None = None
    """The one begun last, for errors that are raised outside of `load`."""

    def __init__(self, batches: Any, watched: _Watched, ids: Sequence[str]) -> None:
        self.batches, self.watched, self.ids = batches, watched, ids
        _Watch.latest = self

    @property
    def workers(self) -> list[Any]:
        """The worker processes."""
        return list(getattr(self.batches, "_workers", ()))

    def lost(self, seconds: float) -> bool:
        """Return whether a worker is gone, or goes within so many seconds."""
        return bool(multiprocessing.connection.wait([worker.sentinel for worker in self.workers], seconds))

    def died(self) -> str:
        """Return what became of the first worker that is gone."""
        for number, worker in enumerate(self.workers):
            worker.join(0.2)
            code = worker.exitcode
            if code is None:
                continue
            at = self._at([number])
            if code == -signal.SIGKILL:
                return (
                    f"a process that reads images was killed (SIGKILL){at}. Most often memory ran out: run again with "
                    "fewer --workers (0 reads in the main process) or a smaller --batch-size."
                )
            if code < 0:
                return (
                    f"a process that reads images crashed ({signal.Signals(-code).name}){at}. Look at that file and at "
                    "the library that reads it; --workers 0 reads in the main process."
                )
            return (
                f"a process that reads images ended by itself (exit code {code}){at}. Code of the dataset, or what it "
                "imports, calls exit; --workers 0 reads in the main process."
            )
        return "a process that reads images ended without a word. Run again with --workers 0."

    def hangs(self, limit: float) -> str:
        """Return which items the workers hang at."""
        busy = [number for number, worker in enumerate(self.workers) if worker.is_alive()]
        return (
            f"no images came for {limit:g} s: the processes that read them hang{self._at(busy)}. Look at these files "
            "and at the disk they lie on; DENSEBENCH_LOADER_TIMEOUT=SECONDS is another limit."
        )

    def _at(self, workers: Iterable[int]) -> str:
        if self.watched.opened is None:
            return ""
        indices = [int(self.watched.opened[number]) for number in workers]
        names = [self.ids[i] if i < len(self.ids) else f"number {i}" for i in indices if i >= 0]
        return f" at image {', '.join(names)}" if names else ""

    def close(self, now: bool) -> None:
        """Let go of the workers; `now` ends those that are still at work."""
        if now:
            with _ends_expected():
                alive = [worker for worker in self.workers if worker.is_alive()]
                for worker in alive:
                    worker.terminate()
                for worker in alive:
                    worker.join(0.5)
                    if worker.is_alive():
                        worker.kill()
                        worker.join(1)
        if _Watch.latest is self:
            _Watch.latest = None


@contextlib.contextmanager
def _ends_expected() -> Iterator[None]:
    """Keep torch's handler from raising in the midst of it that children ended, which were told to."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _start_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, and end when that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # Linux alone; elsewhere torch looks every five seconds
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)


def _limit() -> float:
    text = os.environ.get("DENSEBENCH_LOADER_TIMEOUT", "")
    try:
        limit = float(text) if text else LIMIT
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise UsageError(f"DENSEBENCH_LOADER_TIMEOUT={text}: expected seconds above 0.")
    return limit
