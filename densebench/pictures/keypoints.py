"""Keypoints found again: the cosine of a keypoint's feature with another image, over layers and facets.

As figures 16 to 19 of the positional study (POS); pairs and best pixels are those of `correspondence`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densebench.core.errors import DatasetError
from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, dotted, overlay, scale_of
from densebench.model_zoo.backbone import FeatureKey
from densebench.ops import correspondence as ops
from densebench.ops.resize import resize_maps
from densebench.pictures.view import SHOWN, Kind, Model, View
from densebench.protocols.correspondence.matches import Link, find_links
from densebench.protocols.correspondence.protocol import Correspondence

START, RIGHT, WRONG = (214, 39, 40), (33, 168, 74), (214, 39, 40)


class Pair(NamedTuple):
    """A keypoint and its place in another image, in pixels of the two images."""

    link: Link
    point: Tensor
    """(1, 2), x then y, as the next."""
    truth: Tensor
    reach: float
    """How far from the truth is still right."""
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """(H, W) of both."""


class Heat(NamedTuple):
    """What one read says of a pair."""

    values: NDArray[np.floating]
    """Cosine, (H, W)."""
    best: tuple[float, float]
    """(x, y) in pixels of the target."""
    right: bool


Found = dict[int, tuple[Pair, dict[FeatureKey, Heat]]]
"""By position in the dataset of the source."""


def first_links(links: Sequence[Link]) -> dict[int, Link]:
    """Return for each image the first link that begins at it, else the first that ends there, turned round."""
    found: dict[int, Link] = {}
    turned = [Link(b, of_b, a, of_a, category) for a, of_a, b, of_b, category in links]
    for link in (*links, *turned):
        found.setdefault(link.source, link)
    return found


def heat_map(query: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the cosine (H, W) of a feature (D,) with a map (D, h, w) upsampled bilinearly to `size`."""
    dots = torch.einsum("d,dhw->hw", query, features)
    lengths = ops.upsampled_lengths(features, size) * query.norm()
    return resize_maps(dots[None, None], size)[0, 0] / lengths.clamp(min=1e-12)


class KeypointHeat(Kind[Found]):
    """A picture per chosen image."""

    name = "keypoints"

    def show(self, view: View, model: Model) -> Found:
        """Return the heat of one keypoint of each chosen image in the first image that it is paired with."""
        config, info, data = model.config(Correspondence()), model.source.info, view.data.val
        facets = (model.options.facet,) if model.options.facet else info.facets
        layers = model.layers if info.any_layer else (info.depth - 1,)
        keys = tuple(FeatureKey(layer, facet) for facet in facets for layer in layers)
        spec, found = replace(config.spec, keys=keys), Found()
        first = first_links(find_links(config, data)[0])
        for index in view.images:
            if index not in first:
                continue
            pair = _pair(view, first[index], config.threshold, config.alphas[0])
            both = list(model.source.stream(data, spec, [index, pair.link.target], batch_size=1, title="keypoints"))
            found[index] = pair, {key: _heat(pair, both[0].by_key[i], both[1].by_key[i]) for i, key in enumerate(keys)}
        if not found:
            raise DatasetError(
                f"none of {', '.join(view.ids[:3])} is matched with another image; choose others with --images, as "
                f"{', '.join(data.ids[i] for i in sorted(first)[:3])}."
            )
        return found

    def draw(self, view: View, shown: Mapping[str, Found]) -> Mapping[str, bytes]:
        """Return a picture per pair: a column per model and facet, a row per layer, all maps on one scale."""
        first = next(iter(shown.values()))
        return {
            f"{self.name}-{n}": self._draw(view, index, {name: found[index] for name, found in shown.items()})
            for n, index in enumerate(first, 1)
        }

    def _draw(self, view: View, index: int, shown: Mapping[str, tuple[Pair, dict[FeatureKey, Heat]]]) -> bytes:
        pair = next(iter(shown.values()))[0]
        source, target = view.image(index), view.image(pair.link.target)
        scale = scale_of("cosine", [heat.values for _, heats in shown.values() for heat in heats.values()], high=1.0)
        columns = list(dict.fromkeys((name, key.facet) for name, (_, heats) in shown.items() for key in heats))
        layers = sorted({key.layer for _, heats in shown.values() for key in heats})
        at_target = _scaled(pair.truth, pair.sizes[1], target)
        rows: dict[str, list[Picture | None]] = {
            "point, truth": [
                dotted(source, _scaled(pair.point, pair.sizes[0], source), START),
                dotted(target, at_target, RIGHT),
            ]
        }
        for layer in layers:
            rows[f"layer {layer + 1}"] = [
                _drawn(shown[name][1].get(FeatureKey(layer, facet)), scale, target, pair) for name, facet in columns
            ]
        return figures.picture_grid(rows, [f"{name}\n{facet}" for name, facet in columns], scale=scale)


def _pair(view: View, link: Link, threshold: str, alpha: float) -> Pair:
    """Return the first keypoint that both ends of a link show."""
    data = view.data.val
    start, end = data.keypoints(link.source)[link.source_object], data.keypoints(link.target)[link.target_object]
    k = int(np.flatnonzero(start.visible & end.visible)[0])
    sizes = tuple(data.image(index).size[::-1] for index in (link.source, link.target))
    x1, y1, x2, y2 = end.bbox
    extent = max(x2 - x1, y2 - y1) if threshold == "bbox" else max(sizes[1])
    point, truth = (torch.from_numpy(thing.xy[k : k + 1]).double() for thing in (start, end))
    return Pair(link, point, truth, alpha * extent, (sizes[0], sizes[1]))


def _heat(pair: Pair, source: Tensor, target: Tensor) -> Heat:
    """Return what maps (1, D, h, w) of both images say."""
    a, b = source[0].float().cpu(), target[0].float().cpu()
    query = ops.descriptors(a, ops.rescale(pair.point.float(), pair.sizes[0], (a.shape[1], a.shape[2])))
    best = ops.match(query, b, pair.sizes[1]).double()
    scale = min(1.0, SHOWN / min(pair.sizes[1]))
    size = (max(1, round(pair.sizes[1][0] * scale)), max(1, round(pair.sizes[1][1] * scale)))
    right = float((best - pair.truth).norm()) <= pair.reach
    return Heat(heat_map(query[0], b, size).numpy(), (float(best[0, 0]), float(best[0, 1])), right)


def _drawn(heat: Heat | None, scale: figures.Scale, target: Picture, pair: Pair) -> Picture | None:
    if heat is None:
        return None
    place = _scaled(torch.tensor([heat.best]), pair.sizes[1], target)
    return dotted(overlay(target, scale.paint(heat.values)), place, RIGHT if heat.right else WRONG)


def _scaled(point: Tensor, size: tuple[int, int], picture: Picture) -> tuple[float, float]:
    """Return a point (1, 2) of an image of `size` (H, W) in a picture of it."""
    x, y = ops.rescale(point, size, (picture.shape[0], picture.shape[1]))[0].tolist()
    return x, y


KIND = KeypointHeat()
