"""The grid model x protocol x dataset: plan it, estimate it, run what is missing, go on after anything.

A cell that is finished has a record; a cell without one is run. So a second run does nothing, a killed run goes on,
and what fails costs only its own cell.
"""

from __future__ import annotations

import datetime
import itertools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from densebench.core.config import score_hash
from densebench.core.environment import PeakMemory, environment, pick_device
from densebench.core.errors import DensebenchError, ModelError, StorageError, UsageError
from densebench.core.locks import Timeout
from densebench.core.paths import cache_dir, sweep
from densebench.core.progress import Progress
from densebench.datasets import DATASETS
from densebench.datasets.dataset import DenseDataset, data_root
from densebench.datasets.layout import MissingError
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource, Precision
from densebench.model_zoo import ModelSpec, load_model, parse_models
from densebench.model_zoo.spec import same_name
from densebench.protocols import PROTOCOLS
from densebench.protocols.protocol import Context, Data, Measurement, Protocol
from densebench.results.schema import Cost, DataRecord, ModelRecord, ProtocolRecord, Record, SplitRecord
from densebench.results.store import ResultStore
from densebench.runner.departures import departures
from densebench.runner.failures import FOREIGN, as_known, finite
from densebench.runner.plan import Cell, check_fits, count_flops, estimate_seconds, finished_line
from densebench.runner.request import Request, checked, no_such_preset
from densebench.runner.splits import Splits, check_same_classes

POLL = 1.0
"""Seconds between looks at cells that other processes compute."""


@dataclass
class Outcome:
    """What became of a request."""

    done: list[Record] = field(default_factory=list)
    """Records that this run made."""
    kept: list[Record] = field(default_factory=list)
    """Records that were there before."""
    planned: list[Cell] = field(default_factory=list)
    """Cells that a dry run would have run."""
    failed: list[tuple[str, DensebenchError]] = field(default_factory=list)
    """A cell, or the model that all its cells lack, and why; the error's `trace` is its traceback."""
    skipped: list[str] = field(default_factory=list)
    """What `all` left out, each with the command that would make it ready."""

    @property
    def records(self) -> list[Record]:
        """All records of the request."""
        return [*self.kept, *self.done]


def run(
    request: Request,
    progress: Progress | None = None,
    dry_run: bool = False,
    agree: Callable[[Sequence[Cell]], None] | None = None,
    finished: Callable[[Record], None] | None = None,
) -> Outcome:
    """Run every cell of a request that has no record yet; `dry_run` only plans and estimates.

    `agree` is shown the plan of a request without datasets before it begins, and raises where it shall not. `finished`
    is told of each new record as soon as it is written. Raises UsageError for a request that cannot mean anything;
    everything else fails its own cell only.
    """
    return _Run(request, progress or Progress(), dry_run, finished).go(agree)


