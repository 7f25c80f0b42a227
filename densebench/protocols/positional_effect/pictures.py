"""Pictures of the positional-effect study of a network, and the small arrays that a comparison of models is drawn from.

`study.py` has the numbers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from densebench.datasets.dataset import DatasetInfo
from densebench.figures import kit as figures
from densebench.ops import information
from densebench.ops.resize import resize_labels
from densebench.protocols.common import sweeps
from densebench.protocols.positional_effect.clusters import Assigned, Score
from densebench.protocols.positional_effect.study import NetworkStudy, Points
from densebench.protocols.protocol import Data

Picture = NDArray[np.uint8]
THUMBNAIL = 160
"""The longer side, in pixels, of the pictures kept to compare models."""


def pictures_of(study: NetworkStudy, assigned: Assigned, data: Data) -> dict[str, bytes]:
    """Return curves, scatter plots, grids of layers and facets, and the arrays that a comparison of models needs."""
    reads, scores, info = study.reads, study.scores, data.info
    palette = torch.tensor(info.palette, dtype=torch.float64)
    size = assigned.grid.size
    aggregated = [
        information.aggregate_map(tally.positions.total(), palette[score.mapping], size).round().byte().numpy()
        for tally, score in zip(assigned.tallies, scores, strict=True)
    ]
    real = information.aggregate_map(assigned.truth.total(), palette, size).round().byte().numpy()
    legend = (info.classes, info.palette, range(info.n_classes))
    panels = {
        "mIoU [%]": sweeps.by_layer(reads, [score.miou for score in scores], study.norm),
        "NMI of position and cluster": sweeps.by_layer(reads, [score.information.nmi for score in scores], study.norm),
    }
    if study.locality is not None:
        panels["locality bias I(K, Q) [nat]"] = {
            "mean of heads": dict(enumerate(study.locality.of_heads.mean(1).tolist(), 1)),
            "of the mean head": dict(enumerate(study.locality.of_mean.tolist(), 1)),
        }
    levels = {"NMI of position and cluster": ("ground truth", study.truth.nmi)}
    pictures: dict[str, bytes] = {
        "curves.png": figures.curves(panels, "layer", levels),
        "correlations.png": _scatter(study.points()),
        "aggregate.png": _aggregates(study, aggregated, real, legend),
    }
    images = [
        np.asarray(data.val.image(e.image).convert("RGB").resize((e.truth.shape[1], e.truth.shape[0])))
        for e in assigned.examples
    ]
    truth = [figures.colorize(e.truth.numpy(), info.palette) for e in assigned.examples]

    def row(i: int) -> list[Picture]:
        return [figures.colorize(_classes(e.clusters[i], scores[i]).numpy(), info.palette) for e in assigned.examples]

    if not images:
        return pictures
    top = {"image": images, "ground truth": truth}
    chosen = {sweeps.label(reads[i], study.depth): row(i) for i in study.best.values()}
    pictures["facets.png"] = figures.picture_grid({**top, **chosen}, (), legend)
    for facet in study.best:
        lines = {sweeps.label(read, study.depth): row(i) for i, read in enumerate(reads) if read.facet == facet}
        pictures[f"layers_{facet}.png"] = figures.picture_grid({**top, **lines}, (), legend)
    pictures["best.npz"] = _arrays(study, assigned, aggregated, real, images, info)
    return pictures


def _aggregates(
    study: NetworkStudy, aggregated: Sequence[Picture], real: Picture, legend: tuple[Any, Any, Any]
) -> bytes:
    """Return the aggregated maps (POS 2.2), facets below and layers beside each other, the ground truth last."""
    places: dict[str, dict[Any, Picture]] = {facet: {} for facet in study.best}
    for read, picture in zip(study.reads, aggregated, strict=True):
        places[read.facet][sweeps.label(read, study.depth).removeprefix(f"{read.facet} ")] = picture
    next(iter(places.values()))["ground truth"] = real
    columns = list(dict.fromkeys(name for row in places.values() for name in row if name != "ground truth"))
    columns.append("ground truth")
    rows = {facet: [row.get(name) for name in columns] for facet, row in places.items()}
    return figures.picture_grid(rows, columns, legend)


def _classes(clusters: Tensor, score: Score) -> Tensor:
    return score.mapping[clusters.long()].to(torch.uint8)


def _scatter(points: dict[str, Points]) -> bytes:
    titles = {
        "positional_log_miou": ("mIoU over positional effect", ("NMI", "log10 mIoU [%]")),
        "locality_positional": ("positional effect over locality", ("I(K, Q) [nat], mean of heads", "NMI")),
    }
    panels, labels = {}, {}
    for name, found in points.items():
        title, axes = titles[name]
        n, pearson, spearman = found.correlation
        title += f"\nn = {n}, Pearson {pearson:.2f}, Spearman {spearman:.2f}"
        panels[title], labels[title] = found.series, axes
    return figures.scatters(panels, labels)


def _arrays(
    study: NetworkStudy,
    assigned: Assigned,
    aggregated: Sequence[Picture],
    real: Picture,
    images: Sequence[Picture],
    info: DatasetInfo,
) -> bytes:
    """Return aggregated maps and example segmentations of the best layers as NPZ, small: for grids across models."""
    height, width = assigned.examples[0].truth.shape
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))

    def shrunk(picture: Picture) -> Picture:
        return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BOX))

    arrays: dict[str, Any] = {
        "images": np.stack([shrunk(image) for image in images]),
        "truth": resize_labels(torch.stack([e.truth for e in assigned.examples]), size).numpy(),
        "aggregate_truth": shrunk(real),
        "classes": np.array(info.classes),
        "palette": np.array(info.palette, dtype=np.uint8),
    }
    for facet, i in study.best.items():
        maps = torch.stack([_classes(e.clusters[i], study.scores[i]) for e in assigned.examples])
        arrays[f"classes_{facet}"] = resize_labels(maps, size).numpy()
        arrays[f"aggregate_{facet}"] = shrunk(aggregated[i])
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()
