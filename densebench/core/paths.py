"""Where densebench keeps things on this machine, and how it writes them: whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from densebench.core.errors import StorageError, UsageError
from densebench.core.locks import Timeout, lock
from densebench.core.regular import size_of

TEMPORARY = re.compile(r"\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.part$")
LEFT_AFTER = 24 * 3600.0
"""Seconds without a write after which a temporary file is nobody's, whichever machine its process was on."""


def cache_dir() -> Path:
    """Return the folder of things that can be made again (features, digests): DENSEBENCH_CACHE or the user's."""
    return _given("DENSEBENCH_CACHE") or Path(platformdirs.user_cache_dir("densebench"))


def zoo_dir() -> Path:
    """Return the folder of checkpoints trained or fetched here: DENSEBENCH_ZOO or the user's data folder."""
    return _given("DENSEBENCH_ZOO") or Path(platformdirs.user_data_dir("densebench")) / "zoo"


def config_file() -> Path:
    """Return the user's settings file: DENSEBENCH_CONFIG or config.toml in the user's config folder."""
    return _given("DENSEBENCH_CONFIG") or Path(platformdirs.user_config_dir("densebench")) / "config.toml"


def _given(variable: str) -> Path | None:
    """Return the path in an environment variable, with a home folder (~) as a shell would have put it in."""
    found = os.environ.get(variable)
    return Path(os.path.expanduser(found)) if found else None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file, never half of one.

    Raises StorageError when the folder cannot be written or the disk is full; no partial file stays behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path} ({error.strerror or error}). Free space or choose another folder, then run again: "
            "finished results are kept."
        ) from error


def write_new(path: Path, content: str | bytes, overwrite: bool = False) -> None:
    """Write a file that the user named, as `write_atomically` does, where there is none or `overwrite` says so.

    One that holds the same bytes already stays. Raises UsageError where there is another.
    """
    data = content.encode() if isinstance(content, str) else content
    if os.path.lexists(path) and not overwrite:
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        raise UsageError(f"{path} exists and stays as it is; choose another name, or give --overwrite.")
    write_atomically(path, data)


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` to write a file or folder under until it is whole.

    What a killed process left under such a name, the next `sweep` removes.
    """
    return path.with_name(f".{path.name[:40]}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def sweep(root: Path, below: bool = True) -> None:
    """Remove in a folder, and `below` it, what processes that are gone left there under names of `temporary_name`.

    Gone are those of this machine that run no more, and all whose file was not written to for a day.
    """
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            if found := TEMPORARY.search(name):
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    is_old = time.time() - path.stat().st_mtime > LEFT_AFTER
                    if is_old or (found["machine"] == _machine() and not _is_alive(int(found["pid"]))):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not below:
            return


@cache
def _machine() -> str:
    """Return a digest of where process ids mean what they mean here: the machine, since it started, the container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    """Tell whether a process of this machine is there; True where that cannot be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


@contextmanager
def claim(folder: Path, doing: str) -> Iterator[Path]:
    """Yield a folder, made if need be, while no other process claims it; one that is left empty is removed.

    Raises UsageError, with what the other process is `doing`, where one does; StorageError where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder.parent / f".{folder.name}.lock", timeout=0)
        held.acquire()
    except Timeout:
        raise UsageError(f"another process is {doing} in {folder}.") from None
    except OSError as error:
        raise StorageError(f"cannot write {folder} ({error.strerror or error}); choose another --out.") from error
    try:
        sweep(folder)
        yield folder
    finally:
        Path(held.lock_file).unlink(missing_ok=True)
        held.release()
        if not any(folder.iterdir()):
            folder.rmdir()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a regular file; raises OSError for a pipe or a device, which would have no end."""
    size_of(path, most=sys.maxsize)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: Path) -> list[Any]:
    """Return what changes when a file does, without reading it: size, times and place; raises OSError for none.

    A copy that keeps size and date (`cp -p`, `rsync -t`) still has another number (inode) or time of change.
    """
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
