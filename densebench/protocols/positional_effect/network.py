"""The positional-effect study of a whole network: every layer and facet, locality bias, correlations (POS 2.4, 3).

The second half of `positional_effect.py`, which has the settings and their sources. All reads come from one forward
pass per image. For each facet the layer of the best mIoU is reported (POS 2.4); the record has all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from densebench.ops import information
from densebench.protocols.common import scoring, sweeps
from densebench.protocols.positional_effect.clusters import Assigned, Positions, Reads
from densebench.protocols.positional_effect.pictures import pictures_of
from densebench.protocols.positional_effect.study import NetworkStudy, miou_interval
from densebench.protocols.protocol import Data, Estimate, Measurement, by_class
from densebench.results.schema import Coordinate, Metric

if TYPE_CHECKING:
    from densebench.protocols.positional_effect.config import PositionalEffectConfig


def estimate(
    config: PositionalEffectConfig, reads: Sequence[FeatureKey], backbone: BackboneInfo, data: Data
) -> Estimate:
    """Return feature passes, the larger of what training and counting hold, and the arithmetic of the clusters.

    Training holds the maps of one batch of all reads and their second moments, counting the position tables.
    """
    spec, width, k = config.spec, backbone.width, config.n_clusters
    height, columns = spec.grid(backbone)
    rows, n, grid = height * columns, len(reads), Positions.of(config)
    maps = n * max(config.batch, 16) * rows * width * 6  # float32, then rounded; 16 is the usual batch elsewhere
    moments = n * width * width * 16
    each = 2 if len(data.val) * config.cell**2 < 2**15 else 4
    tables = grid.n * (n * k * each + data.info.n_classes * (8 + 4 * config.groups) + 24 * k)
    first, passes = min(config.init_batches * config.batch, len(data.train)), 1 if config.locality == "none" else 2
    return Estimate(
        features={
            "train": (spec, first + config.steps * config.batch),
            "val": (spec, passes * len(data.val)),
        },
        uncached=frozenset({"train", "val"}),
        bank_bytes=maps + max(moments, tables),
        picture_bytes=n * math.prod(spec.size),
        search_flops=n * rows * width * (6.0 * config.steps * config.batch * k + 2.0 * first * width),
    )


def measure(reads: Reads, losses: Sequence[float], assigned: Assigned, data: Data) -> Measurement:
    """Return what the assigned clusters of all reads say."""
    config, context = reads.config, reads.context
    with context.stage("score"):
        real = information.mutual_information(assigned.truth.total())
        scores = [tally.score() for tally in assigned.tallies]
    locality = None if config.locality == "none" else _locality(reads, data)
    study = NetworkStudy(reads.reads, scores, real, context.features.info.depth, config.norm, locality)
    n_pixels = int(assigned.tallies[0].positions.total().sum())
    table = study.table(losses)
    with context.stage("figures"):
        artifacts = {"reads.csv": sweeps.to_csv([_flat(row) for row in table]), **pictures_of(study, assigned, data)}
    return scoring.measurement(
        _metrics(study, assigned, data),
        facts={
            "reads": table,
            "best": {
                facet: {"layer": reads.reads[i].layer, "depth": f"{reads.reads[i].layer + 1}/{study.depth}"}
                for facet, i in study.best.items()
            },
            "final_norm": study.final_norm(),
            "locality": study.locality_facts(config.locality, len(data.val)),
            "correlations": {
                name: {key: None if math.isnan(v) else v for key, v in points.correlation._asdict().items()}
                for name, points in study.points().items()
            },
            "nmi_ground_truth": real.nmi,
            "mi_bias": information.mi_bias(assigned.grid.n, config.n_clusters, n_pixels),
            "n_pixels": n_pixels,
        },
        notes=(
            sweeps.SELECTED,
            "features are not cached: all reads come from one forward pass per image",
            f"clusters were fitted for {config.steps} steps of {config.batch} images; published: 5000 of 24",
            "the k-means of every read starts from its own principal components and sees the same batches",
        ),
        artifacts=artifacts,
    )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["miou_ci95"] or ("", "")
    return {k: v for k, v in row.items() if k != "miou_ci95"} | {"miou_ci95_low": low, "miou_ci95_high": high}


def _locality(reads: Reads, data: Data) -> information.LocalityBias:
    """Return I(K, Q) of every layer of the network, over all validation images."""
    config, context = reads.config, reads.context
    features = context.features
    info = features.info
    found = information.LocalityBias(info.depth, info.heads, info.prefix if config.locality == "patches" else 0)
    at_once = config.attention_batch(info, features.batch_size)
    spec = replace(config.spec, keys=(), attention=tuple(range(info.depth)))
    stream = features.stream(data.val, spec, batch_size=at_once, title="attention")
    for batch in context.timed(stream, "attention"):
        for layer, attention in enumerate(context.timed(batch.attention, "attention")):
            with context.stage("locality"):
                found.update(layer, attention)
    return found


def _metrics(study: NetworkStudy, assigned: Assigned, data: Data) -> Iterator[scoring.Scored]:
    for facet, i in study.best.items():
        score, depth = study.scores[i], f"{study.reads[i].layer + 1}/{study.depth}"
        at: dict[str, Coordinate] = {"facet": facet}
        ci95, ci_method = miou_interval(score, f"clusters, matching and layer ({depth})")
        miou = Metric(
            name="miou",
            at=at,
            value=score.miou,
            main=True,
            ci95=ci95,
            ci_method=ci_method,
            per_class=by_class(data.info, score.ious),
        )
        yield assigned.tallies[i].segmented(miou, score.mapping)
        nmi, excess = score.information.nmi, score.information.nmi - study.truth.nmi
        yield scoring.Scored(Metric(name="nmi", at=at, value=nmi, unit="1", higher_is_better=False, main=True))
        yield scoring.Scored(Metric(name="nmi_excess", at=at, value=excess, unit="1", higher_is_better=False))
    truth = Metric(name="nmi_ground_truth", value=study.truth.nmi, unit="1", higher_is_better=False)
    yield scoring.Scored(truth)
