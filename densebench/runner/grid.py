"""The grid model x protocol x dataset: run what is missing, go on after anything.

A cell that is finished has a record; a cell without one is run. So a second run does nothing, a killed run goes on,
and what fails costs only its own cell.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from densebench.core.environment import PeakMemory
from densebench.core.errors import StorageError, UsageError
from densebench.core.leases import Lease, LeaseTaken
from densebench.core.paths import cache_dir, sweep
from densebench.core.progress import Progress
from densebench.datasets.dataset import data_root
from densebench.features.source import FeatureSource
from densebench.features.throughput import images_per_second
from densebench.protocols.protocol import Context
from densebench.results.schema import Cost, Record
from densebench.results.store import ResultStore
from densebench.runner.failures import FOREIGN, finite, to_user_error
from densebench.runner.job import Job, check_fits
from densebench.runner.models import Models
from densebench.runner.plan import Built, Failure, Notes, Planned, Planner, with_seconds
from densebench.runner.records import artifacts_of, finished_line, record_of
from densebench.runner.request import Request
from densebench.runner.splits import Splits
from densebench.runner.suite import requests_of

if TYPE_CHECKING:
    import pandas as pd

POLL = 1.0
"""Seconds between looks at cells that other processes compute."""


@dataclass
class Outcome:
    """What became of a request."""

    done: list[Record] = field(default_factory=list)
    """Records that this run made."""
    kept: list[Record] = field(default_factory=list)
    """Records that were there before."""
    planned: list[Planned] = field(default_factory=list)
    """What a dry run would have run."""
    failed: list[Failure] = field(default_factory=list)
    """What could not be run, and why; the error's `trace` is its traceback."""
    skipped: list[str] = field(default_factory=list)
    """What `all` left out, each with the command that would make it ready."""
    left: list[str] = field(default_factory=list)
    """Cells that were not begun because the time was up."""

    @property
    def records(self) -> list[Record]:
        """All records of the request."""
        return [*self.kept, *self.done]

    def frame(self, wide: bool = False) -> pd.DataFrame:
        """Return the records as a DataFrame: see `densebench.frame`."""
        from densebench.results.frame import frame

        return frame(self.records, wide)

    def __repr__(self) -> str:
        counts = ((len(self.done), "new"), (len(self.kept), "kept"), (len(self.failed), "failed"))
        return f"<Outcome: {', '.join(f'{n} {what}' for n, what in counts if n) or 'nothing'}>"


def run_request(
    request: Request,
    progress: Progress | None = None,
    dry_run: bool = False,
    agree: Callable[[Sequence[Planned]], None] | None = None,
    finished: Callable[[Record], None] | None = None,
    until: float = math.inf,
) -> Outcome:
    """Run every cell of a request that has no record yet; `dry_run` only plans and estimates.

    `agree` is shown the plan of a request without datasets before it begins, and raises where it shall not. `finished`
    is told of each new record as soon as it is written. A cell that would end later than `until`, by
    `time.monotonic()`, is not begun. Raises UsageError for a request that cannot mean anything;
    everything else fails its own cell only.
    """
    requests, progress = requests_of(request), progress or Progress()
    run = _GridRun(requests, progress, finished or (lambda record: None))
    plan, outcome = run.plan(), run.outcome
    if dry_run:
        outcome.planned = plan
        return outcome
    if agree is not None and plan and not all(each.dataset for each in requests):
        agree(plan)
    if plan:
        for what, error in outcome.failed:
            progress.say(f"{what}: {error}")
    run.work(plan, until)
    return outcome


