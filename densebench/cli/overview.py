"""Verbs that show, list, draw and check what there is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from densebench.cli.options import DataRoot, Debug, Device, Names, Quiet, Results
from densebench.cli.train import print_cost
from densebench.core.config import split_pair
from densebench.core.errors import UsageError
from densebench.core.lists import split_names
from densebench.core.text import say


@dataclass
class Leaderboard:
    """Write leaderboard.csv, leaderboard.md, plots and positional_study.csv from all records of a results folder.

    Examples:
      densebench leaderboard
      densebench leaderboard --results results --format csv,md --published
      densebench leaderboard --suite paka-1
      densebench leaderboard --format html
    """

    results: Results = Path("results")
    format: Annotated[
        Names, arg(help="Any of csv, md, json, latex, png, html (one page), and models: a CSV file for each.")
    ] = "csv,md,png"
    published: Annotated[bool, arg(help="Add the rows that the papers print.")] = False
    limited: Annotated[bool, arg(help="Show records of --limit runs too, in tables that say so.")] = False
    suite: Annotated[
        str, arg(metavar="NAME", help="Print a paper's table instead: measured beside published, with what differs.")
    ] = ""
    debug: Debug = False

    def __call__(self) -> int:
        """Write the files and print their paths."""
        if self.suite:
            from densebench.cli.suites import print_leaderboard

            say(str(print_leaderboard(self.suite, self.results, self.limited)))
            return 0
        from densebench.leaderboard import write_leaderboard

        paths = write_leaderboard(
            self.results, split_names(self.format), published=self.published, limited=self.limited
        )
        say("\n".join(map(str, paths)))
        return 0


@dataclass
class List:
    """List what there is: models, protocols, datasets, methods, segmenters, suites, results; PATTERN may hold * and ?.

    Examples:
      densebench list datasets
      densebench list models 'dinov2*'
    """

    kind: Annotated[
        Positional[Literal["models", "protocols", "datasets", "methods", "segmenters", "suites", "results"]],
        arg(help="What is listed."),
    ]
    pattern: Annotated[
        Positional[str], arg(metavar="[PATTERN]", help="Which names; in quotes, since the shell has a use for * too.")
    ] = "*"
    results: Results = Path("results")
    data_root: DataRoot = None
    debug: Debug = False

    def __call__(self) -> int:
        """Print one line each."""
        from densebench.cli import listing

        rows = listing.rows(self.kind, self.pattern, self.results, self.data_root)
        for problem in listing.plugin_problems(self.kind):
            print(problem, file=sys.stderr)
        if not rows:
            where = f" in {self.results}" if self.kind == "results" else ""
            print(f"no {self.kind}{where} match {self.pattern!r}.", file=sys.stderr)
        width = max((len(name) for name, _ in rows), default=0)
        for name, summary in rows:
            say(f"{name:<{width}}  {summary}".rstrip())
        return 0


@dataclass
class Show:
    """Show everything known of a model, protocol, dataset, method, suite or result; card: all results of one model.

    Examples:
      densebench show protocol hummingbird
      densebench show method paka --cost --base pico
      densebench show model dino_vits16 --weights my_run/checkpoint.pth
      densebench show card pico
      densebench show result 1f3a --open
    """

    kind: Annotated[
        Positional[Literal["model", "protocol", "dataset", "method", "suite", "result", "record", "card"]],
        arg(help="What is shown; result and record are the same."),
    ]
    name: Annotated[
        Positional[str], arg(metavar="NAME", help="Its name; of a result its hash, the beginning of one, or its path.")
    ]
    results: Annotated[Path, arg(help="Of a result or a card: the folder of results.")] = Path("results")
    open: Annotated[bool, arg(help="Of a result: open its pictures with the system's viewer.")] = False
    weights: Annotated[Path | None, arg(metavar="FILE", help="Of a model: a file of weights, as for run.")] = None
    toml: Annotated[bool, arg(help="Of a suite: print its file, to begin one of your own with.")] = False
    cost: Annotated[bool, arg(help="Of a method: measure images per second, memory per image and hours.")] = False
    base: Annotated[str, arg(help="With --cost: the model that would be trained.")] = "pico"
    data: Annotated[str, arg(help="With --cost: the images that it would be trained on, as for train.")] = "scenes"
    data_root: DataRoot = None
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="FIELD=VALUE", help="With --cost: change one setting; may be repeated."),
    ] = ()
    steps: Annotated[int, arg(metavar="N", help="With --cost: whole steps to time.")] = 3
    device: Device = "auto"
    debug: Debug = False

    def __call__(self) -> int:
        """Print a page of text."""
        if self.weights and self.kind != "model":
            raise UsageError(f"--weights goes with a model; got {self.kind} {self.name}.")
        if self.open and self.kind not in ("result", "record"):
            raise UsageError(f"--open goes with a result; got {self.kind} {self.name}.")
        if self.cost:
            if self.kind != "method":
                raise UsageError(f"--cost goes with a method; got {self.kind} {self.name}.")
            overrides = dict(split_pair(s) for s in self.settings)
            return print_cost(
                self.name, self.base, self.data, overrides, self.device, self.data_root, steps=max(1, self.steps)
            )
        if self.kind in ("result", "record"):
            return self._result()
        if self.kind == "card":
            from densebench.leaderboard.card import card
            from densebench.leaderboard.rows import select

            selection = select(self.results)
            say(card(self.name, selection.records + selection.limited).rstrip())
            return 0
        if self.kind == "suite":
            from densebench.cli import suites

            say(suites.page(self.name, self.data_root, self.toml))
            return 0
        from densebench.cli import listing

        say(listing.page(self.kind, self.name, self.weights))
        return 0

    def _result(self) -> int:
        from densebench.cli.viewer import open_pictures, pictures_beside
        from densebench.leaderboard.record import find_records, record_page

        found = find_records(self.results, self.name)
        say("\n\n".join(record_page(path, record) for path, record in found))
        hindered = self.open and open_pictures(
            [picture for path, record in found for picture in pictures_beside(path, record.artifacts)]
        )
        if hindered:
            print(f"not opened: {hindered}", file=sys.stderr)
        return int(bool(hindered))


@dataclass
class Verify:
    """Compare the installed numerics with golden vectors: what public reference code made of the same inputs.

    Exit 1 if anything is off.

    Examples:
      densebench verify
      densebench verify tests/golden --backend torch
    """

    folder: Annotated[
        Positional[Path | None],
        arg(metavar="[DIR]", help="Folder of .npz files, or one; by default a set shipped with it."),
    ] = None
    device: Device = "auto"
    backend: Annotated[
        Literal["all", "torch", "faiss"], arg(help="Library of exact search; all takes every one that runs here.")
    ] = "all"
    json: Annotated[bool, arg(help="Print every comparison as JSON instead of a line per file.")] = False
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Print a line per file, and how many are ok."""
        from densebench.core.environment import pick_device
        from densebench.core.progress import Progress
        from densebench.verify import report
        from densebench.verify.folder import list_files, pick_backends, verify

        files, device = list_files(self.folder), pick_device(self.device)
        backends = pick_backends(self.backend, device)
        found = list(Progress(self.quiet).track(verify(files, device, backends), "verify", len(files), "files"))
        print(report.as_json(found, device, backends) if self.json else "\n".join(report.lines(found)))
        for line in (line for each in found for line in report.complaints(each)):
            print(line, file=sys.stderr)
        return 0 if all(each.ok for each in found) else 1


