"""The grid model x protocol x dataset: plan it, estimate it, run what is missing, go on after anything.

A cell that is finished has a record; a cell without one is run. So a second run does nothing, a killed run goes on,
and what fails costs only its own cell.
"""

from __future__ import annotations

import datetime
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from densebench.config import score_hash
from densebench.datasets import DATASETS, resolve_dataset
from densebench.datasets.dataset import DenseDataset
from densebench.environment import PeakMemory, environment, pick_device
from densebench.errors import DensebenchError, ModelError, StorageError, UsageError
from densebench.failures import as_known, finite
from densebench.feature_cache import FeatureCache
from densebench.features import FeatureSource, Precision
from densebench.model_zoo import ModelSpec, load_model, parse_models
from densebench.model_zoo.spec import same_name
from densebench.paths import cache_dir
from densebench.plan import Cell, check_fits, estimated_seconds, measured_flops
from densebench.progress import Progress
from densebench.protocols import PROTOCOLS
from densebench.protocols.protocol import Context, Data, Measurement, Protocol
from densebench.results import (
    Cost,
    DataRecord,
    ModelRecord,
    ProtocolRecord,
    Record,
    ResultStore,
    SplitRecord,
)
from densebench.splits import Splits, check_same_classes


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run, and how. Everything below `out` cannot change a score except precision, dtype, limit and seed."""

    models: Sequence[str]
    protocols: Sequence[str] = ("all",)
    datasets: Sequence[str] = ()
    """Empty: every dataset that is ready on this machine, `scenes` when none is."""
    train_dataset: str = ""
    """Take the training images (memory, heads) from this dataset instead: domain shift."""
    preset: str = "paper"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Overrides per protocol, such as {"hummingbird": {"neighbours": 50}}."""
    weights: str | Path | None = None
    data_root: str | Path | None = None
    limit: int | None = None
    seed: int = 0
    skip_corrupt: bool = False
    out: str | Path = "results"
    overwrite: bool = False
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    feature_dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = 16
    workers: int = 2
    cache_size: float = 20.0
    """Gigabytes of features kept on disk; 0 keeps none."""


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
    skipped: list[str] = field(default_factory=list)
    """What `all` left out, each with the command that would make it ready."""

    @property
    def records(self) -> list[Record]:
        """All records of the request."""
        return [*self.kept, *self.done]


def run(request: Request, progress: Progress | None = None, dry_run: bool = False) -> Outcome:
    """Run every cell of a request that has no record yet; `dry_run` only plans and estimates.

    Raises UsageError for a request that cannot mean anything; everything else fails its own cell only.
    """
    return _Run(request, progress or Progress(), dry_run).go()


