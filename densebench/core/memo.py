"""What takes long to find out and is kept in the cache folder: believed only where it is what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from densebench.core.errors import StorageError
from densebench.core.paths import cache_dir, write_atomically
from densebench.core.progress import Progress

_unwritten: dict[Path, str] = {}
"""What could not be written, for the rest of the process."""
_told: set[Path] = set()
"""Cache folders of which that was said."""


def remembered(name: str, find: Callable[[], str]) -> str:
    """Return what `find` returns, or what it returned the last time: the cache keeps it in a file of this name.

    The first line of the file is a digest of its name and of the rest: a damaged one is found out anew. Where the
    cache folder cannot be written, that is said once, and the answer is kept as long as the process lives.
    """
    memo = cache_dir() / name
    kept = _unwritten.get(memo) or _read(memo, name)
    if kept is not None:
        return kept
    answer = find()
    try:
        write_atomically(memo, f"{_digest(name, answer)}\n{answer}")
    except StorageError as error:
        _unwritten[memo] = answer
        if cache_dir() not in _told:
            _told.add(cache_dir())
            why = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
            Progress().say(
                f"the cache folder {cache_dir()} cannot be written ({why}): digests of files are found out anew in "
                "every run. DENSEBENCH_CACHE names another folder."
            )
    return answer


def _read(memo: Path, name: str) -> str | None:
    """Return the answer in a file; None where there is none, or another than was written."""
    try:
        digest, _, answer = memo.read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return answer if digest == _digest(name, answer) else None


def _digest(name: str, answer: str) -> str:
    return hashlib.sha256(f"{name}\n{answer}".encode()).hexdigest()
