"""The feature cache: shards of feature maps on disk, bounded, safe under two processes, nothing lost on a kill.

An entry is a folder named by the digest of everything that determines its features. Its shards are safetensors files
{"index": (n,), "maps": (n, h, w, D)}, written under a temporary name and renamed; a torn one is removed and its images
are extracted again. When the limit is reached, the entries that were not used for longest go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from densebench.errors import StorageError
from densebench.paths import write_atomically
from densebench.progress import Progress

SHARD_IMAGES = 64
SHARD_BYTES = 64 << 20
OPEN_SHARDS = 2


class FeatureCache:
    """Entries below one folder, together no larger than `limit` bytes."""

    def __init__(self, root: Path, limit: int, progress: Progress | None = None) -> None:
        self.root = root
        self.limit = limit
        self.progress = progress or Progress(quiet=True)
        self._is_full = False

    def open(self, key: str, wanted: Sequence[int], nbytes: int) -> Entry | None:
        """Return the entry of `key` with room for `nbytes` more; None where they do not fit below the limit."""
        if nbytes > self.limit:
            self.progress.say(
                f"features of {nbytes / 1e9:.1f} GB exceed the cache of {self.limit / 1e9:.1f} GB and are extracted "
                "anew for every pass; a larger --cache-size avoids that."
            )
            return None
        folder = self.root / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.root / ".lock"):
                os.utime(folder)
                entry = Entry(folder, self.progress, self._say_full)
                missing = len(set(wanted) - entry.indices) / max(len(wanted), 1)
                self._make_room(int(nbytes * missing), keep=folder)
        except OSError as error:
            self.progress.say(f"feature cache {self.root} cannot be used ({error.strerror}); going on without it.")
            return None
        return entry

    def _say_full(self, error: StorageError) -> None:
        """Say once that nothing can be written, however many passes there are."""
        if not self._is_full:
            self.progress.say(f"the feature cache is full or gone ({error}); going on without it.")
        self._is_full = True

    def _make_room(self, nbytes: int, keep: Path) -> None:
        entries = [(f.stat().st_mtime, f, _size(f)) for f in self.root.iterdir() if f.is_dir()]
        used = sum(size for _, _, size in entries)
        for _, folder, size in sorted(entries):
            if used + nbytes <= self.limit:
                break
            if folder != keep:
                shutil.rmtree(folder, ignore_errors=True)
                used -= size


class Entry:
    """The shards of one feature request; open for reading and appending."""

    def __init__(self, folder: Path, progress: Progress, say_full: Callable[[StorageError], None]) -> None:
        self.folder = folder
        self.progress = progress
        self._say_full = say_full
        self._where: dict[int, tuple[Path, int]] = {}
        self._pending: list[tuple[list[int], NDArray[Any]]] = []
        self._writable = True
        # mapped pages count as memory of this process: only so many shards stay open, however many there are
        self._maps = lru_cache(maxsize=OPEN_SHARDS)(_open_maps)
        for path in sorted(folder.glob("*.safetensors")):
            try:
                shard = safe_open(path, framework="numpy")
                index = shard.get_tensor("index")
                if len(index) != shard.get_slice("maps").get_shape()[0]:
                    raise ValueError("index and maps differ in length")
            except (SafetensorError, ValueError, OSError):
                progress.say(f"cache shard {path.name} is torn; its images are extracted again.")
                path.unlink(missing_ok=True)
                continue
            self._where.update({int(image): (path, row) for row, image in enumerate(index)})
        self.indices = frozenset(self._where)

    def read(self, indices: Sequence[int]) -> NDArray[Any]:
        """Return the maps (B, h, w, D) of images that are in the entry."""
        parts: list[NDArray[Any]] = []
        at = 0
        while at < len(indices):  # neighbours in a shard are read as one slice
            path, row = self._where[indices[at]]
            stop = at + 1
            while stop < len(indices) and self._where[indices[stop]] == (path, row + stop - at):
                stop += 1
            try:
                parts.append(self._maps(path)[row : row + stop - at])
            except (SafetensorError, OSError) as error:
                raise StorageError(
                    f"cached features vanished ({error}): another process needed the room. Run again, with a larger "
                    "--cache-size if this goes on."
                ) from error
            at = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def append(self, indices: list[int], maps: NDArray[Any]) -> None:
        """Add maps (B, h, w, D); they are on disk after the next full shard or `close`."""
        if not self._writable:
            return
        self._pending.append((indices, maps))
        images = sum(len(i) for i, _ in self._pending)
        if images >= SHARD_IMAGES or sum(m.nbytes for _, m in self._pending) >= SHARD_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is pending."""
        if self._pending:
            self._flush()

    def _flush(self) -> None:
        index = np.concatenate([np.asarray(i, dtype=np.int64) for i, _ in self._pending])
        maps = np.concatenate([m for _, m in self._pending])
        self._pending = []
        # the same images make the same name, so that two processes write one file, not two
        name = f"{index[0]:08d}-{hashlib.sha256(index.tobytes()).hexdigest()[:8]}.safetensors"
        try:
            write_atomically(self.folder / name, save({"index": index, "maps": np.ascontiguousarray(maps)}))
        except StorageError as error:
            self._writable = False
            self._say_full(error)


def _open_maps(path: Path) -> Any:
    return safe_open(path, framework="numpy").get_slice("maps")


def _size(folder: Path) -> int:
    total = 0
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total
