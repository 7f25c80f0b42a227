"""Studies of all layers and facets of a network: what `positional_effect` and `correspondence` share.

Source: "Unsupervised Semantic Segmentation Facilitates Model Understanding" (POS), 2.4, figures 4 and 11, table 3.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from densebench.core.errors import UsageError
from densebench.model_zoo.backbone import FACETS, BackboneInfo, Facet, FeatureKey
from densebench.protocols.common.sweep_config import SweepConfig

SELECTED = "the best layers were chosen on the validation split whose scores are reported, as in the paper"


def resolve(protocol: str, config: SweepConfig, backbone: BackboneInfo) -> dict[str, Any]:
    """Return layers, from 0 and ascending, and facets, in the order of `FACETS`; {} where no sweep is asked for.

    "all" layers of a backbone that gives its last one only are that layer. Raises UsageError for what it does not have.
    """
    if config.layers is None and config.facets is None:
        return {}
    depth = backbone.depth
    layers = (config.layer,) if config.layers is None else config.layers
    if layers == "all":
        layers = tuple(range(depth)) if backbone.any_layer else (depth - 1,)
    if not layers or any(not -depth <= layer < depth for layer in layers):
        raise UsageError(f"{protocol}.layers={list(layers)}: {backbone.name} has layers 0 to {depth - 1}.")
    facets = (config.facet,) if config.facets is None else config.facets
    if facets == "all":
        facets = backbone.facets
    if not facets or not set(facets) <= set(backbone.facets):
        raise UsageError(
            f"{protocol}.facets={list(facets)}: {backbone.name} has the facets {', '.join(backbone.facets)}."
        )
    return {
        "layers": tuple(sorted({layer % depth for layer in layers})),
        "facets": tuple(facet for facet in FACETS if facet in facets),
    }


def feature_keys(config: SweepConfig, backbone: BackboneInfo) -> tuple[FeatureKey, ...]:
    """Return what a resolved config reads: every layer of every facet, or the one.

    A sweep reads the last tokens once more without the final norm (POS A.11); with `norm` False they are without it
    already, and once more with it.
    """
    layers, facets = config.layers, config.facets
    if layers is None or facets is None:
        return (FeatureKey(config.layer, config.facet, config.norm),)
    if isinstance(layers, str) or isinstance(facets, str):
        raise ValueError("the layers and facets of a sweep are still open: the config was not resolved")
    reads = [FeatureKey(layer, facet, config.norm) for facet in facets for layer in layers]
    if backbone.any_layer and FeatureKey(backbone.depth - 1, "token", config.norm) in reads:
        reads.append(FeatureKey(backbone.depth - 1, "token", not config.norm))
    return tuple(reads)


def label(read: FeatureKey, depth: int) -> str:
    """Return a read in words, layers counted from 1 as POS counts them: "token 12/12, raw"."""
    raw = ", raw" if read.facet == "token" and read.layer == depth - 1 and not read.norm else ""
    return f"{read.facet} {read.layer + 1}/{depth}{raw}"


def best(reads: Sequence[FeatureKey], scores: Sequence[float], norm: bool) -> dict[Facet, int]:
    """Return the position of the read with the highest score per facet, the first on ties.

    Reads with another `norm`, the ablation of the final one, do not take part.
    """
    found: dict[Facet, int] = {}
    for i, (read, score) in enumerate(zip(reads, scores, strict=True)):
        if read.norm == norm and (read.facet not in found or score > scores[found[read.facet]]):
            found[read.facet] = i
    return found


def by_layer(reads: Sequence[FeatureKey], scores: Sequence[float], norm: bool) -> dict[str, dict[int, float]]:
    """Return {facet: {layer counted from 1: score}}, the lines of a chart."""
    lines: dict[str, dict[int, float]] = {}
    for read, score in zip(reads, scores, strict=True):
        if read.norm == norm:
            lines.setdefault(read.facet, {})[read.layer + 1] = score
    return lines


def to_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows of equal keys as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
