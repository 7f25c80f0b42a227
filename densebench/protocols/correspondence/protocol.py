"""Correspondence: does the feature at a keypoint of one image find the same part in another image?

The feature at each keypoint of the source image is compared by cosine with the target's features, upsampled
bilinearly to the target's pixels; the best pixel is right if it lies within alpha times the longer side of the target's
box of the true place (PCK@alpha). Nothing is learned. Source: "Unsupervised Semantic Segmentation Facilitates Model
Understanding" (POS), A.7 and Table 3.

Left open by the paper, with the defaults here: input size (448, which shares the feature pass with overclustering),
which pixels (the image's own, as DIFT `eval_spair.py` has it), the rim of the threshold (counts, as there), alphas
beside 0.1, and which pairs are taken where a dataset lists none (2000 drawn evenly from all pairs of objects of one
category). Images are squashed to a square before the backbone; DIFT does so too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.datasets.pairs import listed_pairs
from densebench.figures import kit as figures
from densebench.model_zoo.backbone import BackboneInfo, Facet, FeatureKey
from densebench.ops import correspondence as ops
from densebench.protocols.common import scoring, sweeps
from densebench.protocols.common.examples import spread
from densebench.protocols.common.sweeps import feature_keys
from densebench.protocols.correspondence.config import CorrespondenceConfig
from densebench.protocols.correspondence.matches import DRAWN, Match, block_size, find_links, find_matches
from densebench.protocols.correspondence.pairs import Pairs, Per
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Protocol,
    input_size,
)
from densebench.results.schema import Metric, coordinate_text, metric_label

SHOWN = 320
"""Height of the images in the picture, in pixels."""

KINDS = ("pck", "pck_image")
"""Over all points, and the mean over pairs."""
PER: tuple[Per, Per] = ("point", "pair")


class Correspondence(Protocol[CorrespondenceConfig]):
    """Semantic correspondence by nearest neighbours of keypoints."""

    name = "correspondence"
    title = "Keypoint correspondence"
    version = 2
    config = CorrespondenceConfig
    presets = CorrespondenceConfig.presets
    seeded = False
    metrics = (
        MetricInfo(
            "pck", "%", True, "keypoints of all pairs found within alpha times the longer side of the box", ("alpha",)
        ),
        MetricInfo("pck_image", "%", True, "mean over pairs of the same percentage within the pair", ("alpha",)),
        MetricInfo(
            "pck", "%", True, "in a sweep: of the facet's best layer, chosen by the first alpha", ("alpha", "facet")
        ),
    )
    needs = frozenset({"keypoints"})
    reads_train = False

    def resolve(self, config: CorrespondenceConfig, backbone: BackboneInfo, data: DatasetInfo) -> CorrespondenceConfig:
        """Fill in the input size."""
        sweep = sweeps.resolve(self.name, config, backbone)
        return replace(
            config,
            **sweep,
            input_size=input_size(config.input_size, 448, backbone, data),
            alphas=tuple(dict.fromkeys(config.alphas)),
        )

    def estimate(self, config: CorrespondenceConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return the feature pass, the descriptors of a block, and the matching's arithmetic at ten points a pair."""
        spec, n_reads = config.spec, len(feature_keys(config, backbone))
        height, width = spec.grid(backbone)
        listed = listed_pairs(data.val)
        n_pairs = config.pairs or (DRAWN if listed is None else len(listed))
        return Estimate(
            features={"val": (spec, len(data.val) * (1 if n_reads == 1 else 2))},
            uncached=frozenset() if n_reads == 1 else frozenset({"val"}),
            bank_bytes=4 * 30 * min(block_size(n_reads, backbone.width), len(data.val)) * backbone.width * n_reads,
            search_flops=10.0 * n_pairs * (2 * height * width * backbone.width + 10 * math.prod(spec.size)) * n_reads,
        )

    def run(self, config: CorrespondenceConfig, data: Data, context: Context) -> Measurement:
        """Match all pairs, block by block, and count what is right."""
        reads = feature_keys(config, context.features.info)
        with context.stage("pairs"):
            links, pointless = find_links(config, data.val)
        categories = sorted({link.category for link in links})
        pck = ops.PCK(len(categories), len(reads) * len(config.alphas))
        pairs = Pairs(categories)
        shown = {links[i] for i in spread(context.pictures, len(links))}
        examples: list[Match] = []
        chance = torch.zeros(len(config.alphas), dtype=torch.float64)
        for found in find_matches(config, reads, links, data.val, context):
            with context.stage("score"):
                link, extent = found.link, found.extent(config.threshold)
                hits = [ops.correct(place, found.truth, extent, config.alphas) for place in found.predicted]
                pck.update(categories.index(link.category), link.source, link.target, torch.cat(hits))
                pairs.add(link, torch.cat(hits))
                chance += len(found.truth) * found.chance(extent, config.alphas)
            if link in shown:
                examples.append(found)
        counted = pck.counted()
        overall = 100 * pck.overall().view(2, len(reads), -1)
        top = int(overall[0, :, 0].argmax()) if len(reads) > 1 else 0
        facts = {
            "pairs": len(links),
            "key_points": int(counted[:, 0].sum()),
            "pairs_by_category": dict(zip(categories, counted[:, 1].tolist(), strict=True)),
            "key_points_by_category": dict(zip(categories, counted[:, 0].tolist(), strict=True)),
            "pairs_from": "drawn" if listed_pairs(data.val) is None else "list of the dataset",
            "pck_of_guessing": {
                coordinate_text("alpha", alpha): round(100 * float(value) / int(counted[:, 0].sum()), 4)
                for alpha, value in zip(config.alphas, chance, strict=True)
            },
        }
        notes = ["pairs that share an image are not independent: intervals resample images"]
        if pointless:
            notes.append(f"{pointless} listed pairs without a common visible keypoint are left out")
        with context.stage("figures"):
            artifacts = {"matches.png": _picture(config, examples, top, data.val)} if examples else {}
        if config.layers is None:
            metrics = list(_metrics(config, pck, pairs))
        else:
            study = PckSweep(reads, overall, context.features.info.depth, config)
            notes += [sweeps.SELECTED]
            notes += [f"matches.png is of {sweeps.label(reads[top], study.depth)}"] if examples else []
            facts |= study.facts()
            metrics = list(_best_metrics(study, pck, pairs))
            with context.stage("figures"):
                artifacts |= study.artifacts()
        return scoring.measurement(metrics, facts=facts, notes=notes, artifacts=artifacts)


