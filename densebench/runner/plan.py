"""What there is to do: the jobs of a request, what cannot be run and why, and what it will take."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from densebench.core.errors import DensebenchError, UsageError
from densebench.core.progress import Progress, duration
from densebench.datasets.layout import MissingError
from densebench.datasets.names import DATASETS
from densebench.features.source import FeatureSource
from densebench.model_zoo import ModelSpec, parse_models
from densebench.model_zoo.backbone import BackboneInfo
from densebench.model_zoo.spec import same_name
from densebench.protocols import PROTOCOLS
from densebench.protocols.protocol import Data, Estimate, Protocol
from densebench.runner.failures import FOREIGN, to_user_error
from densebench.runner.job import Job, cell_name, make_job, splits_of
from densebench.runner.models import Models
from densebench.runner.request import Request, no_such_preset
from densebench.runner.splits import Splits

ASK_ABOVE = 3600.0
"""Seconds of a plan that nobody gave datasets for, above which it is not begun unasked."""
SMALL = 1e12
"""Operations of a plan that the machine's speed is not measured for: a minute or two even on a slow one."""
GPU = 5e13
"""Operations per second of a present GPU in float32."""
SLOW = 1e10
"""Operations per second of a slow machine."""


class Failure(NamedTuple):
    """A cell, or the model that all its cells lack, and why it could not be run."""

    what: str
    error: DensebenchError


class Workload(NamedTuple):
    """What a cell computes, enough to say how much it is."""

    model: str
    info: BackboneInfo
    dataset: str
    train_dataset: str
    estimate: Estimate


class Planned(NamedTuple):
    """A job with the seconds that it will take, roughly."""

    job: Job
    seconds: float


