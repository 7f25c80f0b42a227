"""Records made by hand, with the metric names of the protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from densebench.results.schema import Cost, DataRecord, Metric, ModelRecord, ProtocolRecord, Record, SplitRecord
from densebench.results.store import ResultStore

MakeRecord = Callable[..., Record]


def metric(name: str, value: float, half: float | None = 1.0, **other: Any) -> Metric:
    """Return a main metric; what is no field of one is a coordinate."""
    other["at"] = {key: other.pop(key) for key in list(other) if key not in Metric.model_fields}
    ci = None if half is None else (value - half, value + half)
    return Metric(name=name, value=value, ci95=ci, **{"main": True, **other})


def hummingbird(top: float, half: float = 1.0) -> tuple[Metric, ...]:
    shares = {"1": 0, "1/8": 5, "1/64": 10, "1/128": 20}
    return (
        *(metric("miou", top - drop, half, fraction=share) for share, drop in shares.items()),
        metric("miou_hungarian", top + 0.5, half, main=False, fraction="1"),
    )


def overclustering(top: float) -> tuple[Metric, ...]:
    seeds = {str(seed): top for seed in range(5)}
    shares = {21: 0.3, 300: 0.9, 500: 1.0}
    return tuple(metric("miou", top * share, seeds=seeds, clusters=k) for k, share in shares.items())


def positional(nmi: float, miou: float) -> tuple[Metric, ...]:
    return (
        metric("nmi", nmi, 0.01, unit="1", higher_is_better=False),
        metric("nmi_ground_truth", 0.06, None, unit="1", higher_is_better=False, main=False),
        metric("miou", miou),
    )


@pytest.fixture
def record() -> MakeRecord:
    def make(
        model: str = "paka_vits14",
        metrics: Iterable[Metric] = (),
        *,
        protocol: str = "hummingbird",
        dataset: str = "voc",
        preset: str = "paper",
        score_hash: str = "",
        created: str = "2026-11-20T10:00:00Z",
        limit: int | None = None,
        config: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        seed: int = 0,
        n_images: int = 1449,
        n_train: int = 10582,
        digest: str = "v",
        version: int = 9,  # of which none was withdrawn
        skipped: tuple[str, ...] = (),
    ) -> Record:
        return Record(
            score_hash=score_hash or f"{model}{protocol}{dataset}{preset}".encode().hex()[:32],
            created=created,
            seed=seed,
            model=ModelRecord(
                name=model,
                weights_sha256="ab" * 32,
                patch=14,
                prefix=1,
                width=384,
                depth=12,
                heads=6,
                mean=(0.5,),
                std=(0.2,),
            ),
            data=DataRecord(
                name=dataset,
                n_classes=21,
                ignored=(255,),
                train=SplitRecord(split="train", n_images=n_train, digest="t", n_published=10582),
                val=SplitRecord(split="val", n_images=limit or n_images, digest=digest, n_published=1449),
                limit=limit,
                skipped=skipped,
            ),
            protocol=ProtocolRecord(
                name=protocol,
                version=version,
                preset=preset,
                source="here",
                config=config or {"neighbours": 30},
                settings=settings or {},
            ),
            features={"layer": -1},
            metrics=tuple(metrics) or hummingbird(80.0),
            environment={"densebench": "0.1.0"},
            cost=Cost(seconds={"total": 1.0}, peak_memory_bytes=1),
        )

    return make


@pytest.fixture
def results(tmp_path: Path, record: MakeRecord) -> Path:
    """A results folder with two models, three protocols, a limited record and a torn one."""
    store = ResultStore(tmp_path / "results")
    for model, shift in (("paka_vits14", 0.0), ("neco_vits14", -4.0)):
        save(store, record(model, hummingbird(80.5 + shift)))
        save(store, record(model, overclustering(76.5 + shift), protocol="overclustering"))
        save(store, record(model, positional(0.2 + shift / 100, 20.0), protocol="positional_effect", dataset="scenes"))
    save(store, record("quick", limit=32))
    torn = store.root / "records" / "voc" / "hummingbird" / "torn--paper--00.json"
    torn.write_text('{"schema_version": 1, "score_')
    return store.root


def save(store: ResultStore, record: Record) -> None:
    store.write(store.place(record), record)
