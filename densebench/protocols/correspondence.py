"""Correspondence: does the feature at a key point of one image find the same part in another image?

The feature at each key point of the source image is compared by cosine with the target's features, upsampled
bilinearly to the target's pixels; the best pixel is right if it lies within alpha times the longer side of the target's
box of the true place (PCK@alpha). Nothing is learned. Source: "Unsupervised Semantic Segmentation Facilitates Model
Understanding" (P-POS), A.7 and Table 3.

Left open by the paper, with the defaults here: input size (448, which shares the feature pass with overclustering),
which pixels (the image's own, as DIFT `eval_spair.py` has it), the rim of the threshold (counts, as there), alphas
beside 0.1, and which pairs are taken where a dataset lists none (2000 drawn evenly from all pairs of objects of one
category). Images are squashed to a square before the backbone; DIFT does so too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from densebench import figures
from densebench.datasets.dataset import DatasetInfo, DenseDataset, Keypoints
from densebench.datasets.pairs import listed_pairs
from densebench.errors import DatasetError, UsageError
from densebench.features import FeatureSpec
from densebench.model_zoo.backbone import Backbone, BackboneInfo, Facet
from densebench.ops import correspondence as ops
from densebench.ops.confusion import percentile_interval
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Preset,
    Protocol,
    input_size,
)
from densebench.results import Metric

DRAWN = 2000
"""Pairs that are drawn where a dataset lists none and the config does not say how many."""
BLOCK = 256
"""Source images whose descriptors are held at a time; targets are read once per block."""


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig:
    """Settings of key point matching (P-POS A.7)."""

    input_size: int | None = None
    """Side in pixels; None: 448 rounded down to a multiple of the patch."""
    layer: int = -1
    facet: Facet = "token"
    norm: bool = True
    """The final norm belongs to the last layer's tokens only (P-POS 3.2)."""
    upsampling: Literal["image", "input", "grid"] = "image"
    """Where the best match is looked for: the target image's own pixels, those of the input, or patch centres. The
    source's feature is bilinear at the key point in all three."""
    alphas: tuple[float, ...] = (0.1, 0.05, 0.01)
    """Tolerances, as parts of the longer side that `threshold` names; the first is the main one."""
    threshold: Literal["bbox", "image"] = "bbox"
    """The target object's bounding box (SPair-71k, PF-WILLOW) or the target image (as PF-PASCAL is often scored)."""
    pairs: int | None = None
    """At most so many pairs, drawn with `seed`; None: all that the dataset lists, 2000 where it lists none."""
    seed: int = 0
    """Of the pairs that are drawn: models see the same ones, whatever the seed of the run."""
    examples: int = 6
    """Pairs in the picture."""


