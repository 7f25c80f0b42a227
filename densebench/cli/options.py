"""Types and parsing that several verbs share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

DataRoot = Annotated[Path | None, arg(metavar="DIR", help="Folder the datasets lie in; default DENSEBENCH_DATA.")]
Results = Annotated[Path, arg(metavar="DIR", help="Folder of results.")]
Workers = Annotated[int, arg(metavar="N", help="Processes that decode images; they change no result.")]
Names = Annotated[str, arg(metavar="A[,B,...]")]
Debug = Annotated[bool, arg(help="Show the traceback of errors.")]
Quiet = Annotated[bool, arg(help="Show no progress.")]
Device = Annotated[str, arg(metavar="NAME", help="Where it is computed: auto, cpu, cuda, cuda:1, ...")]


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