class _Run:
    """One request on its way: models and data are looked at first, then every cell is planned, then they are run."""

    def __init__(
        self,
        request: Request,
        progress: Progress,
        dry_run: bool,
        finished: Callable[[Record], None] | None,
    ) -> None:
        self.request = request = checked(request)
        self.progress = progress
        self.dry_run = dry_run
        self.finished = finished or (lambda record: None)
        self.store = ResultStore(request.out)
        self.outcome = Outcome()
        self.device = pick_device(request.device)
        self.precision: Precision = "float32" if request.precision == "auto" else request.precision
        limit = int(request.cache_size * 1e9)
        self.cache = FeatureCache(cache_dir() / "features", limit, progress) if limit > 0 else None
        self.splits = Splits(request.data_root, request.limit, request.skip_corrupt, progress)
        self._absent: dict[str, None] = {}
        self._source: tuple[ModelSpec, FeatureSource | DensebenchError] | None = None
        self._called: dict[str, str] = {}
        self._refused: set[Path] = set()

    def go(self, agree: Callable[[Sequence[Cell]], None] | None) -> Outcome:
        sweep(cache_dir())
        sweep(self.store.root, below=False)  # which may hold other things of the user's
        sweep(self.store.root / "records")
        protocols = self._protocols()
        specs = parse_models(self.request.models, self.request.weights)
        cells = [cell for spec in specs for cell in self._plan(spec, protocols)]
        if self._absent:
            self.outcome.skipped.insert(0, self._absent_line())
        if not (cells or self.outcome.records or self.outcome.failed):
            raise UsageError("; ".join(["nothing can be measured", *self.outcome.skipped]) + ".")
        estimate_seconds(cells, self.device)
        if self.dry_run:
            self.outcome.planned = cells
            return self.outcome
        if agree is not None and cells and not self.request.datasets:
            agree(cells)
        if cells:
            for what, error in self.outcome.failed:
                self.progress.say(f"{what}: {error}")
        self._work(cells)
        return self.outcome

    # what there is to do

    def _protocols(self) -> list[tuple[Protocol[Any], Any]]:
        """Return the protocols asked for, each with its config."""
        found, known = [], set[str]()
        names = PROTOCOLS.names() if self.request.everything else PROTOCOLS.match(self.request.protocols)
        for name in names:
            try:
                protocol = PROTOCOLS[name]()
            except FOREIGN as error:
                if not self.request.everything:
                    raise as_known(error) from None
                self._skip(f"{name}: {as_known(error)}")
                continue
            known.update(protocol.presets)
            if self.request.everything and self.request.preset and self.request.preset not in protocol.presets:
                self._skip(f"{name}: has no preset {self.request.preset!r}")
                continue
            found.append((protocol, self._configured(protocol, self.request.preset)))
        if not found:
            raise no_such_preset(self.request.preset, known)
        return found

    def _configured(self, protocol: Protocol[Any], preset: str) -> Any:
        return protocol.configure(preset or next(iter(protocol.presets)), self.request.settings.get(protocol.name))

    def _seeds(self, protocol: Protocol[Any]) -> Sequence[int]:
        """Return the seeds that a protocol is run with: one where they change nothing."""
        if protocol.seeded or len(self.request.seeds) < 2:
            return self.request.seeds
        self._skip(f"{protocol.name} with more than one --seed: it changes nothing there, seeds are among its settings")
        return self.request.seeds[:1]

    def _plan(self, spec: ModelSpec, protocols: Sequence[tuple[Protocol[Any], Any]]) -> list[Cell]:
        """Return the cells of a model that have no record yet; what cannot be run is noted as skipped or failed.

        Every model is built for that; the first that has cells is held, the others are built again when they are run.
        """
        try:
            source = self._build(spec)
            name, digest = source.info.name, source.weights_digest
            if self._called.setdefault(name, digest) != digest:
                raise same_name(name)
            for line in source.info.notes.get("loading", ()):
                self.progress.say(line)
        except FOREIGN as error:
            self.outcome.failed.append((spec.shown, as_known(error)))
            for protocol, _ in protocols:
                self._datasets(protocol)  # notes what is not here
            return []
        cells: list[Cell] = []
        passes: set[Any] = set()
        for protocol, config in protocols:
            try:
                lacking = protocol.unfit(config, source.info)
            except FOREIGN as error:
                self.outcome.failed.append((f"{name} / {protocol.name}", as_known(error)))
                continue
            if lacking and self.request.everything:
                self._skip(lacking)
                continue
            for dataset, seed in itertools.product(self._datasets(protocol), self._seeds(protocol)):
                cell = Cell(spec, protocol, dataset, self.request.preset, seed=seed, model=name)
                try:
                    if lacking:
                        raise UsageError(lacking)
                    self._prepare(cell, source)
                    if not self._has_record(cell, source):
                        count_flops(cell, source.info, passes if self.cache else set())
                        cells.append(cell)
                except FOREIGN as error:
                    self._fail(cell, error, source)
        if cells and self._source is None:
            self._source = spec, source
        return cells

    def _cell_splits(self, protocol: Protocol[Any], dataset: str) -> list[tuple[str, str]]:
        """Return the (dataset, split) pairs that a cell reads: training images, if any, and validation images."""
        val = (dataset, DATASETS[dataset].info.val)
        trained = self.request.train_dataset or dataset
        return [(trained, DATASETS[trained].info.train), val] if protocol.reads_train else [val]

    def _datasets(self, protocol: Protocol[Any]) -> list[str]:
        """Return the datasets asked for, or all that are ready and have the ground truth the protocol needs.

        With `all` protocols, those that a dataset asked for cannot serve are skipped; a protocol asked for is refused.
        """
        if self.request.datasets:
            asked = list(self.request.datasets)
            return [name for name in asked if self._serves(protocol, name)] if self.request.everything else asked
        ready = [name for name in DATASETS.names() if self._ready(protocol, name)]
        return ready or [name for name in ("scenes",) if not protocol.unserved(DATASETS[name].info)]

    def _serves(self, protocol: Protocol[Any], name: str) -> bool:
        """Return whether a dataset has the ground truth of a protocol, and note what it lacks."""
        try:
            lacking = protocol.unserved(DATASETS[name].info)
        except FOREIGN:  # its cell says so
            return True
        if lacking:
            self._skip(lacking)
        return not lacking

    def _ready(self, protocol: Protocol[Any], name: str) -> bool:
        """Return whether a dataset that nobody asked for can be read here, and note why not."""
        try:
            info = DATASETS[name].info
            if info.variant_of or info.embedded or protocol.unserved(info):
                return False
            splits = self._cell_splits(protocol, name)
            data = self.splits.data(splits)
            if isinstance(self.splits.data(splits[-1:]), MissingError):
                self._absent[name] = None
            elif isinstance(data, DensebenchError):
                self._skip(str(data))
            return isinstance(data, Data)
        except FOREIGN as error:  # of a plugin
            self._skip(str(as_known(error)))
            return False

    def _absent_line(self) -> str:
        root = data_root(self.request.data_root)
        where = f"below {root}" if root else "no data root is given: --data-root DIR or DENSEBENCH_DATA"
        one = len(self._absent) == 1
        return (
            f"{len(self._absent)} dataset{' is' if one else 's are'} not here ({where}): {', '.join(self._absent)}; "
            "`densebench data where NAME` says how to get one"
        )

    def _prepare(self, cell: Cell, source: FeatureSource) -> None:
        """Fill in what a cell will read and take; raises where it cannot be run."""
        trained, _ = self._cell_splits(cell.protocol, cell.dataset)[0]
        cell.train_dataset = "" if trained == cell.dataset else trained
        for name in filter(None, (cell.dataset, cell.train_dataset)):
            lacking = cell.protocol.unserved(DATASETS[name].info)
            if lacking:
                raise UsageError(f"{lacking}. Run `densebench list datasets` to see what there is.")
        data = self._data(cell)
        if "mask" in cell.protocol.needs:
            check_same_classes(data)
        cell.preset = cell.preset or cell.protocol.default_preset(data.info)
        asked = self._configured(cell.protocol, cell.preset)
        cell.config = cell.protocol.resolve(asked, source.info, data.info)
        cell.settings = self._departures(cell, asked, source, data)
        cell.estimate = cell.protocol.estimate(cell.config, source.info, data)
        passes = [f for split, f in cell.estimate.features.items() if split not in cell.estimate.uncached]
        cell.cache_bytes = sum(spec.nbytes(source.info, n, source.dtype) for spec, n in passes)

    def _departures(self, cell: Cell, asked: Any, source: FeatureSource, data: Data) -> dict[str, Any]:
        """Return what sets the cell apart from its preset, as JSON holds it."""
        plain = _plain(asked)
        found = {name: plain[name] for name in departures(cell.protocol, cell.preset, asked, source.info, data.info)}
        for name, value, default in (
            ("precision", self.precision, "float32"),
            ("feature_dtype", self.request.feature_dtype, "float16"),
        ):
            if value != default:
                found[name] = value
        return found

    def _data(self, cell: Cell) -> Data:
        data = self.splits.data(self._cell_splits(cell.protocol, cell.dataset))
        if isinstance(data, DensebenchError):
            raise data
        return data

    def _place(self, cell: Cell, source: FeatureSource) -> None:
        """Fill in the hash of a cell, which reads all its files once, and where its record is or will be."""
        cell.score_hash = self._hash(cell, source, self._data(cell))
        cell.path = self.store.path(
            dataset=cell.data_name,
            protocol=cell.protocol.name,
            model=cell.model,
            preset=cell.preset,
            score_hash=cell.score_hash,
        )

    def _has_record(self, cell: Cell, source: FeatureSource) -> bool:
        """Return whether a cell has a record already; files are only read where one of its name is there."""
        if self.request.overwrite or not self.store.has(
            dataset=cell.data_name, protocol=cell.protocol.name, model=cell.model, preset=cell.preset
        ):
            return False
        self._place(cell, source)
        if self._kept(cell):
            return True
        cell.score_hash = ""  # of these weights; what draws its weights anew will have others when it is run
        return False

    # doing it

    def _work(self, cells: Sequence[Cell]) -> None:
        """Run cells, the next free one first; those that another process is at come last."""
        waiting, spent, foreseen = [], 0.0, 0.0
        for index, cell in enumerate(cells):
            pace = spent / foreseen if foreseen else 1.0  # estimates are rough, and rough in one direction
            later = pace * sum(c.seconds for c in cells[index + 1 :])
            start, before = time.perf_counter(), len(self.outcome.done)
            with self.progress.cell(str(cell), index + 1, len(cells), pace * cell.seconds, later):
                if not self._attempt(cell):
                    self.progress.say(f"{cell}: another process is at it; the next free one first.")
                    waiting.append(cell)
            if len(self.outcome.done) > before:
                spent, foreseen = spent + time.perf_counter() - start, foreseen + cell.seconds
        if waiting:
            names = ", ".join(map(str, waiting))
            self.progress.say(f"waiting for what another process is at: {names}.")
            with self.progress.cell(f"waiting for another process: {names}", len(cells), len(cells), 0, 0):
                while waiting := [cell for cell in waiting if not self._attempt(cell)]:
                    time.sleep(POLL)

    def _attempt(self, cell: Cell) -> bool:
        """Run a cell, or keep the record that another process made; return False where one is at it."""
        source = None
        try:
            if not cell.score_hash:
                self._place(cell, source := self._built(cell.spec))
            try:
                held = self.store.lock(cell.path).acquire(blocking=False)
            except Timeout:
                return False
            with held:
                if not self._kept(cell):
                    self._run(cell, source := self._built(cell.spec))
        except FOREIGN as error:
            self._fail(cell, error, source)
            self.progress.say(f"{cell}: {self.outcome.failed[-1][1]}")
        return True

    def _run(self, cell: Cell, source: FeatureSource) -> None:
        check_fits(cell)
        workspace = cache_dir() / "cells" / cell.score_hash
        if self.request.overwrite:
            shutil.rmtree(workspace, ignore_errors=True)
        record, artifacts = self._measure(cell, source, self._data(cell), workspace)
        self.store.write(cell.path, record, artifacts)
        shutil.rmtree(workspace, ignore_errors=True)
        self.outcome.done.append(record)
        self.progress.say(finished_line(cell, record))
        self.finished(record)

    def _fail(self, cell: Cell, error: BaseException, source: FeatureSource | None) -> None:
        backbone = source.backbone if source else None
        self.outcome.failed.append((str(cell), as_known(error, cell.spec.text, backbone, cell.protocol.shrink_hint)))

    def _skip(self, line: str) -> None:
        if line not in self.outcome.skipped:
            self.outcome.skipped.append(line)

    def _kept(self, cell: Cell) -> bool:
        """Whether the cell's record is there; one that cannot be read, or is another cell's, is said and run again."""
        if self.request.overwrite or not cell.path.exists():
            return False
        try:
            record = self.store.read(cell.path)
            limit = self.splits.cut_to(self._cell_splits(cell.protocol, cell.dataset))
            if self.store.place(record) != cell.path or record.data.limit != limit:
                raise StorageError(f"{cell.path} is the record of another cell, {record.title}.")
        except StorageError as error:
            if cell.path not in self._refused:
                self.progress.say(f"{error} It is run again.")
            self._refused.add(cell.path)
            return False
        self.outcome.kept.append(record)
        return True

    def _built(self, spec: ModelSpec) -> FeatureSource:
        """Return the source of a model; the last one is held, whether it could be built or not."""
        if self._source is None or self._source[0] != spec:
            self._source = None  # room for the next
            try:
                self._source = spec, self._build(spec)
            except FOREIGN as error:
                self._source = spec, as_known(error)
        found = self._source[1]
        if isinstance(found, DensebenchError):
            raise found
        return found

    def _build(self, spec: ModelSpec) -> FeatureSource:
        try:
            return FeatureSource(
                load_model(spec),
                cache=self.cache,
                progress=self.progress,
                device=self.device,
                precision=self.precision,
                dtype=self.request.feature_dtype,
                batch_size=self.request.batch_size,
                workers=self.request.workers,
            )
        except (ImportError, RuntimeError) as error:
            raise ModelError(f"{spec.text} cannot be built: {error}") from error

    def _hash(self, cell: Cell, source: FeatureSource, data: Data) -> str:
        """Return the hash of everything that can change the score, and of nothing else."""
        info = source.info
        return score_hash(
            {
                "weights": source.weights_digest,
                "geometry": [info.patch, info.prefix, info.depth, info.mean, info.std],
                "precision": [self.precision, self.request.feature_dtype],
                "data": [data.train.digest(), data.val.digest()],
                "protocol": [cell.protocol.name, cell.protocol.version],
                "config": cell.config,
                "seed": cell.seed,
                **({"model": source.backbone.identity} if cell.spec.label else {}),  # a name may change its network
            }
        )

    def _measure(
        self, cell: Cell, source: FeatureSource, data: Data, workspace: Path
    ) -> tuple[Record, Mapping[str, bytes]]:
        self.progress.say(f"{cell} ({cell.setting})")
        context = Context(source, self.progress, cell.seed, workspace)
        memory = PeakMemory()
        memory.reset()
        start = time.perf_counter()
        notes = self.splits.look(data, cell.protocol.needs, cell.protocol.reads_train)
        measurement = finite(cell.protocol.run(cell.config, source.backbone, data, context), data)
        measurement = replace(measurement, notes=(*measurement.notes, *notes))
        seconds = {**context.seconds, "total": time.perf_counter() - start}
        peak, gpu = memory.read()
        assert cell.estimate is not None
        cost = Cost(
            seconds={k: round(v, 3) for k, v in seconds.items()},
            peak_memory_bytes=peak,
            peak_gpu_bytes=gpu,
            bank_bytes=cell.estimate.bank_bytes,
        )
        artifacts = {f"{cell.path.stem}/{name}": content for name, content in measurement.artifacts.items()}
        return self._record(cell, source, data, measurement, tuple(artifacts), cost), artifacts

    def _record(
        self,
        cell: Cell,
        source: FeatureSource,
        data: Data,
        measurement: Measurement,
        artifacts: tuple[str, ...],
        cost: Cost,
    ) -> Record:
        info = source.info
        splits = self._cell_splits(cell.protocol, cell.dataset)
        assert cell.estimate is not None
        return Record(
            score_hash=cell.score_hash,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=cell.seed,
            model=ModelRecord(
                name=cell.model,
                weights_sha256=source.weights_digest,
                patch=info.patch,
                prefix=info.prefix,
                width=info.width,
                depth=info.depth,
                heads=info.heads,
                mean=info.mean,
                std=info.std,
                licence=info.licence,
                citation=info.citation,
            ),
            data=DataRecord(
                name=cell.data_name,
                n_classes=data.info.n_classes,
                ignored=data.info.ignored,
                train=_split_record(data.train) if cell.protocol.reads_train else None,
                val=_split_record(data.val),
                limit=self.splits.cut_to(splits),
                skipped=self.splits.left_out(splits),
            ),
            protocol=ProtocolRecord(
                name=cell.protocol.name,
                version=cell.protocol.version,
                preset=cell.preset,
                source=cell.protocol.presets[cell.preset].source,
                config=_plain(cell.config),
                settings=dict(cell.settings),
            ),
            features={
                "precision": self.precision,
                "dtype": self.request.feature_dtype,
                **{split: _plain(spec) for split, (spec, _) in cell.estimate.features.items()},
            },
            metrics=measurement.metrics,
            facts=dict(measurement.facts),
            notes=(
                *measurement.notes,
                *self.splits.notes(self._cell_splits(cell.protocol, cell.dataset)),
                *info.notes.get("loading", ()),
            ),
            artifacts=artifacts,
            environment=environment(self.device),
            cost=cost,
        )


def _split_record(data: DenseDataset) -> SplitRecord:
    published = data.info.splits.get(data.split, 0)
    return SplitRecord(split=data.split, n_images=len(data), digest=data.digest(), n_published=published)


def _plain(config: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(type(config)).dump_python(config, mode="json")
