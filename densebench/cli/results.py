"""`densebench results`: look after the records of a folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from densebench.cli.options import Debug


@dataclass
class Records:
    """Look after the records of a results folder. Exit 1 if any could not be.

    Examples:
      densebench results migrate
      densebench results migrate --out results
    """

    verb: Annotated[
        Positional[Literal["migrate"]],
        arg(help="migrate: rewrite what older versions wrote, in place; what it says stays."),
    ]
    out: Annotated[Path, arg(metavar="DIR", help="Folder of results, as --out of run.")] = Path("results")
    debug: Debug = False

    def __call__(self) -> int:
        """Print how many records there were."""
        from densebench.results.migrate import migrate

        done = migrate(self.out)
        for problem in done.left:
            print(problem, file=sys.stderr)
        print(done.line)
        return int(bool(done.left))
