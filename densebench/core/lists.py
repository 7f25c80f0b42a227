"""Several names in one text, as the command line takes them."""

from __future__ import annotations

import os
import re


def split_names(text: str | None) -> list[str]:
    """Return the names of a comma-separated list; a comma inside the path of a file that exists parts nothing."""
    parts, found = (text or "").split(","), []
    while parts:
        joined = (",".join(parts[:n]) for n in range(len(parts), 1, -1))
        first = next((each for each in joined if os.path.isfile(_file(each))), parts[0])
        parts = parts[first.count(",") + 1 :]
        found.append(first.strip())
    return [name for name in found if name]


def _file(name: str) -> str:
    """Return the file that FILE.toml or FILE.py:Class names."""
    return os.path.expanduser(re.sub(r"(\.py):\w+$", r"\1", name.strip()))