@dataclass(frozen=True)
class PckSweep:
    """The scores of all layers and facets (POS A.8), and what is derived from them."""

    reads: tuple[FeatureKey, ...]
    overall: Tensor
    """(2, R, A) in percent: per point and per image."""
    depth: int
    config: CorrespondenceConfig

    @property
    def main(self) -> list[float]:
        """PCK per point at the first alpha."""
        return self.overall[0, :, 0].tolist()

    @property
    def best(self) -> dict[Facet, int]:
        """The read of the best PCK per facet."""
        return sweeps.best(self.reads, self.main, self.config.norm)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per read."""
        return [
            {
                "layer": read.layer,
                "facet": read.facet,
                "ablation": read.norm != self.config.norm,
                **{
                    metric_label(name, {"alpha": alpha}): round(float(self.overall[kind, r, a]), 4)
                    for kind, name in enumerate(KINDS)
                    for a, alpha in enumerate(self.config.alphas)
                },
            }
            for r, read in enumerate(self.reads)
        ]

    def facts(self) -> dict[str, Any]:
        """Return all reads, the best layer per facet, and the ablation of the final norm (POS table 5)."""
        best, main = self.best, self.main
        top = max(best.values(), key=lambda r: main[r])
        last = {
            read.norm: round(value, 4)
            for read, value in zip(self.reads, main, strict=True)
            if read.facet == "token" and read.layer == self.depth - 1
        }
        return {
            "reads": self.rows(),
            "best": {
                facet: {"layer": self.reads[r].layer, "depth": f"{self.reads[r].layer + 1}/{self.depth}"}
                for facet, r in best.items()
            },
            "best_of_all": sweeps.label(self.reads[top], self.depth),
            "final_norm": {"before": last[False], "after": last[True]} if len(last) == 2 else {},
        }

    def artifacts(self) -> dict[str, bytes]:
        """Return the table and the chart of all layers (POS figure 15)."""
        name = metric_label("PCK", {"alpha": self.config.alphas[0]}) + " per point [%]"
        panels = {name: sweeps.by_layer(self.reads, self.main, self.config.norm)}
        return {"reads.csv": sweeps.to_csv(self.rows()), "curves.png": figures.curves(panels, "layer")}


def _best_metrics(study: PckSweep, pck: ops.PCK, pairs: Pairs) -> Iterator[scoring.Scored]:
    """Yield PCK per point of each facet's best layer, at every alpha (POS table 3)."""
    alphas, shape = study.config.alphas, (2, len(study.reads), len(study.config.alphas))
    by_category = 100 * pck.by_category().unflatten(2, shape[1:])[:, 0]
    left_out = 100 * pck.left_out().unflatten(2, shape[1:])[:, 0]
    for facet, r in study.best.items():
        for a, alpha in enumerate(alphas):
            value, descriptors = float(study.overall[0, r, a]), f"the layer ({study.reads[r].layer + 1}/{study.depth})"
            ci95, ci_method = scoring.interval(value, left_out[:, r, a], descriptors)
            metric = Metric(
                name="pck",
                at={"alpha": alpha, "facet": facet},
                value=value,
                main=a == 0,
                ci95=ci95,
                ci_method=ci_method,
                per_class={c: round(float(v), 4) for c, v in zip(pairs.categories, by_category[:, r, a], strict=True)},
            )
            yield pairs.scored(metric, r * len(alphas) + a, "point")


