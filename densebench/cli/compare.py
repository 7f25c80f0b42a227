"""`densebench compare`: which model is better, by how much, and whether that is noise."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from densebench.cli.options import Debug, Names
from densebench.core.errors import UsageError
from densebench.core.lists import split_names
from densebench.core.text import say

ALL = ""


@dataclass
class Compare:
    """Say how models differ on the same images: difference, 95 % interval, p-value; else what differs besides.

    A name is a model of the results, the beginning of a record's hash or its path, FOLDER or FOLDER:MODEL, or a model
    as papers print it. Several are compared with each other. Exit 1 if they have nothing in common.

    Examples:
      densebench compare pico paka_pico
      densebench compare pico paka_pico --protocol overclustering --classes
      densebench compare dino_vits16 --published
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="A B [C ...]", help="What is compared.")]
    out: Annotated[Path, arg(metavar="DIR", help="Folder of results, as --out of run.")] = Path("results")
    protocol: Annotated[Names, arg(help="Protocols that are compared; all where none is named.")] = ALL
    dataset: Annotated[Names, arg(help="Datasets; all where none is named.")] = ALL
    preset: Annotated[Names, arg(help="Presets; all where none is named.")] = ALL
    published: Annotated[bool, arg(help="Compare each model with what papers print of it, too.")] = False
    every: Annotated[bool, arg(name="all-metrics", help="Compare all metrics, not the main ones alone.")] = False
    classes: Annotated[bool, arg(help="Show every class, with p-values for as many as there are.")] = False
    json: Annotated[bool, arg(help="Print JSON instead of tables.")] = False
    plot: Annotated[Path | None, arg(metavar="FILE.png", help="Draw the differences with their intervals.")] = None
    overwrite: Annotated[bool, arg(help="Replace the picture where there is one.")] = False
    debug: Debug = False

    def __call__(self) -> int:
        """Print tables, and draw a picture where one is asked for."""
        if self.plot is not None and self.plot.suffix != ".png":
            raise UsageError(f"--plot {self.plot}: expected a name that ends in .png.")
        if self.plot is not None and self.plot.exists() and not self.overwrite:
            raise UsageError(f"{self.plot} exists and stays as it is; choose another name, or give --overwrite.")
        from densebench.leaderboard.compared import compare
        from densebench.leaderboard.comparison import as_dict

        found = compare(
            *self.names,
            results=self.out,
            protocol=self._chosen(self.protocol),
            dataset=self._chosen(self.dataset),
            preset=self._chosen(self.preset),
            published=self.published,
            every=self.every,
        )
        if self.json:
            say(json.dumps([as_dict(line) for line in found.lines], indent=1, ensure_ascii=True, allow_nan=False))
        elif found.lines:
            from rich.console import Console

            from densebench.leaderboard.comparison_text import print_compared

            print_compared(found, Console(soft_wrap=False), self.classes)
        if not found.lines:
            print(f"nothing to compare: {found.nothing}", file=sys.stderr)
            return 1
        if self.plot is not None:
            from densebench.core.paths import write_new
            from densebench.leaderboard.forest import forest

            write_new(self.plot, forest(found.lines), self.overwrite)
            say(str(self.plot))
        return 0

    @staticmethod
    def _chosen(names: str) -> list[str] | None:
        return split_names(names) if names else None
