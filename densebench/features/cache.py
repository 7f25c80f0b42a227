"""The feature cache: shards of feature maps on disk, bounded, safe under two processes, nothing lost on a kill.

An entry is a folder named by the digest of everything that determines its features. Its shards are safetensors files
{"index": (n,), "maps": (n, h, w, D), "sums": (n,)}, written under a temporary name and renamed. Nothing is believed:
a sum per image, over the request, the image's number and the bytes of its map, is checked at every read, at 3 GB/s on
one core (0.1 ms for 28 x 28 patches of width 192). A shard that is torn, damaged or gone, be it that another process
needed the room, costs the time to extract its images again and never a cell. When the limit is reached, the entries
that were not used for longest go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import zlib
from collections.abc import Callable, Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from densebench.core.errors import StorageError
from densebench.core.locks import lock
from densebench.core.paths import write_atomically
from densebench.core.progress import Progress

SHARD_IMAGES = 64
SHARD_BYTES = 64 << 20
OPEN_SHARDS = 2
DTYPES = {"float16": "F16", "float32": "F32"}
"""As safetensors names them."""
FORMAT = 2
"""Raised with the layout of shards: entries of another format are never opened, and go when their room is needed."""


class FeatureCache:
    """Entries below one folder, together no larger than `limit` bytes."""

    def __init__(self, root: Path, limit: int, progress: Progress | None = None) -> None:
        self.root = root
        self.limit = limit
        self.progress = progress or Progress(quiet=True)
        self._is_said = False

    def open(
        self, key: str, wanted: Sequence[int], shape: tuple[int, int, int], dtype: str = "float16"
    ) -> CachedFeatures | None:
        """Return the entry of `key`, maps of `shape` (h, w, D), with room for those `wanted` that it lacks.

        None where all that are wanted do not fit below the limit, and where the folder cannot be used.
        """
        map_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        nbytes = len(set(wanted)) * map_bytes
        if nbytes > self.limit:
            self.progress.say(
                f"features of {nbytes / 1e9:.1f} GB exceed the cache of {self.limit / 1e9:.1f} GB and are extracted "
                "anew for every pass; a larger --cache-size avoids that."
            )
            return None
        folder = self.root / f"{key}-{FORMAT}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with lock(self.root / ".lock"):
                os.utime(folder)
                entry = CachedFeatures(folder, shape, dtype, self.progress, self._say_unusable)
                self._make_room(len(set(wanted) - entry.indices) * map_bytes, keep=folder)
        except OSError as error:
            self._say_unusable(f"{self.root}: {error.strerror or error}")
            return None
        return entry

    def _say_unusable(self, why: str) -> None:
        """Say once that nothing can be kept, however many passes there are."""
        if not self._is_said:
            self.progress.say(f"the feature cache is full or cannot be used ({why}); going on without it.")
        self._is_said = True

    def _make_room(self, nbytes: int, keep: Path) -> None:
        entries = [(f.stat().st_mtime, f, _size(f)) for f in self.root.iterdir() if f.is_dir()]
        used = sum(size for _, _, size in entries)
        for _, folder, size in sorted(entries):
            if used + nbytes <= self.limit:
                break
            if folder != keep:
                shutil.rmtree(folder, ignore_errors=True)
                used -= size


class CachedFeatures:
    """The shards of one feature request; open for reading and appending."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int],
        dtype: str,
        progress: Progress,
        say_unusable: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.progress = progress
        self._say_unusable = say_unusable
        self._where: dict[int, tuple[Path, int]] = {}
        self._sums: dict[int, int] = {}
        self._pending: list[tuple[list[int], NDArray[Any]]] = []
        self._writable = True
        # mapped pages count as memory of this process: only so many shards stay open, however many there are
        self._maps = lru_cache(maxsize=OPEN_SHARDS)(_open_maps)
        for path in sorted(folder.glob("*.safetensors")):
            try:
                if not path.is_file():
                    raise ValueError("no regular file")
                shard = safe_open(path, framework="numpy")
                index, sums = shard.get_tensor("index"), shard.get_tensor("sums")
                found = shard.get_slice("maps")
                if found.get_shape() != [*index.shape, *shape] or found.get_dtype() != DTYPES[self.dtype.name]:
                    raise ValueError(f"{found.get_dtype()} {found.get_shape()}, expected {dtype} {shape}")
                rows = list(zip(index.tolist(), sums.tolist(), strict=True))
            except (SafetensorError, ValueError, OSError) as error:
                self._drop(path, f"is damaged ({error})")
                continue
            self._where.update({image: (path, row) for row, (image, _) in enumerate(rows)})
            self._sums.update(rows)

    @property
    def indices(self) -> Set[int]:
        """The images that are here."""
        return self._where.keys()

    def read(self, indices: Sequence[int]) -> NDArray[Any] | None:
        """Return the maps (B, h, w, D) of images that are here; None where one of them turns out not to be.

        What cannot be read, or is not what was written, is in `indices` no more.
        """
        parts: list[NDArray[Any]] = []
        at = 0
        while at < len(indices):  # neighbours in a shard are read as one slice
            path, row = self._where[indices[at]]
            stop = at + 1
            while stop < len(indices) and self._where[indices[stop]] == (path, row + stop - at):
                stop += 1
            try:
                maps = self._maps(path)[row : row + stop - at]
            except (SafetensorError, OSError):
                self._forget_gone(path)
                return None
            for image, one in zip(indices[at:stop], maps, strict=True):
                if self._sum(image, one) != self._sums[image] or not _is_finite(one):
                    self._drop(path, f"holds another map of image {image} than was written")
                    return None
            parts.append(maps)
            at = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def append(self, indices: list[int], maps: NDArray[Any]) -> None:
        """Add maps (B, h, w, D); they are on disk after the next full shard or `close`."""
        if not self._writable:
            return
        self._pending.append((indices, maps.copy()))  # what is done to the array afterwards is not cached
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
        sums = np.array([self._sum(i, one) for i, one in zip(index.tolist(), maps, strict=True)], dtype=np.uint32)
        # the same images make the same name, so that two processes write one file, not two
        name = f"{index[0]:08d}-{hashlib.sha256(index.tobytes()).hexdigest()[:8]}.safetensors"
        try:
            write_atomically(self.folder / name, save({"index": index, "maps": maps, "sums": sums}))
        except StorageError as error:
            self._writable = False
            self._say_unusable(str(error))

    def _sum(self, image: int, one: NDArray[Any]) -> int:
        """Return the CRC-32 of a map (h, w, D), whose it is, and what was asked for."""
        return zlib.crc32(np.ascontiguousarray(one).data, zlib.crc32(f"{self.folder.name}:{image}".encode()))

    def _drop(self, path: Path, why: str) -> None:
        """Remove a shard: its images are extracted again."""
        self.progress.say(f"cache shard {path.name} {why}; its images are extracted again.")
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        self._where = {image: place for image, place in self._where.items() if place[0] != path}

    def _forget_gone(self, first: Path) -> None:
        """Forget the images of `first` and of whatever else is gone, as another process needed the room."""
        gone = {path for path in {path for path, _ in self._where.values()} if not path.exists()} | {first}
        self._where = {image: place for image, place in self._where.items() if place[0] not in gone}
        self.progress.say(f"{len(gone)} cache shards are gone; their images are extracted again.")


def _open_maps(path: Path) -> Any:
    return safe_open(path, framework="numpy").get_slice("maps")


def _is_finite(maps: NDArray[Any]) -> bool:
    """Tell whether all values are finite; by their bits, ten times as fast as numpy for float16."""
    bits: NDArray[Any] = maps.view(np.uint16 if maps.dtype == np.float16 else np.uint32)
    exponent = bits.dtype.type(0x7C00 if maps.dtype == np.float16 else 0x7F800000)
    return not (bits & exponent == exponent).any()


def _size(folder: Path) -> int:
    total = 0
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total
