"""From a measurement to its record, and to the line that says it is done."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path

from densebench.core.config import as_json
from densebench.core.environment import environment
from densebench.core.progress import duration
from densebench.datasets.dataset import DenseDataset
from densebench.features.source import FeatureSource
from densebench.protocols.protocol import Measurement
from densebench.results import counts
from densebench.results.schema import (
    Cost,
    DataRecord,
    Metric,
    ModelRecord,
    ProtocolRecord,
    Record,
    SplitRecord,
    StatisticsRecord,
)
from densebench.runner.job import Job
from densebench.runner.plan import count
from densebench.runner.splits import Splits

SCORES = 6
"""Scores that the line of a finished cell names."""


def record_of(
    job: Job,
    source: FeatureSource,
    measurement: Measurement,
    artifacts: Mapping[str, bytes],
    cost: Cost,
    splits: Splits,
) -> Record:
    """Return everything that is known of a measurement; `artifacts` are those of :func:`artifacts_of`."""
    info, data, protocol = job.info, job.data, job.protocol
    return Record(
        score_hash=job.score_hash,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=job.seed,
        model=ModelRecord(
            name=job.model,
            weights_sha256=job.weights,
            patch=info.patch,
            prefix=info.prefix,
            width=info.width,
            depth=info.depth,
            heads=info.heads,
            mean=info.mean,
            std=info.std,
            licence=info.licence,
            citation=info.citation,
            parameters=sum(parameter.numel() for parameter in source.backbone.parameters()),
        ),
        data=DataRecord(
            name=job.data_name,
            n_classes=data.info.n_classes,
            ignored=data.info.ignored,
            train=_split_record(data.train) if protocol.reads_train else None,
            val=_split_record(data.val),
            limit=splits.cut_to(job.splits),
            skipped=splits.left_out(job.splits),
        ),
        protocol=ProtocolRecord(
            name=protocol.name,
            version=protocol.version,
            preset=job.preset,
            source=protocol.presets[job.preset].source,
            config=as_json(job.config),
            settings=dict(job.settings),
        ),
        features={
            "precision": source.precision,
            "dtype": source.dtype,
            **{split: spec.as_record() for split, (spec, _) in job.estimate.features.items()},
        },
        metrics=measurement.metrics,
        facts=dict(measurement.facts),
        notes=(*measurement.notes, *splits.notes(job.splits), *info.notes.get("loading", ())),
        artifacts=tuple(artifacts),
        statistics=_statistics(artifacts),
        environment=environment(str(source.device)),
        cost=cost,
    )


def artifacts_of(measurement: Measurement, val: DenseDataset, folder: str) -> dict[str, bytes]:
    """Return what lies beside the record, in a folder of this name: pictures, tables, and what is kept of images."""
    files = {f"{folder}/{name}": content for name, content in measurement.artifacts.items()}
    if measurement.statistics:
        files[f"{folder}/{counts.NAME}"] = counts.to_npz(val.ids, measurement.statistics)
    return files


def _statistics(artifacts: Mapping[str, bytes]) -> StatisticsRecord | None:
    for file, content in artifacts.items():
        if file.endswith(f"/{counts.NAME}"):
            return StatisticsRecord(file=file, n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return None


def _split_record(data: DenseDataset) -> SplitRecord:
    published = data.info.splits.get(data.split, 0)
    return SplitRecord(split=data.split, n_images=len(data), digest=data.digest(), n_published=published)


def finished_line(record: Record, path: Path) -> str:
    """Return one line on a cell that is done: its scores with 95 % intervals, seconds, record and pictures."""
    scores = [_score(metric) for metric in record.metrics if metric.main]
    if len(scores) > SCORES:
        scores[SCORES:] = [f"and {len(scores) - SCORES} more"]
    pictures = sum(name.endswith(".png") for name in record.artifacts)
    beside = f", {count(pictures, 'picture')} in {path.with_suffix('')}" if pictures else ""
    return f"{record.title}: {', '.join(scores)}; {duration(record.cost.seconds['total'])}; {path}{beside}"


def _score(metric: Metric) -> str:
    decimals = 1 if metric.unit in ("%", "px") else 3
    text = f"{metric.label} {metric.value:.{decimals}f}" + f" {metric.unit}" * (metric.unit != "1")
    if metric.ci95 is None:
        return text
    return f"{text} [{metric.ci95[0]:.{decimals}f}, {metric.ci95[1]:.{decimals}f}]"
