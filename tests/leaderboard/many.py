"""Records by the thousand, as a year of a large group makes them: models of four sizes in cells of five protocols."""

from __future__ import annotations

import random
from collections.abc import Iterator

from densebench.results.schema import (
    Cost,
    DataRecord,
    Metric,
    ModelRecord,
    ProtocolRecord,
    Record,
    SplitRecord,
)

NETS = ((192, 12, 3, 5_717_416), (384, 12, 6, 22_056_576), (768, 12, 12, 86_580_480), (1024, 24, 16, 304_368_640))
"""Width, depth, heads, parameters."""
PROTOCOLS = ("hummingbird", "overclustering", "linear_segmentation", "correspondence", "depth")
VERSIONS = {"overclustering": 3}


def many(n_models: int, n_cells: int, seed: int = 0, n_classes: int = 20) -> Iterator[Record]:
    """Yield a record per model and cell; equal arguments give equal records."""
    chance = random.Random(seed)
    for m in range(n_models):
        strength = chance.gauss(0, 5)
        for cell in range(n_cells):
            protocol = PROTOCOLS[cell % len(PROTOCOLS)]
            yield _record(chance, m, protocol, f"data{cell // len(PROTOCOLS):02}", strength, n_classes)


def _record(chance: random.Random, m: int, protocol: str, dataset: str, strength: float, n_classes: int) -> Record:
    width, depth, heads, parameters = NETS[m % len(NETS)]
    top = 45 + strength + 4 * (m % len(NETS)) + chance.gauss(0, 2)
    return Record(
        score_hash=f"{chance.getrandbits(64):016x}",
        created=f"2026-{1 + m % 12:02}-{1 + m % 28:02}T10:00:00Z",
        seed=0,
        model=ModelRecord(
            name=f"model_{m:03}", weights_sha256=f"{m:064x}", patch=14, prefix=1, width=width, depth=depth, heads=heads,
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), licence="Apache-2.0", parameters=parameters,
        ),
        data=DataRecord(
            name=dataset, n_classes=n_classes, ignored=(255,), train=None,
            val=SplitRecord(split="val", n_images=1000, digest=dataset, n_published=1000),
        ),
        protocol=ProtocolRecord(
            name=protocol, version=VERSIONS.get(protocol, 2), preset="paper", source="a paper", config={}
        ),
        features={},
        metrics=tuple(_metrics(chance, protocol, top, n_classes)),
        environment={"densebench": "0.1.0", "torch": "2.15.0", "cpu": "a processor, 2 cores"},
        cost=Cost(
            seconds={"total": chance.uniform(60, 6000)}, peak_memory_bytes=chance.randrange(10**9, 10**11),
            images_per_second=round(2e10 / parameters * chance.uniform(0.8, 1.2), 2),
        ),
    )  # fmt: skip


def _metrics(chance: random.Random, protocol: str, top: float, n_classes: int) -> Iterator[Metric]:
    def one(name: str, value: float, **at: str | int | float) -> Metric:
        half = chance.uniform(0.5, 1.5)
        classes = {f"class {i}": round(value + chance.gauss(0, 8), 3) for i in range(n_classes)}
        return Metric(name=name, at=at, value=value, main=True, ci95=(value - half, value + half), per_class=classes)

    if protocol == "hummingbird":
        for fraction, drop in (("1", 0), ("1/8", 5), ("1/64", 11), ("1/128", 14)):
            yield one("miou", top - drop, fraction=fraction)
    elif protocol == "overclustering":
        for clusters, share in ((100, 0.5), (300, 0.8), (500, 0.9)):
            yield one("miou", top * share, clusters=clusters)
    elif protocol == "depth":
        yield Metric(name="rmse", at={"head": "linear4"}, value=3 / top, unit="m", higher_is_better=False, main=True)
    else:
        yield one("pck" if protocol == "correspondence" else "miou", top)
