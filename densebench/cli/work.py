"""`densebench work`: a worker, which claims missing cells until none is left or its time is up."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from densebench.cli.run import Run
from densebench.core.errors import UsageError
from densebench.core.regular import read_text
from densebench.runner.request import Request, from_json

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass
class Work(Run):
    """Run the cells of a request that nobody is at, one after the other: any number of workers share a folder.

    A worker that is killed leaves its cell to the others. Exit 0 only if every cell has a result.

    Examples:
      densebench work --suite quick
      densebench work --suite paka-1 --model mine.py:MyBackbone --data-root DIR --time-limit 55m
    """

    request: Annotated[Path | None, arg(metavar="FILE", help="A request that `run --launcher` wrote.")] = None
    time_limit: Annotated[
        str, arg(metavar="TIME", help="Begin no cell that would end later than this from now: 55m, 2h, 1:30:00.")
    ] = ""

    def _request(self) -> Request:
        if self.workers.launcher != "none":
            raise UsageError("a worker starts no others: --launcher goes with `densebench run`.")
        if self.request is None:
            return super()._request()
        try:
            return from_json(read_text(self.request))
        except OSError as error:
            raise UsageError(f"--request {self.request} cannot be read ({error.strerror}).") from None

    def _until(self) -> float:
        return time.monotonic() + seconds_of(self.time_limit) if self.time_limit else math.inf


def seconds_of(text: str) -> float:
    """Return seconds of "55m", "2h", "90s", "1.5h", or hours, minutes and seconds "1:30:00" as Slurm writes them.

    >>> seconds_of("55m"), seconds_of("1:30:00"), seconds_of("2-00:00:00")
    (3300.0, 5400.0, 172800.0)
    """
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip()):
        return float(found[1]) * UNITS[found[2]]
    if found := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text.strip()):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    raise UsageError(f"--time-limit {text}: expected a time such as 55m, 2h or 1:30:00.")