class _Run:
    """One request on its way."""

    def __init__(self, request: Request, progress: Progress, dry_run: bool) -> None:
        _check_numbers(request)
        self.request = request = replace(
            request,
            datasets=[resolve_dataset(name) for name in request.datasets],
            train_dataset=resolve_dataset(request.train_dataset),
        )
        self.progress = progress
        self.dry_run = dry_run
        self.store = ResultStore(request.out)
        self.outcome = Outcome()
        self.device = pick_device(request.device)
        self.precision: Precision = "float32" if request.precision == "auto" else request.precision
        limit = int(request.cache_size * 1e9)
        self.cache = FeatureCache(cache_dir() / "features", limit, progress) if limit > 0 else None
        self.splits = Splits(request.data_root, request.limit, request.skip_corrupt, progress)
        self._rate = 0.0

    def go(self) -> Outcome:
        specs = parse_models(self.request.models, self.request.weights)
        cells = list(self._cells(specs))
        if not cells:
            raise UsageError("; ".join(["nothing can be measured", *self.outcome.skipped]) + ".")
        called: dict[str, str] = {}  # digests by name
        for spec in specs:
            mine = [cell for cell in cells if cell.spec == spec]
            try:
                source = self._source(spec)
                if called.setdefault(source.info.name, source.weights_digest) != source.weights_digest:
                    raise same_name(source.info.name)
            except DensebenchError as error:
                if isinstance(error, UsageError) and not self.outcome.records:
                    raise
                self.outcome.failed += [(str(cell), error) for cell in mine]
                continue
            for cell in mine:
                cell.model = source.info.name
                lacking = cell.protocol.unfit(cell.config, source.info)
                if lacking and self._everything:
                    if lacking not in self.outcome.skipped:
                        self.outcome.skipped.append(lacking)
                    continue
                try:
                    if lacking:
                        raise UsageError(lacking)
                    self._cell(cell, source)
                except (Exception, SystemExit) as error:
                    known = as_known(error, cell, source.backbone)
                    if known is None:
                        raise
                    self.progress.say(f"{cell}: {known}")
                    self.outcome.failed.append((str(cell), known))
        return self.outcome

    @property
    def _everything(self) -> bool:
        """Whether all protocols are asked for: what cannot be run is then left out, in words, and is no failure."""
        return list(self.request.protocols) == ["all"]

    def _cells(self, specs: Sequence[ModelSpec]) -> Iterator[Cell]:
        names = PROTOCOLS.names() if self._everything else PROTOCOLS.match(self.request.protocols)
        unknown = set(self.request.settings) - set(PROTOCOLS.names())
        for name in unknown:
            PROTOCOLS[name]  # raises with the nearest names
        pairs = []
        for name in names:
            protocol = PROTOCOLS[name]()
            if self._everything and self.request.preset not in protocol.presets:
                self.outcome.skipped.append(f"{name}: has no preset {self.request.preset!r}")
                continue
            config = protocol.configure(self.request.preset, self.request.settings.get(name))
            pairs.append((protocol, config))
        if not pairs:
            known = sorted({preset for name in names for preset in PROTOCOLS[name].presets})
            raise UsageError(f"no protocol has a preset {self.request.preset!r}; there are {', '.join(known)}.")
        for spec in specs:
            for protocol, config in pairs:
                for dataset in self._datasets(protocol):
                    trained, _ = self._cell_splits(protocol, dataset)[0]
                    train = "" if trained == dataset else trained
                    yield Cell(spec, protocol, dataset, self.request.preset, config, train)

    def _cell_splits(self, protocol: Protocol[Any], dataset: str) -> list[tuple[str, str]]:
        """Return the (dataset, split) pairs that a cell reads: training images, if any, and validation images."""
        val = (dataset, DATASETS[dataset].info.val)
        trained = self.request.train_dataset or dataset
        return [(trained, DATASETS[trained].info.train), val] if protocol.reads_train else [val]

    def _datasets(self, protocol: Protocol[Any]) -> list[str]:
        """Return the datasets asked for, or all that are ready and have the ground truth the protocol needs.

        With `all` protocols, those that a dataset asked for cannot serve are skipped; a protocol asked for is refused.
        """
        suited = [e.name for e in DATASETS if not protocol.unserved(DATASETS[e.name].info)]
        if self.request.datasets:
            asked = DATASETS.match(self.request.datasets)
            if not self._everything:
                return asked
            self.outcome.skipped += [protocol.unserved(DATASETS[name].info) for name in asked if name not in suited]
            return [name for name in asked if name in suited]
        ready = []
        for name in (name for name in suited if not DATASETS[name].info.variant_of):
            found = None if DATASETS[name].info.embedded else self.splits.data(self._cell_splits(protocol, name))
            if isinstance(found, Data):
                ready.append(name)
            elif found is not None and (line := str(found)) not in self.outcome.skipped:
                self.outcome.skipped.append(line)
        return ready or [name for name in suited if name == "scenes"]

    def _source(self, spec: ModelSpec) -> FeatureSource:
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

    def _cell(self, cell: Cell, source: FeatureSource) -> None:
        for name in filter(None, (cell.dataset, cell.train_dataset)):
            lacking = cell.protocol.unserved(DATASETS[name].info)
            if lacking:
                raise UsageError(f"{lacking}. Run `densebench list datasets` to see what there is.")
        data = self.splits.data(self._cell_splits(cell.protocol, cell.dataset))
        if isinstance(data, DensebenchError):
            raise data
        if "mask" in cell.protocol.needs:
            check_same_classes(data)
        cell.config = cell.protocol.resolve(cell.config, source.info, data.info)
        cell.estimate = cell.protocol.estimate(cell.config, source.info, data)
        cell.score_hash = self._hash(cell, source, data)
        cell.path = self.store.path(
            dataset=cell.data_name,
            protocol=cell.protocol.name,
            model=cell.model,
            preset=cell.preset,
            score_hash=cell.score_hash,
        )
        if self._kept(cell):
            return
        if self.dry_run:
            self._rate = self._rate or measured_flops(self.device)
            cell.seconds = estimated_seconds(cell.estimate, source.info, self._rate)
            passes = [f for split, f in cell.estimate.features.items() if split not in cell.estimate.uncached]
            cell.cache_bytes = sum(spec.nbytes(source.info, n, source.dtype) for spec, n in passes)
            self.outcome.planned.append(cell)
            return
        check_fits(cell)
        with self.store.lock(cell.path):
            if self._kept(cell):  # another process finished it while this one waited
                return
            workspace = cache_dir() / "cells" / cell.score_hash
            if self.request.overwrite:
                shutil.rmtree(workspace, ignore_errors=True)
            record, artifacts = self._measure(cell, source, data, workspace)
            self.store.write(cell.path, record, artifacts)
            shutil.rmtree(workspace, ignore_errors=True)
        self.outcome.done.append(record)

    def _kept(self, cell: Cell) -> bool:
        if self.request.overwrite or not cell.path.exists():
            return False
        try:
            self.outcome.kept.append(self.store.read(cell.path))
        except StorageError as error:
            self.progress.say(f"{error} It is run again.")
            return False
        return True

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
                "seed": self.request.seed,
                **({"model": source.backbone.identity} if cell.spec.label else {}),  # a name may change its network
            }
        )

    def _measure(
        self, cell: Cell, source: FeatureSource, data: Data, workspace: Path
    ) -> tuple[Record, Mapping[str, bytes]]:
        self.progress.say(f"{cell} ({cell.preset})")
        context = Context(source, self.progress, self.request.seed, workspace)
        memory = PeakMemory()
        memory.reset()
        start = time.perf_counter()
        measurement = finite(cell.protocol.run(cell.config, source.backbone, data, context), data, self.progress)
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
        assert cell.estimate is not None
        return Record(
            score_hash=cell.score_hash,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=self.request.seed,
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
                limit=self.request.limit,
                skipped=self.splits.left_out(self._cell_splits(cell.protocol, cell.dataset)),
            ),
            protocol=ProtocolRecord(
                name=cell.protocol.name,
                version=cell.protocol.version,
                preset=cell.preset,
                source=cell.protocol.presets[cell.preset].source,
                config=_plain(cell.config),
            ),
            features={
                "precision": self.precision,
                "dtype": self.request.feature_dtype,
                **{split: _plain(spec) for split, (spec, _) in cell.estimate.features.items()},
            },
            metrics=measurement.metrics,
            facts=dict(measurement.facts),
            notes=measurement.notes,
            artifacts=artifacts,
            environment=environment(self.device),
            cost=cost,
        )


def _check_numbers(request: Request) -> None:
    """Raise UsageError for numbers of a request that mean nothing."""
    for name, value, least in (
        ("limit", request.limit, 1),
        ("seed", request.seed, 0),
        ("batch-size", request.batch_size, 1),
        ("workers", request.workers, 0),
        ("cache-size", request.cache_size, 0),
    ):
        if value is not None and not least <= value < math.inf:
            raise UsageError(f"--{name} {value}: expected at least {least}.")


def _split_record(data: DenseDataset) -> SplitRecord:
    return SplitRecord(split=data.split, n_images=len(data), digest=data.digest())


def _plain(config: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(type(config)).dump_python(config, mode="json")
