"""Leases: who is at a piece of work, on any machine that shares the folder, without trusting the locks of its files.

A lease is a file that says host and process, made in one step that only one can win, and touched by its holder while
that lives. One whose process is gone from this machine is free at once, one of another machine when it has not been
touched for `STALE` seconds by the clock of the file system. A holder that was thought dead, having been stopped for so
long, finds out by `lost`; work is written whole, so the worst is that it was done twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

BEAT = 15.0
"""Seconds between touches."""
STALE = 180.0
"""Seconds without one after which a lease of another machine is free."""
POLL = 0.2
"""Seconds between looks of one that waits."""


class LeaseTaken(Exception):  # noqa: N818  # no error: somebody else is at it
    """Another process, or another part of this one, holds the lease."""


class Lease:
    """The lease at a path, whose folder exists; `acquire` it or use it as a context.

    >>> with Lease(Path("results/.leases/cell")):
    ...     work()
    """

    _held: ClassVar[weakref.WeakSet[Lease]] = weakref.WeakSet()
    _beating: ClassVar[threading.Thread | None] = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = ""

    def acquire(self, blocking: bool = True) -> Lease:
        """Return this lease, held; raises LeaseTaken where another holds it and it is not to wait."""
        while not self._claim():
            if not blocking:
                raise LeaseTaken(self.path)
            time.sleep(POLL)
        Lease._held.add(self)
        Lease._start()
        return self

    def release(self) -> None:
        """Give the lease back; one that was lost stays with who has it now."""
        Lease._held.discard(self)
        if not self.lost:
            self.path.unlink(missing_ok=True)
        self._token = ""

    @property
    def lost(self) -> bool:
        """Whether it is not, or no longer, held: another took this process for dead."""
        return not self._token or _read(self.path).get("token") != self._token

    def __enter__(self) -> Lease:
        return self if self._token else self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _claim(self) -> bool:
        """Try once; of several that try at a time one wins."""
        token = uuid.uuid4().hex
        mine = self.path.with_name(f".{self.path.name}.{token}")
        mine.write_text(json.dumps({"token": token, **_identity()}), encoding="utf-8")
        try:
            won = _link(mine, self.path) or (self._bury(mine) and _link(mine, self.path))
        finally:
            mine.unlink(missing_ok=True)
        self._token = token if won else ""
        return won

    def _bury(self, mine: Path) -> bool:
        """Move the present lease out of the way if its holder is gone; `mine` was written just now."""
        try:
            found = _read(self.path)
            age = mine.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:  # given back in this moment
            return True
        if not (_is_gone(found) or age > STALE):
            return False
        grave = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            os.replace(self.path, grave)
        except FileNotFoundError:
            return True
        if _read(grave).get("token") != found.get("token"):  # another was quicker, and this is its own
            _link(grave, self.path)
            grave.unlink(missing_ok=True)
            return False
        grave.unlink(missing_ok=True)
        return True

    @classmethod
    def _start(cls) -> None:
        """Have one thread touch what this process holds."""
        if cls._beating is None or not cls._beating.is_alive():
            cls._beating = threading.Thread(target=cls._beat, name="leases", daemon=True)
            cls._beating.start()

    @classmethod
    def _beat(cls) -> None:
        while True:
            time.sleep(BEAT)
            for lease in list(cls._held):
                with contextlib.suppress(OSError):
                    if not lease.lost:
                        os.utime(lease.path)


def holder(path: Path) -> str:
    """Return who holds the lease at a path, "" where nobody does: "node7, process 4711"."""
    found = _read(path)
    return f"{found.get('host', '?')}, process {found.get('pid', '?')}" if found else ""


def _read(path: Path) -> dict[str, Any]:
    """Return what a lease says; {} where there is none, and of one that is torn what no holder has."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return {"token": None}
    return found if isinstance(found, dict) else {"token": None}


def _link(source: Path, target: Path) -> bool:
    """Make `target` the file `source` in one step; False where there is one."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without links, such as exFAT
        try:
            file = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(file, "wb") as written:
            written.write(source.read_bytes())
    return True


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "born": _born(pid)}


def _is_gone(found: dict[str, Any]) -> bool:
    """Whether a holder was a process of this machine that is there no more; nothing is known of other machines."""
    own = _identity()
    if found.get("host") != own["host"] or found.get("boot") != own["boot"] or not isinstance(found.get("pid"), int):
        return False
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return bool(found.get("born")) and _born(found["pid"]) != found["born"]  # its number went to another


def _boot() -> str:
    """Return what tells one start of this machine, or container, from the next; "" where nothing does."""
    try:
        names = [os.readlink("/proc/self/ns/pid")]  # process numbers mean nothing in another container
        return "/".join([Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), *names])
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Return when a process of this machine began, in ticks since the start; "" where nobody says."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
