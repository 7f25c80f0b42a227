"""Pictures of records as small JPEG files in data URIs, within a budget; what has no room is said."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

from densebench.core.text import plain
from densebench.results.schema import Record

Reader = Callable[[Record, str], bytes]
SIDE = 720
"""Pixels of the longer side of a thumbnail."""
QUALITY = 72
BUDGET = 4 << 20
"""Bytes of all pictures of a page, as they stand in it."""
PER_LINE = 4
MOST_PIXELS = 60_000_000
"""Of a picture that is opened at all."""
SUFFIXES = (".png", ".jpg", ".jpeg")


def thumbnails(
    records: Mapping[int, Record], read: Reader, omitted: list[str], report: Callable[[str], None] | None = None
) -> dict[str, list[Any]]:
    """Return {line: [[name, data URI], ...]} of the pictures of records, as many as the budget has room for.

    Lines take turns, one picture each, so that every line has one before any has two. `report` is told of pictures that
    cannot be read, and `omitted` of how many had no room.
    """
    waiting = {line: [name for name in record.artifacts if name.lower().endswith(SUFFIXES)]
               for line, record in records.items()}  # fmt: skip
    found: dict[str, list[Any]] = {}
    left, out = BUDGET, sum(max(0, len(names) - PER_LINE) for names in waiting.values())
    for turn in range(PER_LINE):
        for line, names in waiting.items():
            if turn >= len(names):
                continue
            if left <= 0:
                out += 1
                continue
            try:
                uri = thumbnail(read(records[line], names[turn]))
            except Exception as error:  # of a file that is gone, or of one that Pillow fails at in its own ways
                if report:
                    report(f"{plain(names[turn])} is not on the page ({type(error).__name__}: {error}).")
                continue
            left -= len(uri)
            if left < 0:  # from here on nothing is opened: thousands of pictures would take minutes
                out += 1
                continue
            found.setdefault(str(line), []).append([plain(names[turn].rpartition("/")[2]), uri])
    if out:
        omitted.append(f"{out} picture{'' if out == 1 else 's'}, beside the records")
    return found


def thumbnail(content: bytes) -> str:
    """Return a picture as a data URI of a JPEG of at most SIDE pixels; raises what Pillow raises, or ValueError."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} by {image.height} pixels")
        image.draft("RGB", (SIDE, SIDE))
        small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
