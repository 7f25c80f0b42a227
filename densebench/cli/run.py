"""`densebench run`: measure models."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from densebench.cli.options import DataRoot, Debug, Device, Names, Quiet, Workers, split_names
from densebench.core.errors import MissingWeightsError, StorageError, UsageError

if TYPE_CHECKING:
    from densebench.core.progress import Progress
    from densebench.results.schema import Record
    from densebench.runner.grid import Outcome
    from densebench.runner.plan import Cell
    from densebench.runner.request import Request


@dataclass
class Measure:
    """What is measured, and how."""

    model: Annotated[
        Names,
        arg(
            help="Zoo names, timm/NAME, FILE.py:Class or CHECKPOINT.safetensors; '?random' or @WEIGHTS after it, and "
            "NAME= before it: what tables call it."
        ),
    ]
    protocol: Annotated[Names, arg(help="Protocols, or all.")] = "all"
    dataset: Annotated[
        str | None, arg(metavar="A[,B,...]", help="Datasets; by default all that are ready, scenes when none is.")
    ] = None
    train_dataset: Annotated[
        str, arg(metavar="NAME", help="Take memories and heads from this dataset's training images: domain shift.")
    ] = ""
    preset: Annotated[
        str,
        arg(metavar="NAME", help="A published setting of the protocols; by default paper, on embedded data embedded."),
    ] = ""
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="PROTOCOL.FIELD=VALUE", help="Change one setting; may be repeated."),
    ] = ()
    config: Annotated[
        Path | None, arg(metavar="FILE", help="TOML file with a table of settings per protocol; --set wins.")
    ] = None
    weights: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="A file of weights for the model, FILE@ENTRY where it holds several; also SPEC@FILE.",
        ),
    ] = None
    seed: Annotated[
        str,
        arg(
            metavar="N[,N,...]",
            help="Of everything that is drawn: subsets, crops, k-means, heads. Tables show the mean of several.",
        ),
    ] = "0"


@dataclass
class Images:
    """Where images are, and which of them are read."""

    data_root: DataRoot = None
    limit: Annotated[
        int | None, arg(metavar="N", help="Use the first N images of each split; the result stays off leaderboards.")
    ] = None
    skip_corrupt: Annotated[bool, arg(help="Leave out images that cannot be decoded, and say which.")] = False


@dataclass
class Results:
    """What is done with results, and what is printed."""

    out: Annotated[Path, arg(metavar="DIR", help="Folder of results.")] = Path("results")
    overwrite: Annotated[bool, arg(help="Run finished cells again.")] = False
    dry_run: Annotated[bool, arg(help="Print the plan with memory, cache and time, and the total; run nothing.")] = (
        False
    )
    yes: Annotated[bool, arg(help="Begin a plan of more than an hour that --dataset was not given for.")] = False
    plots: Annotated[bool, arg(help="Draw all plots again too, as `densebench leaderboard` does.")] = False
    json: Annotated[bool, arg(help="Print records as JSON instead of a table.")] = False
    quiet: Quiet = False
    debug: Debug = False


@dataclass
class Machine:
    """What it is computed with; only precision and feature type can change a score."""

    device: Device = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], arg(help="The backbone computes in it; auto is float32.")
    ] = "auto"
    feature_dtype: Annotated[
        Literal["float16", "float32"], arg(help="Features are rounded to it before protocols read them.")
    ] = "float16"
    batch_size: Annotated[int, arg(metavar="N", help="Images per forward pass.")] = 16
    workers: Workers = 2
    cache_size: Annotated[float, arg(metavar="GB", help="Gigabytes of features kept on disk; 0 keeps none.")] = 20.0


@dataclass
class Run:
    """Measure models: every protocol asked for, on every dataset asked for. Finished results are not run again.

    Examples:
      densebench run --model pico --protocol all
      densebench run --model dinov2_vits14,pico --protocol hummingbird --dataset voc --data-root DIR
    """

    measure: Measure
    images: Images = field(default_factory=Images)
    results: Results = field(default_factory=Results)
    machine: Machine = field(default_factory=Machine)

    @property
    def debug(self) -> bool:
        """Whether errors keep their traceback."""
        return self.results.debug

    def __call__(self) -> int:
        """Run the request and print its results."""
        from densebench.runner.request import checked

        request = checked(self._request())  # before torch is imported: a typo costs no time
        from densebench.core.progress import Progress
        from densebench.runner.grid import run

        agree = None if self.results.yes else _agree
        progress = Progress(self.results.quiet)
        finished = partial(_keep_rows, self.results.out, progress)
        outcome = run(request, progress, dry_run=self.results.dry_run, agree=agree, finished=finished)
        _report(outcome, self.results.json, self.results.out, self.images.data_root)
        if self.debug:
            for _, error in outcome.failed:
                print(error.trace, file=sys.stderr)
        if outcome.records and not self.results.dry_run:
            from densebench.leaderboard import TABLES, is_current, write_leaderboard

            if self.results.plots:
                write_leaderboard(self.results.out)
            elif not is_current(self.results.out):
                write_leaderboard(self.results.out, TABLES)
        if not outcome.failed:
            return 0
        misused = all(isinstance(error, UsageError) for _, error in outcome.failed)
        return 2 if misused and not outcome.records else 1

    def _request(self) -> Request:
        from densebench.core.config import read_tables, split_settings
        from densebench.model_zoo import split_models
        from densebench.runner.request import Request

        asked = self.measure
        settings: dict[str, dict[str, Any]] = read_tables(asked.config, "protocol") if asked.config else {}
        for protocol, fields in split_settings(list(asked.settings)).items():
            settings[protocol] = {**settings.get(protocol, {}), **fields}
        return Request(
            models=split_models(asked.model),
            protocols=split_names(asked.protocol),
            datasets=split_names(asked.dataset),
            settings=settings,
            train_dataset=asked.train_dataset,
            preset=asked.preset,
            weights=asked.weights,
            seeds=_seeds(asked.seed),
            **vars(self.images),
            out=self.results.out,
            overwrite=self.results.overwrite,
            **vars(self.machine),
        )


def _agree(cells: Sequence[Cell]) -> None:
    """Show the total of a plan without datasets; above an hour ask, or raise UsageError where there is no terminal."""
    from densebench.runner.plan import ASK_ABOVE, plan_lines

    *lines, total = plan_lines(cells)
    if sum(cell.seconds for cell in cells) <= ASK_ABOVE:
        print(total, file=sys.stderr)
        return
    print("\n".join([*lines, total]), file=sys.stderr)
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("this is more than an hour: begin it with --yes, or name fewer with --dataset, --limit.")
    print("Begin? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not begun. Name fewer with --dataset, --protocol or --limit.")


def _seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of --seed 0,1,2, each once."""
    try:
        return tuple(dict.fromkeys(int(name) for name in split_names(text))) or (0,)
    except ValueError:
        raise UsageError(f"--seed {text}: expected whole numbers, such as 0 or 0,1,2.") from None


