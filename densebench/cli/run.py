"""`densebench run`: measure models."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from densebench.cli.options import Debug, Quiet
from densebench.core.config import read_tables, split_settings
from densebench.core.errors import MissingWeightsError, StorageError, UsageError
from densebench.runner.request import Images, Machine, Measure, Request, Results
from densebench.runner.suite import requests_of

if TYPE_CHECKING:
    from densebench.core.progress import Progress
    from densebench.results.schema import Record
    from densebench.runner.grid import Outcome
    from densebench.runner.plan import Planned


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(Measure):
    """What is measured, and how."""

    settings: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="PROTOCOL.FIELD=VALUE")] = ()
    """Change one setting; may be repeated."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """TOML file with a table of settings per protocol; --set wins."""


@dataclass(frozen=True, kw_only=True)
class Printed(Results):
    """What is done with results, and what is printed."""

    dry_run: bool = False
    """Print the plan with memory, cache and time, and the total; run nothing."""
    yes: bool = False
    """Begin a plan of more than an hour that --dataset was not given for."""
    plots: bool = False
    """Draw all plots again too, as `densebench leaderboard` does."""
    json: bool = False
    """Print records as JSON instead of a table."""
    quiet: Quiet = False
    debug: Debug = False


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Who runs the cells."""

    launcher: Literal["none", "local"] = "none"
    """local: several workers on this machine, each with a GPU of its own where there are any."""
    jobs: Annotated[int, arg(metavar="N")] = 0
    """How many workers; 0: one per GPU."""


@dataclass
class Run:
    """Measure models: every protocol asked for, on every dataset asked for. Finished results are not run again.

    Examples:
      densebench run --model pico --protocol all
      densebench run --model dinov2_vits14,pico --protocol hummingbird --dataset voc --data-root DIR
      densebench run --suite paka-1 --model paka_vits14,mine=my_file.py:MyBackbone
    """

    measure: MeasureOptions
    images: Images = field(default_factory=Images)
    results: Printed = field(default_factory=Printed)
    machine: Machine = field(default_factory=Machine)
    workers: Launcher = field(default_factory=Launcher)

    @property
    def debug(self) -> bool:
        """Whether errors keep their traceback."""
        return self.results.debug

    def __call__(self) -> int:
        """Run the request and print its results."""
        request = self._request()
        requests_of(request)  # before torch is imported: a typo costs no time
        self._until()  # a time that is none is refused as soon
        from densebench.core.progress import Progress
        from densebench.runner.grid import run_request

        out = Path(request.out)
        progress = Progress(self.results.quiet)
        outcome = run_request(
            request,
            progress,
            dry_run=self.results.dry_run or self.workers.launcher == "local",
            agree=None if self.results.yes else _agree,
            finished=partial(_keep_rows, out, progress),
            until=self._until(),
        )
        if self.workers.launcher == "local" and outcome.planned and not self.results.dry_run:
            outcome = self._launched(request, outcome, progress)
        _report(outcome, self.results.json, out, request)
        if self.debug:
            for _, error in outcome.failed:
                print(error.trace, file=sys.stderr)
        if outcome.records and not self.results.dry_run:
            from densebench.leaderboard import TABLES, is_current, write_leaderboard

            if self.results.plots:
                write_leaderboard(out)
            elif not is_current(out):
                write_leaderboard(out, TABLES)
        if not outcome.failed:
            return int(bool(outcome.left))
        misused = all(isinstance(error, UsageError) for _, error in outcome.failed)
        return 2 if misused and not outcome.records else 1

    def _launched(self, request: Request, plan: Outcome, progress: Progress) -> Outcome:
        """Have workers run a plan; what they leave undone has failed, and their logs say why."""
        from densebench.runner.grid import run_request
        from densebench.runner.launch.local import run_workers
        from densebench.runner.plan import Failure

        if not self.results.yes and not all(each.dataset for each in requests_of(request)):
            _agree(plan.planned)
        jobs = [job for job, _ in plan.planned]
        logs = run_workers(request, jobs, self.workers.jobs, progress)
        outcome = run_request(request, progress, dry_run=True)
        left, outcome.planned = outcome.planned, []
        known = {what for what, _ in outcome.failed}
        said = StorageError(f"the workers left it without a result; their logs are in {logs}")
        outcome.failed += [Failure(str(job), said) for job, _ in left if str(job) not in known]
        return outcome

    def _until(self) -> float:
        """Return when no further cell is begun."""
        return math.inf

    def _request(self) -> Request:
        settings: dict[str, dict[str, Any]] = {}
        if self.measure.config:
            settings = read_tables(self.measure.config, "protocol")
        for protocol, fields in split_settings(list(self.measure.settings)).items():
            settings[protocol] = {**settings.get(protocol, {}), **fields}
        groups = ((self.measure, Measure), (self.images, Images), (self.machine, Machine), (self.results, Results))
        asked = {each.name: getattr(group, each.name) for group, kind in groups for each in fields_of(kind)}
        return Request(**asked, settings=settings)


def _agree(plan: Sequence[Planned]) -> None:
    """Show the total of a plan without datasets; above an hour ask, or raise UsageError where there is no terminal."""
    from densebench.runner.plan import ASK_ABOVE, plan_lines

    *lines, total = plan_lines(plan)
    if sum(seconds for _, seconds in plan) <= ASK_ABOVE:
        print(total, file=sys.stderr)
        return
    print("\n".join([*lines, total]), file=sys.stderr)
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("this is more than an hour: begin it with --yes, or name fewer with --dataset, --limit.")
    print("Begin? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not begun. Name fewer with --dataset, --protocol or --limit.")


def _keep_rows(out: Path, progress: Progress, record: Record) -> None:
    """Write the rows of all results so far; what is wrong there costs no cell and is said again at the end."""
    from densebench.leaderboard import write_rows

    try:
        write_rows(out)
    except StorageError as error:
        progress.say(str(error))


def _report(outcome: Outcome, as_json: bool, out: Path, request: Request) -> None:
    """Print results to stdout, and what happened otherwise to stderr."""
    if as_json:
        print(json.dumps([json.loads(r.model_dump_json()) for r in outcome.records], indent=1))
    elif outcome.records and request.suite:
        from densebench.cli.suites import print_tables

        print_tables(request.suite, outcome.records, limited=True)
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
    elif outcome.left:
        lines.append(f"the time is up: {len(outcome.left)} cells are left, {', '.join(outcome.left[:3])} among them.")
    elif outcome.kept and not outcome.done and not outcome.failed:
        lines.append(
            f"nothing to do: all {len(outcome.kept)} results are in {out} already (--overwrite runs them again)."
        )
    elif outcome.kept:
        lines.append(f"{len(outcome.kept)} results were in {out} already; {len(outcome.done)} are new.")
    if missing and request.suite and not request.model:  # several, and nobody named one
        lines.append(
            f"failed: the weights of {', '.join(missing)} are not on this machine: `densebench show suite "
            f"{request.suite}` says how to fetch or train each."
        )
    elif missing:
        from densebench.cli.ways import ways_on

        lines += [line for name in missing for line in ways_on(name, request.data_root)]
    for line in lines:
        print(line, file=sys.stderr)
