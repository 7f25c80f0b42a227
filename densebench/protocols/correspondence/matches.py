"""Which pairs of objects `correspondence` matches, and where their keypoints are found by every read.

`correspondence.py` has the settings and their sources, `ops/correspondence.py` the numerics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DenseDataset, Keypoints
from densebench.datasets.pairs import listed_pairs
from densebench.model_zoo.backbone import FeatureKey
from densebench.ops import correspondence as ops
from densebench.protocols.protocol import Context

if TYPE_CHECKING:
    from densebench.protocols.correspondence.config import CorrespondenceConfig

DRAWN = 2000
"""Pairs that are drawn where a dataset lists none and the config does not say how many."""
BLOCK = 256
"""Source images whose descriptors are held at a time; targets are read once per block."""
BLOCK_BYTES = 2**30
"""What those descriptors may need, at thirty keypoints each; a sweep of many reads holds fewer images for it."""


class Link(NamedTuple):
    """Two objects of one category: images as positions in the dataset, objects as positions in their image."""

    source: int
    source_object: int
    target: int
    target_object: int
    category: str


@dataclass(frozen=True)
class Match:
    """What was found for one link, in pixels of its images."""

    link: Link
    points: Tensor  # (K, 2) in the source
    predicted: tuple[Tensor, ...]  # (K, 2) in the target, per read
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


def find_links(config: CorrespondenceConfig, data: DenseDataset) -> tuple[list[Link], int]:
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
                links.append(Link(source, 0, target, 0, end.category))
    if not links:
        raise _no_pairs(data)
    return sorted(links), len(listed) - len(links)


def _drawn(config: CorrespondenceConfig, data: DenseDataset) -> list[Link]:
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
    return sorted(Link(*objects[a][:2], *objects[b][:2], objects[a][2]) for a, b in pairs)


def _things(data: DenseDataset, index: int) -> list[tuple[int, Keypoints]]:
    return list(enumerate(data.keypoints(index)))


def _common(a: Keypoints, b: Keypoints) -> NDArray[np.bool_]:
    """Return which keypoints (K,) both objects show."""
    return a.visible & b.visible


def _no_pairs(data: DenseDataset) -> DatasetError:
    return DatasetError(
        f"{data.info.name}: no pair among {len(data)} images of split {data.split} has a common visible keypoint. "
        f"Raise --limit, or run `densebench data check {data.cli_name}`."
    )


def find_matches(
    config: CorrespondenceConfig, reads: Sequence[FeatureKey], links: list[Link], data: DenseDataset, context: Context
) -> Iterator[Match]:
    """Yield the match of every link by every read. A block of sources is read, then each of its targets once."""
    spec, features = replace(config.spec, keys=tuple(reads)), context.features

    # bounded, and large enough that images of usual datasets are not decoded twice for it
    @lru_cache(maxsize=1 << 14)
    def size(index: int) -> tuple[int, int]:
        width, height = data.image(index).size
        return height, width

    for block in _blocks(links, block_size(len(reads), features.info.width)):
        descriptors: _Sources = {}
        wanted = {(link.source, link.source_object) for link in block}
        sources = sorted({source for source, _ in wanted})
        for batch in context.timed(features.stream(data, spec, sources, title="sources"), "features"):
            with context.stage("match"):
                for i, index in enumerate(batch.indices):
                    for k, thing in _things(data, index):
                        if (index, k) in wanted:
                            points = torch.from_numpy(thing.xy).to(features.device)
                            cells = ops.rescale(points, size(index), spec.grid(features.info))
                            found = [ops.descriptors(maps[i].float(), cells) for maps in batch.by_key]
                            descriptors[index, k] = thing, found
        by_target = {
            target: list(mine)
            for target, mine in itertools.groupby(sorted(block, key=lambda link: link.target), lambda link: link.target)
        }
        for batch in context.timed(features.stream(data, spec, list(by_target), title="targets"), "features"):
            for i, index in enumerate(batch.indices):
                with context.stage("match"):
                    maps = [one[i] for one in batch.by_key]
                    matches = _match_target(
                        config, maps, size(index), data.keypoints(index), by_target[index], descriptors
                    )
                yield from matches


_Sources = dict[tuple[int, int], tuple[Keypoints, list[Tensor]]]
"""Keypoints of a source object, and their descriptors (K, D) by each read."""


def _match_target(
    config: CorrespondenceConfig,
    maps: Sequence[Tensor],
    size: tuple[int, int],
    things: Sequence[Keypoints],
    links: list[Link],
    descriptors: _Sources,
) -> list[Match]:
    """Match all links into one target image at once: each map (D, h, w) of it is upsampled once."""
    grid = maps[0].shape[1], maps[0].shape[2]
    pixels = {"image": size, "input": config.spec.size, "grid": grid}[config.upsampling]
    starts = [descriptors[link.source, link.source_object] for link in links]
    ends = [things[link.target_object] for link in links]
    common = [torch.from_numpy(_common(start, end)) for (start, _), end in zip(starts, ends, strict=True)]
    places = []
    for r, features in enumerate(maps):
        queries = torch.cat([d[r][both.to(features.device)] for (_, d), both in zip(starts, common, strict=True)])
        found = ops.match(queries, features.float(), pixels).double()
        places.append(ops.rescale(found, pixels, size).cpu().split([int(both.sum()) for both in common]))
    return [
        Match(link, torch.from_numpy(start.xy)[both], predicted, torch.from_numpy(end.xy)[both], end.bbox, size)
        for link, (start, _), end, both, *predicted_by in zip(links, starts, ends, common, *places, strict=True)
        for predicted in [tuple(predicted_by)]
    ]


def block_size(n_reads: int, width: int) -> int:
    """Return how many source images are held at a time: BLOCK, fewer where their descriptors would need too much."""
    return max(1, min(BLOCK, BLOCK_BYTES // (4 * 30 * width * n_reads)))


def _blocks(links: list[Link], size: int) -> Iterator[list[Link]]:
    """Cut sorted links where another `size` source images begin."""
    numbers = {source: i // size for i, source in enumerate(sorted({link.source for link in links}))}
    for _, block in itertools.groupby(links, lambda link: numbers[link.source]):
        yield list(block)