@dataclass
class CheckModel:
    """Look for the mistakes that adapters make: geometry, order of patches, normalisation, batches, layers, weights.

    Exit 1 if any check failed; docs/adapters.md says what each one finds.

    Examples:
      densebench check-model my_backbone.py:MyBackbone
      densebench check-model timm/vit_small_patch14_dinov2.lvd142m --size 70 98
    """

    model: Annotated[Positional[str], arg(metavar="MODEL", help="A name, or FILE.py:Class, as `run --model` takes it.")]
    size: Annotated[
        tuple[int, int] | None,
        arg(metavar="H W", help="Pixels; by default 4 x 6 patches and the native size."),
    ] = None
    weights: Annotated[Path | None, arg(metavar="FILE", help="A weights file for a name that takes one.")] = None
    device: Device = "auto"
    json: Annotated[bool, arg(help="Print findings as JSON instead of a table.")] = False
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Print a finding per check, and what to do about those that are not ok."""
        from rich.console import Console

        from densebench.model_zoo import load_model, parse_spec

        parse_spec(self.model, self.weights)  # before torch is imported: a typo costs no time
        from densebench.core.environment import pick_device
        from densebench.core.progress import Progress
        from densebench.model_zoo.conformance import CHECKS, findings
        from densebench.model_zoo.conformance.report import as_json, report

        rebuild = partial(load_model, self.model, self.weights)
        checks = findings(rebuild(), self.size, pick_device(self.device), rebuild)
        found = list(Progress(self.quiet).track(checks, "check-model", len(CHECKS), "checks"))
        if self.json:
            print(as_json(self.model, found))
        else:
            Console().print(*report(self.model, found))
        return int(any(each.outcome == "failed" for each in found))
