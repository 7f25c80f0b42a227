"""Where densebench keeps things on this machine, and how it writes them: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from densebench.errors import StorageError, UsageError
from densebench.regular import size_of


def cache_dir() -> Path:
    """Return the folder of things that can be made again (features, digests): DENSEBENCH_CACHE or the user's."""
    return Path(os.environ.get("DENSEBENCH_CACHE") or platformdirs.user_cache_dir("densebench"))


def zoo_dir() -> Path:
    """Return the folder of checkpoints trained or fetched here: DENSEBENCH_ZOO or the user's data folder."""
    return Path(os.environ.get("DENSEBENCH_ZOO") or Path(platformdirs.user_data_dir("densebench")) / "zoo")


def config_file() -> Path:
    """Return the user's settings file: DENSEBENCH_CONFIG or config.toml in the user's config folder."""
    found = os.environ.get("DENSEBENCH_CONFIG")
    return Path(found) if found else Path(platformdirs.user_config_dir("densebench")) / "config.toml"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file, never half of one.

    Raises StorageError when the folder cannot be written or the disk is full; no partial file stays behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path} ({error.strerror or error}). Free space or choose another folder, then run again: "
            "finished results are kept."
        ) from error


@contextmanager
def claim(folder: Path, doing: str) -> Iterator[Path]:
    """Yield a folder, made if need be, while no other process claims it; one that is left empty is removed.

    Raises UsageError, with what the other process is `doing`, where one does; StorageError where it cannot be made.
    """
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError(f"another process is {doing} in {folder}.") from None
    except OSError as error:
        raise StorageError(f"cannot write {folder} ({error.strerror or error}); choose another --out.") from error
    try:
        yield folder
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        if not any(folder.iterdir()):
            folder.rmdir()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a regular file; raises OSError for a pipe or a device, which would have no end."""
    size_of(path, most=sys.maxsize)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
