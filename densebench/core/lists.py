"""Several names in one text, as the command line takes them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable


def split_list(text: str, is_one: Callable[[str], bool]) -> list[str]:
    """Return the items of a comma-separated list; a comma parts nothing inside the longest text that `is_one` item."""
    parts, found = text.split(","), []
    while parts:
        joined = (",".join(parts[:n]) for n in range(len(parts), 1, -1))
        first = next((each for each in joined if is_one(each)), parts[0])
        parts = parts[first.count(",") + 1 :]
        found.append(first.strip())
    return [item for item in found if item]


def split_names(text: str | None) -> list[str]:
    """Return the names of a comma-separated list; a comma inside the path of a file that exists parts nothing."""
    return split_list(text or "", lambda name: os.path.isfile(_file(name)))


def _file(name: str) -> str:
    """Return the file that FILE.toml or FILE.py:Class names."""
    return os.path.expanduser(re.sub(r"(\.py):\w+$", r"\1", name.strip()))
