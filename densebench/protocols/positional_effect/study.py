"""The positional-effect study of a whole network: every layer and facet, locality bias, correlations (P-POS 2.4, 3).

The second half of `positional_effect.py`, which has the settings and their sources. All reads come from one forward
pass per image. For each facet the layer of the best mIoU is reported (P-POS 2.4); the record has all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from densebench.model_zoo.backbone import BackboneInfo, Read
from densebench.ops import information
from densebench.protocols.common import scoring, sweeps
from densebench.protocols.positional_effect.clusters import Assigned, Positions, Reads, Score
from densebench.protocols.positional_effect.pictures import pictures_of
from densebench.protocols.protocol import Data, Estimate, Measurement, by_class
from densebench.results.schema import Metric

if TYPE_CHECKING:
    from densebench.protocols.positional_effect.config import PositionalEffectConfig


def estimate(config: PositionalEffectConfig, reads: Sequence[Read], backbone: BackboneInfo, data: Data) -> Estimate:
    """Return feature passes, the larger of what training and counting hold, and the arithmetic of the clusters.

    Training holds the maps of one batch of all reads and their second moments, counting the position tables.
    """
    assert config.clusters is not None
    spec, width, k = config.spec, backbone.width, config.clusters
    height, columns = spec.grid(backbone)
    rows, n, grid = height * columns, len(reads), Positions.of(config)
    maps = n * max(config.batch, 16) * rows * width * 6  # float32, then rounded; 16 is the usual batch elsewhere
    moments = n * width * width * 16
    each = 2 if len(data.val) * config.cell**2 < 2**15 else 4
    tables = grid.n * (n * k * each + data.info.n_classes * (8 + 4 * config.groups) + 24 * k)
    pictures = n * config.examples * math.prod(spec.size)
    first, passes = min(config.init_batches * config.batch, len(data.train)), 1 if config.locality == "none" else 2
    return Estimate(
        features={
            "train": (spec, first + config.steps * config.batch),
            "val": (spec, passes * len(data.val)),
        },
        uncached=frozenset({"train", "val"}),
        bank_bytes=maps + max(moments, tables + pictures),
        search_flops=n * rows * width * (6.0 * config.steps * config.batch * k + 2.0 * first * width),
    )


def measure(reads: Reads, losses: Sequence[float], assigned: Assigned, data: Data) -> Measurement:
    """Return what the assigned clusters of all reads say."""
    config, context = reads.config, reads.context
    with context.stage("score"):
        real = information.mutual_information(assigned.truth.total())
        scores = [tally.score() for tally in assigned.tallies]
    locality = None if config.locality == "none" else _locality(reads, data)
    study = Study(reads.reads, scores, real, context.features.info.depth, config.norm, locality)
    assert config.clusters is not None
    n_pixels = int(assigned.tallies[0].positions.total().sum())
    table = study.table(losses)
    with context.stage("figures"):
        artifacts = {"reads.csv": sweeps.to_csv([_flat(row) for row in table]), **pictures_of(study, assigned, data)}
    return Measurement(
        metrics=tuple(_metrics(study, data)),
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
            "mi_bias": information.mi_bias(assigned.grid.n, config.clusters, n_pixels),
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


@dataclass(frozen=True)
class Points:
    """Two quantities over reads, by series."""

    series: dict[str, list[tuple[float, float]]]

    @property
    def correlation(self) -> information.Correlation:
        """The correlation over all series together."""
        pairs = torch.tensor([p for points in self.series.values() for p in points], dtype=torch.float64).view(-1, 2)
        return information.correlation(pairs[:, 0], pairs[:, 1])


@dataclass(frozen=True)
class Study:
    """The scores of all reads, and what is derived from them."""

    reads: tuple[Read, ...]
    scores: list[Score]
    truth: information.MutualInformation
    depth: int
    norm: bool
    locality: information.LocalityBias | None

    @property
    def best(self) -> dict[Any, int]:
        """The read of the best mIoU per facet."""
        return sweeps.best(self.reads, [score.miou for score in self.scores], self.norm)

    def table(self, losses: Sequence[float]) -> list[dict[str, Any]]:
        """Return one row per read."""
        return [
            {
                "layer": read.layer,
                "facet": read.facet,
                "final_norm": read.norm and self._is_last_token(read),
                "ablation": read.norm != self.norm,
                "miou": round(score.miou, 4),
                "miou_ci95": _interval(score)[0],
                "nmi": round(score.information.nmi, 6),
                "nmi_excess": round(score.information.nmi - self.truth.nmi, 6),
                "mi": round(score.information.total, 6),
                "clusters_used": score.used,
                "k_means_loss": round(loss, 6),
            }
            for read, score, loss in zip(self.reads, self.scores, losses, strict=True)
        ]

    def final_norm(self) -> dict[str, Any]:
        """Return the last tokens before and after the final norm (P-POS A.11, table 4), {} where not both are read."""
        last = {read.norm: s for read, s in zip(self.reads, self.scores, strict=True) if self._is_last_token(read)}
        if len(last) < 2:
            return {}
        return {
            name: {"before": value(last[False]), "after": value(last[True])}
            for name, value in (("miou", lambda s: round(s.miou, 4)), ("nmi", lambda s: round(s.information.nmi, 6)))
        }

    def _is_last_token(self, read: Read) -> bool:
        return read.facet == "token" and read.layer == self.depth - 1

    def locality_facts(self, tokens: str | None, n_images: int) -> dict[str, Any]:
        """Return I(K, Q) in nats per layer of the network, by both orders of averaging heads."""
        if self.locality is None:
            return {}
        heads = self.locality.of_heads
        return {
            "tokens": tokens,
            "images": n_images,
            "mean_of_heads": [round(v, 6) for v in heads.mean(1).tolist()],
            "of_mean_head": [round(v, 6) for v in self.locality.of_mean.tolist()],
            "heads": [[round(v, 6) for v in layer] for layer in heads.tolist()],
        }

    def points(self) -> dict[str, Points]:
        """Return what figure 9 of P-POS plots: mIoU (log) over NMI, and NMI of keys and queries over locality.

        Reads with mIoU 0 have no logarithm and are left out; so is the ablation of the final norm.
        """
        found: dict[str, Points] = {}

        def add(name: str, series: str, x: float, y: float) -> None:
            found.setdefault(name, Points({})).series.setdefault(series, []).append((x, y))

        for read, score in zip(self.reads, self.scores, strict=True):
            if read.norm != self.norm:
                continue
            nmi = score.information.nmi
            log_miou = math.log10(score.miou) if score.miou > 0 else math.nan
            add("positional_log_miou", read.facet, nmi, log_miou)
            if self.locality is not None and read.facet in ("key", "query"):
                add("locality_positional", read.facet, float(self.locality.of_heads[read.layer].mean()), nmi)
        return found


def _interval(score: Score, held: str = "") -> tuple[tuple[float, float] | None, str]:
    ends, method = scoring.interval(score.miou, score.left_out, held)
    return ends and (round(ends[0], 4), round(ends[1], 4)), method


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
    stream = features.stream_attention(data.val, config.spec, range(info.depth), batch_size=at_once)
    for batch in context.timed(stream, "attention"):
        for layer, attention in enumerate(context.timed(batch.layers, "attention")):
            with context.stage("locality"):
                found.update(layer, attention)
    return found


def _metrics(study: Study, data: Data) -> Iterator[Metric]:
    for facet, i in study.best.items():
        score, depth = study.scores[i], f"{study.reads[i].layer + 1}/{study.depth}"
        ci95, ci_method = _interval(score, f"clusters, matching and layer ({depth})")
        yield Metric(
            name=f"miou@{facet}",
            value=score.miou,
            main=True,
            ci95=ci95,
            ci_method=ci_method,
            per_class=by_class(data.info, score.ious),
        )
        nmi = score.information.nmi
        yield Metric(name=f"nmi@{facet}", value=nmi, unit="1", higher_is_better=False, main=True)
        yield Metric(name=f"nmi_excess@{facet}", value=nmi - study.truth.nmi, unit="1", higher_is_better=False)
    yield Metric(name="nmi_ground_truth", value=study.truth.nmi, unit="1", higher_is_better=False)
