"""What records keep of their images, read from the file beside each: one metric of one model, over its seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from densebench.core.errors import StorageError, UsageError
from densebench.core.npz import MOST_FILE
from densebench.core.regular import read
from densebench.results.counts import ImageStatistics, StatisticsFile, read_npz
from densebench.results.schema import Key, Record
from densebench.results.store import beside
from densebench.results.sums import Side

NONE_KEPT = "no per-image statistics: run again with this version"
NOT_OF_THIS = "nothing is kept of single images for this metric"


def read_statistics(path: Path, record: Record) -> StatisticsFile:
    """Return what lies beside the record at `path`.

    Raises UsageError for a record that keeps nothing, StorageError for a file that is gone, torn or another's.
    """
    if record.statistics is None:
        raise UsageError(NONE_KEPT)
    return _read(beside(path, record.statistics.file), record.statistics.sha256)


@lru_cache(maxsize=64)
def _read(file: Path, sha256: str) -> StatisticsFile:
    try:
        content = read(file, MOST_FILE)
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error.strerror or error})") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise StorageError(f"{file} is damaged, or of another run: it is not what its record was written with")
    try:
        return read_npz(content)
    except StorageError as error:
        raise StorageError(f"{file}: {error}") from None


def side_of(records: Sequence[tuple[Path, Record]], key: Key) -> Side:
    """Return one metric of a model: of its one record, or of several that differ in the seed alone.

    Raises UsageError where nothing is kept of it, and StorageError where that cannot be read.
    """
    ids: set[tuple[str, ...]] = set()
    entries: list[ImageStatistics] = []
    for path, record in sorted(records, key=lambda found: found[1].seed):
        kept = read_statistics(path, record)
        own = kept.of(key[0], dict(key[1]))
        if not own:
            raise UsageError(NOT_OF_THIS)
        ids.add(kept.ids)
        entries += own if len(records) == 1 else [replace(one, seed=f"{record.seed}/{one.seed}") for one in own]
    if len(ids) > 1:
        raise UsageError("its runs are of other images")
    return Side(ids.pop(), tuple(entries))
