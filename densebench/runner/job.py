"""A job: one measurement to make, whole before it runs, and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from densebench.core.config import as_json, score_hash
from densebench.core.environment import available_memory
from densebench.core.errors import DensebenchError, UsageError
from densebench.datasets.names import DATASETS
from densebench.features.source import FeatureSource
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.backbone import BackboneInfo
from densebench.protocols.protocol import Data, Estimate, Protocol
from densebench.results.schema import setting_label
from densebench.runner.departures import departures
from densebench.runner.request import Request
from densebench.runner.splits import Split, Splits, check_same_classes


@dataclass(frozen=True, kw_only=True)
class Job:
    """Model x protocol x data x config x seed, with what it will need."""

    spec: ModelSpec
    model: str
    """What tables call it."""
    info: BackboneInfo
    protocol: Protocol[Any]
    dataset: str
    train_dataset: str
    """Where the training images come from, if not from `dataset` (domain shift)."""
    preset: str
    config: Any
    """Resolved: nothing that depends on model, data or machine is open."""
    settings: Mapping[str, Any]
    """What departs from the preset, as JSON holds it."""
    seed: int
    splits: tuple[Split, ...]
    """Training images, if any are read, and validation images."""
    data: Data
    estimate: Estimate
    cache_bytes: int
    weights: str
    """Digest."""
    state: Mapping[str, Any]
    """What else can change the score: the adapter's own identity, geometry and precision."""

    @cached_property
    def score_hash(self) -> str:
        """The hash of everything that can change the score, and of nothing else; reads all files once."""
        return score_hash(
            {
                "weights": self.weights,
                **self.state,
                "data": [self.data.train.digest(), self.data.val.digest()],
                "protocol": [self.protocol.name, self.protocol.version],
                "config": self.config,
                "seed": self.seed,
            }
        )

    @property
    def data_name(self) -> str:
        """The dataset, with the one trained on before it where that is another."""
        return f"{self.train_dataset}->{self.dataset}" if self.train_dataset else self.dataset

    @property
    def place(self) -> dict[str, str]:
        """Where its record belongs, but for the hash."""
        return {
            "dataset": self.data_name,
            "protocol": self.protocol.name,
            "model": self.model,
            "preset": self.preset,
        }

    @property
    def setting(self) -> str:
        """The preset with what departs from it."""
        return setting_label(self.preset, self.settings)

    def __str__(self) -> str:
        return cell_name(self.model, self.protocol.name, self.data_name, self.seed)


def cell_name(model: str, protocol: str, dataset: str, seed: int) -> str:
    """Return what messages call a cell of the grid, before it is known whether it can be run."""
    return f"{model} / {protocol} / {dataset}" + f" / seed {seed}" * bool(seed)


def splits_of(protocol: Protocol[Any], dataset: str, train_dataset: str = "") -> tuple[Split, ...]:
    """Return the (dataset, split) pairs that a cell reads: training images, if any, and validation images."""
    val = (dataset, DATASETS[dataset].info.val)
    trained = train_dataset or dataset
    return ((trained, DATASETS[trained].info.train), val) if protocol.reads_train else (val,)


def make_job(
    request: Request, spec: ModelSpec, source: FeatureSource, protocol: Protocol[Any], dataset: str, seed: int,
    splits: Splits,
) -> Job:  # fmt: skip
    """Return the job of a cell; raises UsageError for one that means nothing, DensebenchError for data unreadable."""
    asked_splits = splits_of(protocol, dataset, request.train_dataset)
    trained = asked_splits[0][0]
    for name in dict.fromkeys((dataset, trained)):
        lacking = protocol.missing_targets(DATASETS[name].info)
        if lacking:
            raise UsageError(f"{lacking}. Run `densebench list datasets` to see what there is.")
    data = splits.data(asked_splits)
    if isinstance(data, DensebenchError):
        raise data
    if "mask" in protocol.needs:
        check_same_classes(data)
    info = source.info
    preset = request.preset or protocol.default_preset(data.info)
    asked = protocol.configure(preset, request.settings.get(protocol.name))
    config = protocol.resolve(asked, info, data.info)
    estimate = protocol.estimate(config, info, data)
    examples = min(request.pictures, len(data.val)) * estimate.picture_bytes
    estimate = replace(estimate, bank_bytes=estimate.bank_bytes + examples)
    passes = [found for split, found in estimate.features.items() if split not in estimate.uncached]
    identity = {"model": source.backbone.identity} if spec.label else {}  # a name may change its network
    return Job(
        spec=spec,
        model=info.name,
        info=info,
        protocol=protocol,
        dataset=dataset,
        train_dataset="" if trained == dataset else trained,
        preset=preset,
        config=config,
        settings=_departures(protocol, preset, asked, source, data),
        seed=seed,
        splits=asked_splits,
        data=data,
        estimate=estimate,
        cache_bytes=sum(spec.nbytes(info, n, source.dtype) for spec, n in passes),
        weights=source.weights_digest,
        state={
            "geometry": [info.patch, info.prefix, info.depth, info.mean, info.std],
            "precision": [source.precision, source.dtype],
            **identity,
        },
    )


def _departures(protocol: Protocol[Any], preset: str, asked: Any, source: FeatureSource, data: Data) -> dict[str, Any]:
    """Return what sets a config that is asked for, and the features, apart from the preset."""
    values = as_json(asked)
    found = {name: values[name] for name in departures(protocol, preset, asked, source.info, data.info)}
    for name, value, default in (
        ("precision", source.precision, "float32"),
        ("feature_dtype", source.dtype, "float16"),
    ):
        if value != default:
            found[name] = value
    return found


def check_fits(job: Job) -> None:
    """Raise UsageError for a job whose bank will not fit into memory, with what to change."""
    available = available_memory()
    if available is not None and job.estimate.bank_bytes > available:
        raise UsageError(
            f"{job} needs {job.estimate.bank_bytes / 1e9:.1f} GB of memory for its bank and {available / 1e9:.1f} GB "
            f"are free. {job.protocol.shrink_hint}"
        )