class _GridRun:
    """Requests on their way that differ in what is measured alone."""

    def __init__(self, requests: Sequence[Request], progress: Progress, finished: Callable[[Record], None]) -> None:
        request = requests[0]
        self.requests, self.request, self.progress, self.finished = requests, request, progress, finished
        self.store = ResultStore(request.out)
        self.outcome = Outcome()
        self.models = Models(request, progress)
        self.splits = Splits(request.data_root, request.limit, request.skip_corrupt, progress)
        self._refused: set[Path] = set()

    def plan(self) -> list[Planned]:
        """Return what has no record yet."""
        sweep(cache_dir())
        sweep(self.store.root, below=False)  # which may hold other things of the user's
        sweep(self.store.root / "records")
        notes = Notes()
        planners = [Planner(request, self.splits, notes) for request in self.requests]
        built = Built(self.models, notes, self.progress)
        jobs = []
        for spec in dict.fromkeys(spec for planner in planners for spec in planner.specs):
            source = built.get(spec)  # once, for all its cells
            for planner in planners:
                if spec in planner.specs:
                    jobs += [job for job in planner.jobs(spec, source) if not self._is_kept(job)]
        self.outcome.failed, self.outcome.skipped = notes.failed, notes.lines(data_root(self.request.data_root))
        if not (jobs or self.outcome.records or self.outcome.failed):
            raise UsageError("; ".join(["nothing can be measured", *self.outcome.skipped]) + ".")
        return with_seconds(jobs, self.models.device, self.models.cache is not None)

    def work(self, plan: Sequence[Planned], until: float) -> None:
        """Run jobs, the next free one first; those that another process is at come last, if there is time."""
        waiting, spent, foreseen = list[Job](), 0.0, 0.0
        for index, (job, seconds) in enumerate(plan):
            pace = spent / foreseen if foreseen else 1.0  # estimates are rough, and rough in one direction
            if time.monotonic() + pace * seconds > until:
                self.outcome.left.append(str(job))
                continue
            later = pace * sum(planned.seconds for planned in plan[index + 1 :])
            start, before = time.perf_counter(), len(self.outcome.done)
            with self.progress.cell(str(job), index + 1, len(plan), pace * seconds, later):
                if not self._attempt(job):
                    self.progress.say(f"{job}: another process is at it; the next free one first.")
                    waiting.append(job)
            if len(self.outcome.done) > before:
                spent, foreseen = spent + time.perf_counter() - start, foreseen + seconds
        if waiting:
            names = ", ".join(map(str, waiting))
            self.progress.say(f"waiting for what another process is at: {names}.")
            with self.progress.cell(f"waiting for another process: {names}", len(plan), len(plan), 0, 0):
                while waiting := [job for job in waiting if not self._attempt(job)]:
                    if time.monotonic() + POLL > until:
                        self.outcome.left += map(str, waiting)
                        break
                    time.sleep(POLL)

    def _attempt(self, job: Job) -> bool:
        """Run a job, or keep the record that another process made; return False where one is at it."""
        source = None
        try:
            try:
                held = self.store.lease(self._path(job)).acquire(blocking=False)
            except LeaseTaken:
                return False
            with held:
                if not self._keep(job):
                    source = self.models.get(job.spec)
                    job = replace(job, weights=source.weights_digest)  # which may be drawn anew
                    self._run(job, source, held)
        except FOREIGN as error:
            backbone = source.backbone if source else None
            known = to_user_error(error, job.spec.text, backbone, job.protocol.shrink_hint)
            self.outcome.failed.append(Failure(str(job), known))
            self.progress.say(f"{job}: {known}")
        return True

    def _run(self, job: Job, source: FeatureSource, held: Lease) -> None:
        check_fits(job)
        workspace = cache_dir() / "cells" / job.score_hash
        if self.request.overwrite:
            shutil.rmtree(workspace, ignore_errors=True)
        record, artifacts = self._measure(job, source, workspace)
        if held.lost and self._keep(job):  # this process was stopped for so long that another did it
            return
        self.store.write(self._path(job), record, artifacts)
        shutil.rmtree(workspace, ignore_errors=True)
        self.outcome.done.append(record)
        self.progress.say(finished_line(record, self._path(job)))
        self.finished(record)

    def _measure(self, job: Job, source: FeatureSource, workspace: Path) -> tuple[Record, Mapping[str, bytes]]:
        self.progress.say(f"{job} ({job.setting})")
        context = Context(source, self.progress, job.seed, workspace, self.request.pictures)
        memory = PeakMemory()
        memory.reset()
        start = time.perf_counter()
        notes = self.splits.check_ground_truth(job.data, job.protocol.needs, job.protocol.reads_train)
        measurement = finite(job.protocol.run(job.config, job.data, context), job.data)
        measurement = replace(measurement, notes=(*measurement.notes, *notes))
        seconds = {**context.seconds, "total": time.perf_counter() - start}
        peak, gpu = memory.read()
        cost = Cost(
            seconds={k: round(v, 3) for k, v in seconds.items()},
            peak_memory_bytes=peak,
            peak_gpu_bytes=gpu,
            bank_bytes=job.estimate.bank_bytes,
            images_per_second=_speed(job, source),
        )
        artifacts = artifacts_of(measurement, job.data.val, self._path(job).stem)
        return record_of(job, source, measurement, artifacts, cost, self.splits), artifacts

    def _path(self, job: Job) -> Path:
        return self.store.path(**job.place, score_hash=job.score_hash)

    def _is_kept(self, job: Job) -> bool:
        """Whether a job has a record already; files are only read where one of its name is there."""
        try:
            return not self.request.overwrite and self.store.has(**job.place) and self._keep(job)
        except FOREIGN:  # files that cannot be read: the job fails of them when it is run
            return False

    def _keep(self, job: Job) -> bool:
        """Keep the job's record where it is there; one that cannot be read, or is another's, is said and run again."""
        path = self._path(job)
        if self.request.overwrite or not path.exists():
            return False
        try:
            record = self.store.read(path)
            if self.store.place(record) != path or record.data.limit != self.splits.cut_to(job.splits):
                raise StorageError(f"{path} is the record of another cell, {record.title}.")
            if record.withdrawn:
                raise StorageError(f"{path} was withdrawn: {record.withdrawn}.")
        except StorageError as error:
            if path not in self._refused:
                self.progress.say(f"{error} It is run again.")
            self._refused.add(path)
            return False
        self.outcome.kept.append(record)
        return True


def _speed(job: Job, source: FeatureSource) -> float | None:
    """Return the images per second of a job's forward pass; None where it has none, or it fails: no score needs it."""
    specs = [spec for spec, _ in job.estimate.features.values()]
    if not specs:
        return None
    try:
        return round(images_per_second(source, specs[-1].size), 3)
    except FOREIGN:
        return None
