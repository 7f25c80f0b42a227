"""Files from the web onto this machine: once, whole, and resumed after a break.

A file lands under its final name only after its length and, where known, its SHA-256 are right; until then it is
`NAME.part`, and a connection that breaks is taken up where it broke (HTTP Range, guarded by the server's validator).

torch.hub and pooch begin again after every break; with a resuming downloader of one's own, what is left to pooch is to
compare a digest and to rename, five lines here. huggingface_hub resumes, but from its own hub alone; weights and
datasets of this field lie on many kinds of servers. So this is the standard library's HTTP client.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from email.message import Message
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

from densebench.core.errors import DensebenchError, StorageError
from densebench.core.locks import lock
from densebench.core.paths import file_digest, write_atomically
from densebench.core.progress import Progress

CHUNK = 1 << 20
TRIES = 5
"""Broken connections in a row, each with less than `GAIN`, after which a fetch gives up."""
GAIN = 1 << 16
"""Bytes that a connection must bring to count as one that got on; an eighth of a smaller file will do."""
SLOWEST = 1 << 10
"""Bytes per second, over `TIMEOUT`, below which a connection counts as broken."""
UNDECLARED = 20 * 10**9
"""Bytes taken at most from a server that does not say how many there are."""
TIMEOUT = 60.0
PAUSE = 1.0
"""Seconds before the first new try; doubled each time."""


@dataclass(frozen=True)
class DownloadFailure:
    """What to say where a file cannot be had."""

    kind: type[DensebenchError]
    """The error to raise."""
    by_hand: str
    """A sentence: how to do without the download."""
    elsewhere: str
    """What to do where the disk is full, such as "set DENSEBENCH_ZOO to another folder"."""


def offline() -> bool:
    """Whether DENSEBENCH_OFFLINE forbids the network."""
    return os.environ.get("DENSEBENCH_OFFLINE", "").lower() not in ("", "0", "false", "no")


def download(url: str, target: Path, sha256: str, progress: Progress, failure: DownloadFailure) -> Path:
    """Fetch a file that is not here, under a lock: of several processes one fetches and the others find the file.

    Beside it, `record_of(target)` keeps address, size, SHA-256 and day. Raises `failure.kind` where the network is
    forbidden or fails, or the file is not what it should be; StorageError where it cannot be kept.
    """
    if offline():
        raise failure.kind(
            f"{_stem(target)} is not on this machine and DENSEBENCH_OFFLINE forbids fetching it from {url}. "
            f"{failure.by_hand}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                size, digest = _Download(url, target, progress, failure).run(sha256)
                record = {"url": url, "sha256": digest, "bytes": size, "fetched": date.today().isoformat()}
                write_atomically(record_of(target), json.dumps(record, indent=2) + "\n")
                target.with_name(target.name + ".part").replace(target)
                known = "as published" if sha256 else "recorded, for none was known"
                progress.say(f"fetched {_stem(target)}, {size / 1e6:.1f} MB, SHA-256 {digest[:16]} ({known})")
    except OSError as error:
        full = "free space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        advice = f"{full}{failure.elsewhere}"
        raise StorageError(
            f"cannot keep {target} ({error.strerror or error}). {advice[0].upper()}{advice[1:]}."
        ) from error
    return target


def record_of(target: Path) -> Path:
    """Return the file beside a fetched one that says what it is."""
    return target.with_name(target.name + ".json")


@dataclass
class _Response:
    """What a server sends, and where in the file it begins."""

    body: Any
    """An open file with `read1`."""
    start: int
    total: int | None
    validator: str


class _CutError(Exception):
    """The connection ended before the file did."""


class _Download:
    """One file on its way: `NAME.part` and, beside it, whose bytes those are."""

    def __init__(self, url: str, target: Path, progress: Progress, failure: DownloadFailure) -> None:
        self.url, self.target, self.progress, self.failure = url, target, progress, failure
        self.name = _stem(target)
        self.part = target.with_name(target.name + ".part")
        self.origin = target.with_name(target.name + ".part.json")
        self._total = UNDECLARED

    def run(self, sha256: str) -> tuple[int, str]:
        """Fetch the rest and return size and digest; leaves `NAME.part`, whole and checked."""
        pause, tries, most = PAUSE / 2, 0, self._have()
        while True:
            try:
                self._take()
                break
            except BROKEN as error:
                self._give_up_on(error)
                enough = min(GAIN, self._total // 8 + 1)
                pause, tries = (PAUSE / 2, 0) if self._have() >= most + enough else (2 * pause, tries + 1)
                most = max(most, self._have())
                if tries >= TRIES:
                    raise self._error(
                        f"{error or type(error).__name__}; {self._have()} bytes are kept, run again to go on"
                    ) from error
                time.sleep(pause if tries else 0)
        self._refuse_pages()
        digest = file_digest(self.part)
        if sha256 and digest != sha256:
            size = self._have()
            self._drop()
            raise self.failure.kind(
                f"{self.url} sent {size} bytes with SHA-256 {digest[:16]}...; the published file has {sha256[:16]}... "
                "They were thrown away. A mirror may be stale, or the file was replaced: do not load it unseen."
            )
        self.origin.unlink(missing_ok=True)
        return self._have(), digest

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)

    def _take(self) -> None:
        """Append what the server still has; raises _CutError where it ends early."""
        with self._ask() as answer:
            if answer.start == 0:
                self._drop()
            write_atomically(self.origin, json.dumps({"url": self.url, "validator": answer.validator}))
            limit = UNDECLARED if answer.total is None else answer.total
            missing, self._total = limit - answer.start, limit
            if answer.total is not None and shutil.disk_usage(self.part.parent).free < missing:
                raise StorageError(
                    f"{self.target.name} needs {missing / 1e9:.1f} GB more in {self.part.parent}, which has less free. "
                    f"Free space, or {self.failure.elsewhere}; what was fetched is kept."
                )
            with self.part.open("ab") as file, self._bar(answer.start, answer.total) as advance:
                begun, came = time.monotonic(), 0
                while missing > 0 and (data := answer.body.read1(min(CHUNK, missing))):  # a stall loses nothing
                    file.write(data)
                    missing -= len(data)
                    came += len(data)
                    advance(len(data))
                    if time.monotonic() - begun > TIMEOUT:
                        if came < SLOWEST * TIMEOUT:
                            raise _CutError(f"{came} bytes came in {TIMEOUT:.0f} s, which has no end")
                        begun, came = time.monotonic(), 0
            if answer.total is None:
                if missing <= 0:
                    self._drop()
                    raise self._error(f"it sends more than {UNDECLARED / 1e9:.0f} GB and does not say how many")
            elif missing:
                raise _CutError(f"cut off after {self._have()} of {answer.total} bytes")

    @contextmanager
    def _ask(self) -> Iterator[_Response]:
        """Open the address at the end of what is here, or at 0 where that cannot be resumed."""
        have, headers = self._have(), {"User-Agent": "densebench", "Accept-Encoding": "identity"}
        origin: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self.origin.read_text())
            origin = found if isinstance(found, dict) else {}
        if have and origin.get("url") == self.url and origin.get("validator"):
            headers |= {"Range": f"bytes={have}-", "If-Range": origin["validator"]}
        else:
            have = 0
        try:
            response = _OPENER.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            error.close()  # nothing is left to send, or the file became shorter: either way begin again
            self._drop()
            raise _CutError("the server has no bytes beyond those that are here") from error
        with response:
            sent: Message = response.headers
            start, total = 0, _number(sent.get("Content-Length"))
            if getattr(response, "status", None) == 206:
                span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", sent.get("Content-Range", ""))
                start = int(span[1]) if span else -1
                if start != have:
                    raise self._error(f"asked for bytes from {have}, it sends {sent.get('Content-Range', 'any')}")
                total = _number(span[3]) if span else None
            # a weak validator may be the same for other bytes
            validator = next((v for v in (sent.get("ETag"), sent.get("Last-Modified")) if v and v[:2] != "W/"), "")
            if start and validator and validator != origin["validator"]:
                self._drop()
                raise _CutError("the server has another file now than the one whose beginning is here")
            yield _Response(response, start, total, validator)

    def _refuse_pages(self) -> None:
        with self.part.open("rb") as file:
            head = file.read(512).lstrip().lower()
        if head.startswith((b"<!doctype", b"<html")):
            self._drop()
            raise self._error(
                "it sends a web page, not a file (a login, a quota or a moved address), so fetch it with a browser"
            )

    def _give_up_on(self, error: BaseException) -> None:
        """Raise at once what another try cannot fix."""
        if isinstance(error, urllib.error.HTTPError):
            if error.code in (401, 403):
                raise self._error(f"it answers {error.code} {error.reason}: accept the licence there first") from error
            if error.code < 500 and error.code not in (408, 429):
                raise self._error(f"it answers {error.code} {error.reason}") from error
        elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, HOPELESS):
            raise self._error(str(getattr(error.reason, "strerror", "") or error.reason)) from error

    def _error(self, reason: str) -> DensebenchError:
        return self.failure.kind(f"{self.name} could not be fetched from {self.url}: {reason}. {self.failure.by_hand}")

    @contextmanager
    def _bar(self, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
        console = self.progress.console
        if not console.is_terminal:
            yield lambda n: None
            return
        text = TextColumn("{task.description}")
        columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(self.name, total=total, completed=start)
            yield lambda n: bar.advance(task, n)


class _RefusedError(Exception):
    """An address that is not fetched from, whatever it holds."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web only, and never from an encrypted address to one that is not."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request to go on with; raises URLError for an address that is refused."""
        old, new = (urllib.parse.urlparse(address).scheme for address in (req.full_url, newurl))
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise urllib.error.URLError(_RefusedError(f"it redirects to {newurl}, which is not followed"))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.FileHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener


_OPENER = _opener()
BROKEN = (_CutError, ConnectionError, TimeoutError, http.client.HTTPException, urllib.error.URLError)
"""What another try may fix."""
HOPELESS = (_RefusedError, FileNotFoundError, socket.gaierror, ssl.SSLCertVerificationError)
"""Reasons of a URLError that another try cannot fix."""


def _stem(target: Path) -> str:
    return target.name.partition(".")[0]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
