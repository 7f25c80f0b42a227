"""Studies of all layers and facets of a network: what `positional_effect` and `correspondence` share.

Source: "Unsupervised Semantic Segmentation Facilitates Model Understanding" (P-POS), 2.4, figures 4 and 11, table 3.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from densebench.errors import UsageError
from densebench.features import FeatureSpec, Labels, ReadBatch
from densebench.model_zoo.backbone import FACETS, BackboneInfo, Facet, Read

if TYPE_CHECKING:
    from densebench.datasets.dataset import DenseDataset
    from densebench.protocols.protocol import Context

SELECTED = "the best layers were chosen on the validation split whose scores are reported, as in the paper"


def select_layers(
    protocol: str, asked: Literal["all"] | tuple[int, ...] | None, single: int, backbone: BackboneInfo
) -> tuple[int, ...]:
    """Return the layers of a sweep, from 0 and ascending; None asks for the single one.

    "all" of a backbone that gives its last layer only is that layer. Raises UsageError for layers that are not there.
    """
    depth = backbone.depth
    if asked == "all":
        return tuple(range(depth)) if backbone.any_layer else (depth - 1,)
    wanted = (single,) if asked is None else asked
    if not wanted or any(not -depth <= layer < depth for layer in wanted):
        raise UsageError(f"{protocol}.layers={list(wanted)}: {backbone.name} has layers 0 to {depth - 1}.")
    return tuple(sorted({layer % depth for layer in wanted}))


def select_facets(
    protocol: str, asked: Literal["all"] | tuple[Facet, ...] | None, single: Facet, backbone: BackboneInfo
) -> tuple[Facet, ...]:
    """Return the facets of a sweep in the order of `FACETS`; "all" are those that the backbone has.

    Raises UsageError for facets that it does not have.
    """
    wanted = backbone.facets if asked == "all" else (single,) if asked is None else asked
    if not wanted or not set(wanted) <= set(backbone.facets):
        raise UsageError(
            f"{protocol}.facets={list(wanted)}: {backbone.name} has the facets {', '.join(backbone.facets)}."
        )
    return tuple(facet for facet in FACETS if facet in wanted)


def reads_of(layers: Sequence[int], facets: Sequence[Facet], norm: bool, backbone: BackboneInfo) -> tuple[Read, ...]:
    """Return every layer of every facet, and the last tokens once more without the final norm (P-POS A.11).

    With `norm` False they are without it already, and once more with it.
    """
    reads = [Read(layer, facet, norm) for facet in facets for layer in layers]
    if backbone.any_layer and Read(backbone.depth - 1, "token", norm) in reads:
        reads.append(Read(backbone.depth - 1, "token", not norm))
    return tuple(reads)


def stream_reads(
    context: Context,
    data: DenseDataset,
    spec: FeatureSpec,
    reads: Sequence[Read],
    indices: Sequence[int] | None,
    title: str,
    *,
    labels: Labels | None = None,
    batch_size: int | None = None,
) -> Iterator[ReadBatch]:
    """Yield the maps of all reads, batch after batch: one read through the cache, several from one forward pass.

    Either way a read sees the same values in the same order, so that its numbers do not depend on the others.
    """
    features = context.features
    if len(reads) > 1:
        many = features.stream_many(data, spec, reads, indices, labels=labels, batch_size=batch_size, title=title)
        yield from context.timed(many, "features")
        return
    layer, facet, norm = reads[0]
    one = features.stream(
        data,
        replace(spec, layer=layer, facet=facet, norm=norm),
        indices,
        labels=labels,
        batch_size=batch_size,
        title=title,
    )
    for batch in context.timed(one, "features"):
        yield ReadBatch(batch.indices, (batch.maps,), batch.labels)


def label(read: Read, depth: int) -> str:
    """Return a read in words, layers counted from 1 as P-POS counts them: "token 12/12, raw"."""
    raw = ", raw" if read.facet == "token" and read.layer == depth - 1 and not read.norm else ""
    return f"{read.facet} {read.layer + 1}/{depth}{raw}"


def best(reads: Sequence[Read], scores: Sequence[float], norm: bool) -> dict[Facet, int]:
    """Return the position of the read with the highest score per facet, the first on ties.

    Reads with another `norm`, the ablation of the final one, do not take part.
    """
    found: dict[Facet, int] = {}
    for i, (read, score) in enumerate(zip(reads, scores, strict=True)):
        if read.norm == norm and (read.facet not in found or score > scores[found[read.facet]]):
            found[read.facet] = i
    return found


def by_layer(reads: Sequence[Read], scores: Sequence[float], norm: bool) -> dict[str, dict[int, float]]:
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
