"""Files of other people: regular ones alone are read, within bounds of size and depth.

A pipe or a device where a file is expected would be waited for without end or fill the memory, and so would some texts
of a few bytes per level of depth.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

MOST_TEXT = 64 << 20
"""Bytes of a list or a description; ImageNet's list of 1.3 million ids has 40 million."""
MOST_TOML = 1 << 18
MOST_BYTES = 2 << 30
"""Bytes of any other file that is read as a whole; the largest JSON of COCO has a quarter of this."""
MOST_DOTS = 200
"""In a line of TOML: a name may have a level per dot, and each costs memory for all levels above it."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def size_of(path: Path, most: int = MOST_BYTES) -> int:
    """Return the bytes of a regular file; links are followed.

    Raises OSError, its `strerror` in words, for a device, pipe, socket or folder, and for a file of more than `most`
    bytes. What has no size, as an empty file or one of the system's in /proc, has 0 bytes.
    """
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no file")
        raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file", str(path))
    if state.st_size > most:
        found = f"it has {state.st_size / 1e6:,.1f} MB; expected at most {most / 1e6:,.1f}"
        raise OSError(errno.EFBIG, found, str(path))
    return state.st_size


def read(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file; raises as `size_of` does."""
    size = size_of(path, most)
    with open(path, "rb") as file:
        return file.read(size) if size else b""


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Return the text of a regular file in UTF-8, with or without a byte order mark; raises as `size_of` does.

    Raises UnicodeDecodeError, a ValueError, for other bytes.
    """
    return read(path, most).decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds; raises ValueError for what is none, and for one that is nested absurdly deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text holds; raises `tomllib.TOMLDecodeError` for what is none, too long or too deep."""
    if len(text) > MOST_TOML:
        raise tomllib.TOMLDecodeError(f"it has more than {MOST_TOML:,} characters")
    dotted = next((i for i, line in enumerate(text.splitlines(), 1) if line.count(".") > MOST_DOTS), 0)
    if dotted:
        raise tomllib.TOMLDecodeError(f"line {dotted} has more than {MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError("it is nested too deep") from None