def _keep_rows(out: Path, progress: Progress, record: Record) -> None:
    """Write the rows of all results so far; what is wrong there costs no cell and is said again at the end."""
    from densebench.leaderboard import write_rows

    try:
        write_rows(out)
    except StorageError as error:
        progress.say(str(error))


def _report(outcome: Outcome, as_json: bool, out: Path, root: Path | None) -> None:
    """Print results to stdout, and what happened otherwise to stderr."""
    if as_json:
        print(json.dumps([json.loads(r.model_dump_json()) for r in outcome.records], indent=1))
    elif outcome.records:
        from rich.console import Console

        from densebench.leaderboard import console_table

        console_table(outcome.records, Console())
    lines = [f"not run: {line}" for line in outcome.skipped]
    failed: dict[str, list[str]] = {}
    missing = [error.entry for _, error in outcome.failed if isinstance(error, MissingWeightsError)]
    for cell, error in outcome.failed:
        if not isinstance(error, MissingWeightsError):
            failed.setdefault(str(error), []).append(cell)
    lines += [f"failed: {', '.join(cells)}: {error}" for error, cells in failed.items()]
    if outcome.planned:
        from densebench.runner.plan import plan_lines

        lines += [f"would run {len(outcome.planned)} cells:", *plan_lines(outcome.planned)]
    elif outcome.kept and not outcome.done and not outcome.failed:
        lines.append(
            f"nothing to do: all {len(outcome.kept)} results are in {out} already (--overwrite runs them again)."
        )
    elif outcome.kept:
        lines.append(f"{len(outcome.kept)} results were in {out} already; {len(outcome.done)} are new.")
    if missing:
        from densebench.cli.ways import ways_on

        lines += [line for name in missing for line in ways_on(name, root)]
    for line in lines:
        print(line, file=sys.stderr)