class Correspondence(Protocol[CorrespondenceConfig]):
    """Semantic correspondence by nearest neighbours of key points."""

    name = "correspondence"
    title = "Key point correspondence"
    config = CorrespondenceConfig
    presets = {
        "paper": Preset(
            source="Unsupervised Semantic Segmentation Facilitates Model Understanding, A.7 and Table 3; where it says "
            "nothing, DIFT eval_spair.py"
        )
    }
    metrics = (
        MetricInfo("pck@A", "%", True, "key points of all pairs found within A times the longer side of the box"),
        MetricInfo("pck_image@A", "%", True, "mean over pairs of the same percentage within the pair"),
    )
    needs = frozenset({"keypoints"})

    def resolve(self, config: CorrespondenceConfig, backbone: BackboneInfo, data: DatasetInfo) -> CorrespondenceConfig:
        """Fill in the input size."""
        if not config.alphas or not all(alpha > 0 for alpha in config.alphas):
            raise UsageError(f"correspondence.alphas={config.alphas}: expected one or more numbers above 0.")
        if config.pairs is not None and config.pairs < 1:
            raise UsageError(f"correspondence.pairs={config.pairs}: expected at least 1, or none.")
        return replace(
            config,
            input_size=input_size(config.input_size, 448, backbone, data),
            alphas=tuple(dict.fromkeys(config.alphas)),
        )

    def estimate(self, config: CorrespondenceConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return the feature pass, the descriptors of a block, and the matching's arithmetic at ten points a pair."""
        spec = _spec(config)
        height, width = spec.grid(backbone)
        listed = listed_pairs(data.val)
        n_pairs = config.pairs or (DRAWN if listed is None else len(listed))
        return Estimate(
            features={"val": (spec, len(data.val))},
            bank_bytes=4 * 30 * min(BLOCK, len(data.val)) * backbone.width,
            search_flops=10.0 * n_pairs * (2 * height * width * backbone.width + 10 * spec.size[0] * spec.size[1]),
        )

    def run(self, config: CorrespondenceConfig, backbone: Backbone, data: Data, context: Context) -> Measurement:
        """Match all pairs, block by block, and count what is right."""
        with context.stage("pairs"):
            links, pointless = _links(config, data.val)
        categories = sorted({link.category for link in links})
        pck = ops.PCK(len(categories), len(config.alphas))
        shown = {links[i] for i in np.linspace(0, len(links) - 1, min(config.examples, len(links))).astype(int)}
        examples: list[_Match] = []
        chance = torch.zeros(len(config.alphas), dtype=torch.float64)
        for found in _matches(config, links, data.val, context):
            with context.stage("score"):
                link, extent = found.link, found.extent(config.threshold)
                hits = ops.correct(found.predicted, found.truth, extent, config.alphas)
                pck.update(categories.index(link.category), link.source, link.target, hits)
                chance += len(found.truth) * found.chance(extent, config.alphas)
            if link in shown:
                examples.append(found)
        counted = pck.counted()
        with context.stage("figures"):
            picture = _picture(config, examples, data.val)
        notes = ["pairs that share an image are not independent: intervals resample images"]
        if pointless:
            notes.append(f"{pointless} listed pairs without a common visible key point are left out")
        return Measurement(
            metrics=tuple(_metrics(config, pck, categories)),
            facts={
                "pairs": len(links),
                "key_points": int(counted[:, 0].sum()),
                "pairs_by_category": dict(zip(categories, counted[:, 1].tolist(), strict=True)),
                "key_points_by_category": dict(zip(categories, counted[:, 0].tolist(), strict=True)),
                "pairs_from": "drawn" if listed_pairs(data.val) is None else "list of the dataset",
                "pck_of_guessing": {
                    _name(alpha): round(100 * float(value) / int(counted[:, 0].sum()), 4)
                    for alpha, value in zip(config.alphas, chance, strict=True)
                },
            },
            notes=tuple(notes),
            artifacts={"matches.png": picture},
        )


class _Link(NamedTuple):
    """Two objects of one category: images as positions in the dataset, objects as positions in their image."""

    source: int
    source_object: int
    target: int
    target_object: int
    category: str


@dataclass(frozen=True)
class _Match:
    """What was found for one link, in pixels of its images."""

    link: _Link
    points: Tensor  # (K, 2) in the source
    predicted: Tensor  # (K, 2) in the target
    truth: Tensor  # (K, 2)
    bbox: tuple[float, float, float, float]
    size: tuple[int, int]  # of the target, (H, W)

    def extent(self, threshold: str) -> float:
        """Return the longer side that tolerances are parts of."""
        x1, y1, x2, y2 = self.bbox
        return max(x2 - x1, y2 - y1) if threshold == "bbox" else float(max(self.size))

    def chance(self, extent: float, alphas: Sequence[float]) -> Tensor:
        """Return how often a pixel drawn at random is right, (A,): the disc's share of the image, at most 1."""
        radii = torch.tensor(alphas, dtype=torch.float64) * extent
        return (math.pi * radii.square() / math.prod(self.size)).clamp(max=1)


def _links(config: CorrespondenceConfig, data: DenseDataset) -> tuple[list[_Link], int]:
    """Return the links to match, sorted by images, and the number of listed pairs that share no visible point."""
    listed = listed_pairs(data)
    if listed is None:
        return _drawn(config, data), 0
    if config.pairs is not None and config.pairs < len(listed):
        chosen = np.random.default_rng(config.seed).choice(len(listed), config.pairs, replace=False)
        listed = [listed[i] for i in chosen]
    links = []
    for target, pairs in itertools.groupby(sorted(listed, key=lambda pair: pair[::-1]), key=lambda pair: pair[1]):
        (end,) = data.keypoints(target)
        for source, _ in pairs:
            (start,) = data.keypoints(source)
            if start.category != end.category:
                raise DatasetError(
                    f"{data.info.name} pairs {data.ids[source]} ({start.category}) with {data.ids[target]} "
                    f"({end.category}); expected one category."
                )
            if _common(start, end).any():
                links.append(_Link(source, 0, target, 0, end.category))
    if not links:
        raise _no_pairs(data)
    return sorted(links), len(listed) - len(links)


def _drawn(config: CorrespondenceConfig, data: DenseDataset) -> list[_Link]:
    """Draw links from all pairs of objects of one category in two images."""
    objects = [(i, k, thing.category, thing.visible) for i in range(len(data)) for k, thing in _things(data, i)]
    names = sorted({category for _, _, category, _ in objects})
    pairs = ops.draw_pairs(
        [names.index(category) for _, _, category, _ in objects],
        [image for image, _, _, _ in objects],
        [visible for _, _, _, visible in objects],
        config.pairs or DRAWN,
        config.seed,
    )
    if not pairs:
        raise _no_pairs(data)
    return sorted(_Link(*objects[a][:2], *objects[b][:2], objects[a][2]) for a, b in pairs)


def _things(data: DenseDataset, index: int) -> list[tuple[int, Keypoints]]:
    return list(enumerate(data.keypoints(index)))


def _common(a: Keypoints, b: Keypoints) -> NDArray[np.bool_]:
    """Return which key points (K,) both objects show."""
    return a.visible & b.visible


def _no_pairs(data: DenseDataset) -> DatasetError:
    return DatasetError(
        f"{data.info.name}: no pair among {len(data)} images of split {data.split} has a common visible key point. "
        f"Raise --limit, or run `densebench data check {data.info.name}`."
    )


def _matches(
    config: CorrespondenceConfig, links: list[_Link], data: DenseDataset, context: Context
) -> Iterator[_Match]:
    """Yield the match of every link. A block of sources is read, then each of its targets once."""
    spec = _spec(config)

    # bounded, and large enough that images of usual datasets are not decoded twice for it
    @lru_cache(maxsize=1 << 14)
    def size(index: int) -> tuple[int, int]:
        width, height = data.image(index).size
        return height, width

    for block in _blocks(links):
        held: dict[tuple[int, int], tuple[Keypoints, Tensor]] = {}
        wanted = {(link.source, link.source_object) for link in block}
        sources = sorted({source for source, _ in wanted})
        for batch in context.timed(context.features.stream(data, spec, sources, title="sources"), "features"):
            with context.stage("match"):
                for index, features in zip(batch.indices, batch.maps, strict=True):
                    for k, thing in _things(data, index):
                        if (index, k) in wanted:
                            points = torch.from_numpy(thing.xy).to(features.device)
                            cells = ops.rescale(points, size(index), (features.shape[1], features.shape[2]))
                            held[index, k] = thing, ops.descriptors(features, cells)
        by_target = {
            target: list(mine)
            for target, mine in itertools.groupby(sorted(block, key=lambda link: link.target), lambda link: link.target)
        }
        stream = context.features.stream(data, spec, list(by_target), title="targets")
        for batch in context.timed(stream, "features"):
            for index, features in zip(batch.indices, batch.maps, strict=True):
                with context.stage("match"):
                    found = _match_target(config, features, size(index), data.keypoints(index), by_target[index], held)
                yield from found


def _match_target(
    config: CorrespondenceConfig,
    features: Tensor,
    size: tuple[int, int],
    things: Sequence[Keypoints],
    links: list[_Link],
    held: dict[tuple[int, int], tuple[Keypoints, Tensor]],
) -> list[_Match]:
    """Match all links into one target image at once: its map (D, h, w) is upsampled once."""
    grid = features.shape[1], features.shape[2]
    pixels = {"image": size, "input": _spec(config).size, "grid": grid}[config.upsampling]
    starts = [held[link.source, link.source_object] for link in links]
    ends = [things[link.target_object] for link in links]
    common = [torch.from_numpy(_common(start, end)) for (start, _), end in zip(starts, ends, strict=True)]
    queries = torch.cat([d[both.to(d.device)] for (_, d), both in zip(starts, common, strict=True)])
    places = ops.rescale(ops.match(queries, features, pixels).double(), pixels, size).cpu()
    return [
        _Match(
            link,
            torch.from_numpy(start.xy)[both],
            predicted,
            torch.from_numpy(end.xy)[both],
            end.bbox,
            size,
        )
        for link, (start, _), end, both, predicted in zip(
            links, starts, ends, common, places.split([int(c.sum()) for c in common]), strict=True
        )
    ]


def _blocks(links: list[_Link]) -> Iterator[list[_Link]]:
    """Cut sorted links where another BLOCK source images begin."""
    numbers = {source: i // BLOCK for i, source in enumerate(sorted({link.source for link in links}))}
    for _, block in itertools.groupby(links, lambda link: numbers[link.source]):
        yield list(block)


def _metrics(config: CorrespondenceConfig, pck: ops.PCK, categories: list[str]) -> Iterator[Metric]:
    overall, by_category = 100 * pck.overall(), 100 * pck.by_category()
    low, high = percentile_interval(100 * pck.replicates())
    for kind, name in enumerate(("pck", "pck_image")):
        for a, alpha in enumerate(config.alphas):
            interval = (float(low[kind, a]), float(high[kind, a]))
            yield Metric(
                name=f"{name}@{_name(alpha)}",
                value=float(overall[kind, a]),
                main=kind == 0 and a == 0,
                ci95=None if math.isnan(interval[0]) else interval,
                ci_method="Poisson bootstrap over validation images; a pair counts by the product of its two images",
                per_class={c: round(float(v), 4) for c, v in zip(categories, by_category[:, kind, a], strict=True)},
            )


def _name(alpha: float) -> str:
    """Return alpha with two decimals, more where they would say another number."""
    return f"{alpha:.2f}" if round(alpha, 2) == alpha else f"{alpha:g}"


def _picture(config: CorrespondenceConfig, matches: list[_Match], data: DenseDataset) -> bytes:
    """Return the pairs as PNG, source left, target right: green lines are right at the first alpha, red ones not.

    Crosses are the true places.
    """
    rows = -(-len(matches) // 2)
    figure = Figure(figsize=(11, 2.7 * max(rows, 1)), layout="constrained")
    for axis, found in zip(figure.subplots(max(rows, 1), 2, squeeze=False).flat, matches, strict=False):
        link, side = found.link, 320
        ends = [data.image(index) for index in (link.source, link.target)]
        scales = [side / image.height for image in ends]
        canvases = [
            np.asarray(image.resize((max(1, round(image.width * scale)), side), Image.Resampling.BILINEAR))
            for image, scale in zip(ends, scales, strict=True)
        ]
        axis.imshow(np.concatenate(canvases, axis=1))
        shift = torch.tensor([canvases[0].shape[1], 0])
        start = (found.points + 0.5) * scales[0] - 0.5
        end, truth = ((place + 0.5) * scales[1] - 0.5 + shift for place in (found.predicted, found.truth))
        hits = ops.correct(found.predicted, found.truth, found.extent(config.threshold), config.alphas[:1])[0]
        for a, b, hit in zip(start.tolist(), end.tolist(), hits.tolist(), strict=True):
            color = "#21a84a" if hit else "#d62728"
            axis.plot((a[0], b[0]), (a[1], b[1]), color=color, linewidth=1, marker="o", markersize=3)
        for color, width in (("black", 2.5), ("white", 1.0)):  # visible on any ground
            axis.plot(*truth.T.tolist(), linestyle="none", marker="+", color=color, markersize=6, markeredgewidth=width)
        axis.set_title(f"{link.category}: {int(hits.sum())} of {len(hits)} within {config.alphas[0]:g}", fontsize=8)
    for axis in figure.axes:
        axis.set_axis_off()
    return figures.png(figure)


def _spec(config: CorrespondenceConfig) -> FeatureSpec:
    assert config.input_size is not None, "resolve() fills it in"
    side = config.input_size
    return FeatureSpec(size=(side, side), layer=config.layer, facet=config.facet, norm=config.norm)
