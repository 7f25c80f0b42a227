"""Locks between processes: the file system's where it has them, else a file that is there while one is held."""

from __future__ import annotations

import errno
import sys
import tempfile
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows, where locks are of another kind
    fcntl = None  # type: ignore[assignment]

REFUSALS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What network file systems (NFS without its lock daemon, Lustre without `-o flock`, FUSE) answer to flock."""


def lock(path: Path, timeout: float = -1) -> BaseFileLock:
    """Return a lock at `path` that one process at a time can hold; it waits `timeout` seconds, -1 without end.

    Where the file system of its folder, which must be there, refuses locks, this is a file `NAME.held`: what a process
    that was killed leaves of it, the next one on the same machine takes over. `Timeout` is raised when it is held for
    longer, OSError where the folder cannot be written.
    """
    if _takes_locks(path.parent):
        return FileLock(path, timeout)
    return SoftFileLock(path.with_name(f"{path.name}.held"), timeout)


@cache
def _takes_locks(folder: Path) -> bool:
    """Tell whether the file system of a folder has locks; said once where it has none."""
    if fcntl is None:
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in REFUSALS:
            return True  # the lock itself will say what is wrong
        print(
            f"the file system of {folder} takes no locks ({error.strerror}); files *.held there say what a process is "
            "at. One that a killed process left on another machine has to be removed by hand.",
            file=sys.stderr,
        )
        return False
    return True


__all__ = ["Timeout", "lock"]
