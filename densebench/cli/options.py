"""Types and parsing that several verbs share."""

from __future__ import annotations

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
