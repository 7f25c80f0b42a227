"""The life of a command: it ends within two seconds of being told to, with its workers and its temporary files.

Imports nothing heavy: it comes before everything else, so that a Ctrl-C during imports is one line.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import io
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from densebench.core.text import ASCII

GRACE = 1.5
"""Seconds that the main thread gets to leave its blocks after a signal, before the process ends where it stands."""
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
STOPPED = "stopped. Finished results are kept; the same command goes on from here."
_PREFIX = f"densebench-{re.sub(r'[^A-Za-z0-9]', '', socket.gethostname())[:20]}-"

_received: list[int] = []
_raised = False
_said = False


def begin() -> None:
    """Take care of signals, temporary files and streams of this process; called once, by the command line's entry."""
    sys.stdout, sys.stderr = _tolerant(sys.stdout), _tolerant(sys.stderr)
    _stop_when_told()
    _own_temporary_folder()


def say_stopped() -> int:
    """Print that the command was stopped, once; return its exit code, 128 and the signal's number."""
    global _said
    if not _said:
        _said = True
        with contextlib.suppress(OSError, ValueError):
            os.write(2, f"{STOPPED}\n".encode())
    return 128 + (_received[0] if _received else signal.SIGINT)


def was_stopped() -> bool:
    """Return whether a signal told this process to end."""
    return bool(_received)


def end() -> NoReturn:
    """End this process, its workers and its temporary files now, after a signal."""
    code = say_stopped()
    _end_children()
    _remove_own_folder()
    os._exit(code)  # not sys.exit: exit handlers may take long, and Python has its own mind about a KeyboardInterrupt


def _stop_when_told() -> None:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks for
            signal.signal(number, _raise)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_watch, args=(reader, writer), name="signals", daemon=True).start()


def _raise(number: int, frame: FrameType | None) -> None:
    global _raised
    if not _raised:
        _raised = True
        _received.append(number)
        if hasattr(signal, "SIGCHLD"):  # in which torch raises that a worker ended, wherever the main thread is by then
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise KeyboardInterrupt


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Say nothing of our interrupt where Python drops it, in hooks of a fork or finalizers: `_watch` ends it all."""
    if not (was_stopped() and isinstance(what.exc_value, KeyboardInterrupt)):
        sys.__unraisablehook__(what)


def _forget() -> None:
    """Leave signals of a forked worker to its parent, which also ends it."""
    signal.set_wakeup_fd(-1)
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_IGN if name == "SIGINT" else signal.SIG_DFL)


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    """End the process after a signal: at once after a second one, also while the main thread is in compiled code."""
    numbers = {getattr(signal, name) for name in SIGNALS if hasattr(signal, name)}
    heard = False
    while True:
        reader.settimeout(GRACE if heard else None)
        try:
            told = [number for number in reader.recv(64) if number in numbers]
        except TimeoutError:
            break
        _received.extend(told)
        if len(told) + heard > 1:
            break
        heard = heard or bool(told)
    end()


def _end_children() -> None:
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            with contextlib.suppress(Exception):
                child.kill()


def _own_temporary_folder() -> None:
    """Put temporary files of this process into one folder that goes with it, and remove those of dead processes."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        number = re.fullmatch(rf"{_PREFIX}(\d+)-\w+", left.name)
        if number and not _runs(int(number[1])):
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):  # a full or read-only disk: whoever needs a file will say so
        tempfile.tempdir = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        os.environ["TMPDIR"] = tempfile.tempdir
        _owned.append((os.getpid(), tempfile.tempdir))
        atexit.register(_remove_own_folder)


_owned: list[tuple[int, str]] = []


def _remove_own_folder() -> None:
    for process, folder in _owned:
        if process == os.getpid():  # a forked worker leaves it alone
            shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Output(io.TextIOWrapper):
    """A standard stream that never ends a command: what cannot be written is dropped, what its encoding lacks is plain.

    `lost` is why something was dropped: a full disk, a closed pipe.
    """

    lost: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write text, or drop it."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what is buffered, or drop it."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if self.lost is None:
            self.lost = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # so that what is buffered goes there at the end
            os.close(null)


def output_lost() -> OSError | None:
    """Return why something printed was lost, None where nothing was, or where the reader of a pipe had enough."""
    sys.stdout.flush()
    lost = getattr(sys.stdout, "lost", None)
    return None if isinstance(lost, BrokenPipeError) else lost


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(ASCII.get(letter, "?") for letter in lacking), error.end


def _tolerant(stream: TextIO) -> TextIO:
    """Return a stream over the same file that is an `Output`; what is not a file (a notebook's) stays as it is."""
    if type(stream) is not io.TextIOWrapper:
        return stream
    codecs.register_error("densebench", _plain)
    lines = stream.line_buffering
    return Output(stream.detach(), encoding=stream.encoding, errors="densebench", line_buffering=lines)