def _metrics(config: CorrespondenceConfig, pck: ops.PCK, pairs: Pairs) -> Iterator[scoring.Scored]:
    overall, by_category = 100 * pck.overall(), 100 * pck.by_category()
    left_out = 100 * pck.left_out()
    for kind, name in enumerate(KINDS):
        for a, alpha in enumerate(config.alphas):
            value = float(overall[kind, a])
            ci95, ci_method = scoring.interval(value, left_out[:, kind, a], "categories")
            metric = Metric(
                name=name,
                at={"alpha": alpha},
                value=value,
                main=kind == 0 and a == 0,
                ci95=ci95,
                ci_method=ci_method,
                per_class={
                    c: round(float(v), 4) for c, v in zip(pairs.categories, by_category[:, kind, a], strict=True)
                },
            )
            yield pairs.scored(metric, a, PER[kind])


def _picture(config: CorrespondenceConfig, matches: list[Match], read: int, data: DenseDataset) -> bytes:
    """Return the pairs as PNG, source left, target right, at a height of SHOWN pixels."""
    panels = []
    for found in matches:
        link, predicted = found.link, found.predicted[read]
        ends = [data.image(index) for index in (link.source, link.target)]
        scales = [SHOWN / image.height for image in ends]
        canvases = [
            np.asarray(image.resize((max(1, round(image.width * scale)), SHOWN), Image.Resampling.BILINEAR))
            for image, scale in zip(ends, scales, strict=True)
        ]
        shift = torch.tensor([canvases[0].shape[1], 0])
        start = (found.points + 0.5) * scales[0] - 0.5
        end, truth = ((place + 0.5) * scales[1] - 0.5 + shift for place in (predicted, found.truth))
        hits = ops.correct(predicted, found.truth, found.extent(config.threshold), config.alphas[:1])[0]
        title = f"{link.category}: {int(hits.sum())} of {len(hits)} within {config.alphas[0]:g}"
        picture = np.concatenate(canvases, axis=1)
        panels.append(figures.Links(picture, title, start.numpy(), end.numpy(), truth.numpy(), hits.numpy()))
    return figures.links(panels)