@dataclass
class Notes:
    """What there is to say of cells that are not run."""

    failed: list[Failure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """What `all` left out, a sentence each."""
    absent: dict[str, None] = field(default_factory=dict)
    """Datasets that nobody asked for by name and that are not here."""

    def fail(self, what: str, error: DensebenchError) -> None:
        """Note a failure, each once."""
        if all((each.what, str(each.error)) != (what, str(error)) for each in self.failed):
            self.failed.append(Failure(what, error))

    def skip(self, line: str) -> None:
        """Note what is left out, each once."""
        if line not in self.skipped:
            self.skipped.append(line)

    def lines(self, root: Path | None) -> list[str]:
        """Return what was skipped, after one line on all datasets that are not here."""
        if not self.absent:
            return self.skipped
        where = f"below {root}" if root else "no data root is given: --data-root DIR or DENSEBENCH_DATA"
        absent = (
            f"{len(self.absent)} dataset{' is' if len(self.absent) == 1 else 's are'} not here ({where}): "
            f"{', '.join(self.absent)}; `densebench data where NAME` says how to get one"
        )
        return [absent, *self.skipped]


class Built:
    """The models of a run as they are looked at; the first that can be built is held."""

    def __init__(self, models: Models, notes: Notes, progress: Progress) -> None:
        self.models, self.notes, self.progress = models, notes, progress
        self._called: dict[str, str] = {}

    def get(self, spec: ModelSpec) -> FeatureSource | None:
        """Build a model and say what there is to say of its weights; None, and a note, where it cannot be built."""
        try:
            return self._build(spec)
        except FOREIGN as error:
            self.notes.fail(spec.shown, to_user_error(error))
            return None

    def _build(self, spec: ModelSpec) -> FeatureSource:
        """Raises UsageError for the name of another."""
        source = self.models.build(spec)
        name, digest = source.info.name, source.weights_digest
        if self._called.setdefault(name, digest) != digest:
            raise same_name(name)
        for line in source.info.notes.get("loading", ()):
            self.progress.say(line)
        self.models.hold(spec, source)
        return source


class Planner:
    """Makes the jobs of one request; what cannot be run goes into `notes`."""

    def __init__(self, request: Request, splits: Splits, notes: Notes) -> None:
        self.request, self.splits, self.notes = request, splits, notes
        self.specs = parse_models(request.model, request.weights)
        self.protocols = self._protocols()

    def _protocols(self) -> list[Protocol[Any]]:
        """Return the protocols asked for; raises UsageError for settings that one cannot have."""
        request, found, known = self.request, list[Protocol[Any]](), set[str]()
        names = PROTOCOLS.names() if request.everything else PROTOCOLS.match(request.protocol)
        for name in names:
            try:
                protocol = PROTOCOLS[name]()
            except FOREIGN as error:
                if not request.everything:
                    raise to_user_error(error) from None
                self.notes.skip(f"{name}: {to_user_error(error)}")
                continue
            known.update(protocol.presets)
            if request.everything and request.preset and request.preset not in protocol.presets:
                self.notes.skip(f"{name}: has no preset {request.preset!r}")
                continue
            self._configured(protocol)
            found.append(protocol)
        if not found:
            raise no_such_preset(request.preset, known)
        return found

    def _configured(self, protocol: Protocol[Any]) -> Any:
        """Return a config of a protocol as asked for, before it is known which dataset's preset it is."""
        preset = self.request.preset or next(iter(protocol.presets))
        return protocol.configure(preset, self.request.settings.get(protocol.name))

    def jobs(self, spec: ModelSpec, source: FeatureSource | None) -> Iterator[Job]:
        """Yield the jobs of a model; without one that is built, none, and datasets that are not here are noted."""
        if source is None:
            for protocol in self.protocols:
                self._datasets(protocol)
            return
        name = source.info.name
        for protocol in self.protocols:
            try:
                lacking = protocol.unsupported_reason(self._configured(protocol), source.info)
            except FOREIGN as error:
                self.notes.fail(f"{name} / {protocol.name}", to_user_error(error))
                continue
            if lacking and self.request.everything:
                self.notes.skip(lacking)
                continue
            for dataset, seed in itertools.product(self._datasets(protocol), self._seeds(protocol)):
                try:
                    if lacking:
                        raise UsageError(lacking)
                    yield make_job(self.request, spec, source, protocol, dataset, seed, self.splits)
                except FOREIGN as error:
                    cell = cell_name(name, protocol.name, dataset, seed)
                    known = to_user_error(error, spec.text, source.backbone, protocol.shrink_hint)
                    self.notes.fail(cell, known)

    def _seeds(self, protocol: Protocol[Any]) -> Sequence[int]:
        """Return the seeds that a protocol is run with: one where they change nothing."""
        if protocol.seeded or len(self.request.seed) < 2:
            return self.request.seed
        self.notes.skip(
            f"{protocol.name} with more than one --seed: it changes nothing there, seeds are among its settings"
        )
        return self.request.seed[:1]

    def _datasets(self, protocol: Protocol[Any]) -> list[str]:
        """Return the datasets asked for, or all that are ready and have the ground truth the protocol needs.

        With `all` protocols, those that a dataset asked for cannot serve are skipped; a protocol asked for is refused.
        """
        if self.request.dataset:
            asked = list(self.request.dataset)
            return [name for name in asked if self._serves(protocol, name)] if self.request.everything else asked
        ready = [name for name in DATASETS.names() if self._ready(protocol, name)]
        return ready or [name for name in ("scenes",) if not protocol.missing_targets(DATASETS[name].info)]

    def _serves(self, protocol: Protocol[Any], name: str) -> bool:
        """Return whether a dataset has the ground truth of a protocol, and note what it lacks."""
        try:
            lacking = protocol.missing_targets(DATASETS[name].info)
        except FOREIGN:  # its cell says so
            return True
        if lacking:
            self.notes.skip(lacking)
        return not lacking

    def _ready(self, protocol: Protocol[Any], name: str) -> bool:
        """Return whether a dataset that nobody asked for can be read here, and note why not."""
        try:
            info = DATASETS[name].info
            if info.variant_of or info.embedded or protocol.missing_targets(info):
                return False
            splits = splits_of(protocol, name, self.request.train_dataset)
            data = self.splits.data(splits)
            if isinstance(self.splits.data(splits[-1:]), MissingError):
                self.notes.absent[name] = None
            elif isinstance(data, DensebenchError):
                self.notes.skip(str(data))
            return isinstance(data, Data)
        except FOREIGN as error:  # of a plugin
            self.notes.skip(str(to_user_error(error)))
            return False


def with_seconds(jobs: Sequence[Job], device: str, cached: bool) -> list[Planned]:
    """Return jobs with what each takes on this machine, measured where they are more than small."""
    works = [Workload(job.model, job.info, job.dataset, job.train_dataset, job.estimate) for job in jobs]
    flops = flops_of(works, cached)
    rate = SLOW if sum(flops) < SMALL else measured_flops(device)
    return [Planned(job, each / rate) for job, each in zip(jobs, flops, strict=True)]


def flops_of(cells: Iterable[Workload], cached: bool = True) -> list[float]:
    """Return the arithmetic of each cell; a feature pass is counted once where the cache keeps it for later ones."""
    done: set[Any] = set()
    return [_flops(work, done if cached else set()) for work in cells]


def _flops(work: Workload, done: set[Any]) -> float:
    """Return the arithmetic of a cell: search and backbone, without the feature passes in `done`, which it adds to."""
    flops = work.estimate.search_flops
    for split, (spec, n_images) in work.estimate.features.items():
        height, width = spec.grid(work.info)
        data = (work.train_dataset if split == "train" else "") or work.dataset
        once = (work.model, data, split, spec, n_images)
        if split not in work.estimate.uncached:
            if once in done:
                continue
            done.add(once)
        flops += n_images * work.info.token_flops(height * width + work.info.prefix)
    return flops


def measured_flops(device: str) -> float:
    """Return what this machine does in float32, in operations per second: a third of a large product's rate."""
    import torch

    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        (a @ a).sum().item()
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates) / 3


def plan_lines(plan: Sequence[Planned]) -> list[str]:
    """Return a plan as text: a line per job, and the total."""
    models, datasets = ({getattr(job, name) for job, _ in plan} for name in ("model", "data_name"))
    total = f"{count(len(models), 'model')}, {count(len(datasets), 'dataset')}"
    seconds = duration(sum(seconds for _, seconds in plan))
    return [*map(_plan_line, plan), f"total: {count(len(plan), 'cell')} ({total}), about {seconds}"]


def count(n: int, what: str) -> str:
    """Return "1 cell", "2 cells"."""
    return f"{n} {what}{'s' * (n != 1)}"


def _plan_line(planned: Planned) -> str:
    """Return one line of a plan: what a job will read, hold and take."""
    job, seconds = planned
    reads = ", ".join(
        f"{n} {split} images at {spec.size[0]}x{spec.size[1]}" for split, (spec, n) in job.estimate.features.items()
    )
    return (
        f"  {job} ({job.setting}): {reads}; cache {job.cache_bytes / 1e9:.2f} GB, "
        f"memory {job.estimate.bank_bytes / 1e9:.2f} GB, about {duration(seconds)}"
    )
