"""What the study of a whole network finds: the scores of all reads, and what is derived from them (POS 2.4, 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from densebench.model_zoo.backbone import FeatureKey
from densebench.ops import information
from densebench.protocols.common import scoring, sweeps
from densebench.protocols.positional_effect.clusters import Score


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
class NetworkStudy:
    """The scores of all reads, and what is derived from them."""

    reads: tuple[FeatureKey, ...]
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
                "miou_ci95": miou_interval(score)[0],
                "nmi": round(score.information.nmi, 6),
                "nmi_excess": round(score.information.nmi - self.truth.nmi, 6),
                "mi": round(score.information.total, 6),
                "clusters_used": score.used,
                "k_means_loss": round(loss, 6),
            }
            for read, score, loss in zip(self.reads, self.scores, losses, strict=True)
        ]

    def final_norm(self) -> dict[str, Any]:
        """Return the last tokens before and after the final norm (POS A.11, table 4), {} where not both are read."""
        last = {read.norm: s for read, s in zip(self.reads, self.scores, strict=True) if self._is_last_token(read)}
        if len(last) < 2:
            return {}
        return {
            name: {"before": value(last[False]), "after": value(last[True])}
            for name, value in (("miou", lambda s: round(s.miou, 4)), ("nmi", lambda s: round(s.information.nmi, 6)))
        }

    def _is_last_token(self, read: FeatureKey) -> bool:
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
        """Return what figure 9 of POS plots: mIoU (log) over NMI, and NMI of keys and queries over locality.

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


def miou_interval(score: Score, fixed: str = "") -> tuple[tuple[float, float] | None, str]:
    """Return the 95 % interval of a read's mIoU, and how it was made, with `fixed` as it is."""
    ends, method = scoring.interval(score.miou, score.left_out, fixed)
    return ends and (round(ends[0], 4), round(ends[1], 4)), method
