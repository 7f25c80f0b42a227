"""Dense nearest-neighbour retrieval (Hummingbird): from patch features to labels by looking at similar patches.

Source: Balazevic et al. 2023, "Towards In-Context Scene Understanding"; numerics as in open-hummingbird-eval
``hbird_eval.py`` (``_find_nearest_key_to_query``, ``_cross_attention``, ``evaluate``). The search itself is in
:mod:`densebench.ops.search`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops.precision import widen
from densebench.ops.resize import resize_maps

TIE = 2.0**-18
"""Share of an image's largest value within which two classes of a pixel are tied: sixty-four roundings of float32. Maps
are means of labels or products of features, and their own last digits depend on the processor."""
GATHERED = 1 << 21
"""Labels widened at a time where they are of half precision or can be missing."""


def normalise_keys(features: Tensor) -> Tensor:
    """Return features (N, D) divided by their L2 norm, without an epsilon, as the reference stores its memory.

    Raises:
        ValueError: a row is zero or not finite (the reference would store NaN there and lose the query).
    """
    norms = features.norm(dim=-1, keepdim=True)
    bad = ~(norms.squeeze(-1) > 0) | ~norms.squeeze(-1).isfinite()
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise ValueError(f"feature row {row} has norm {float(norms[row])}: it cannot be a unit key")
    return features / norms


def attention(
    queries: Tensor,
    indices: Tensor,
    *,
    scores: Tensor | None = None,
    keys: Tensor | None = None,
    temperature: float = 0.02,
    chunk: int = 4096,
) -> Tensor:
    """Return how much queries attend to each of their neighbours, (Q, k) float32 at least, rows summing to 1.

    It is softmax(cos / T). Give either the ``scores`` of a dot-product search over unit keys, which are cosines but
    for the query's norm and make this cheap, or the ``keys`` themselves, which works after any search (DIP searches
    raw features by distance, then attends by cosine).

    Args:
        queries: (Q, D), not normalised.
        indices: (Q, k) rows of ``keys``.
        scores: (Q, k) dot products of the queries with unit keys.
        keys: (N, D), not necessarily normalised.
        temperature: T > 0; 0.02 in open-hummingbird-eval, 0.07 in DIP's scripts.
        chunk: queries per step when keys are gathered, which bounds the temporary (chunk, k, D).

    Raises:
        ValueError: neither or both of ``scores`` and ``keys`` were given, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is positive, got {temperature}")
    queries = widen(queries.to(indices.device))
    if scores is not None and keys is None:
        cosine = scores.to(indices.device) / queries.norm(dim=1, keepdim=True).clamp(min=1e-12)
    elif keys is not None and scores is None:
        cosine = torch.cat(
            [_cosine_by_gathering(q, keys[i]) for q, i in zip(queries.split(chunk), indices.split(chunk), strict=True)]
        )
    else:
        raise ValueError("give the scores of a search over unit keys, or the keys, and not both")
    return torch.softmax(cosine / temperature, dim=1)


def attend(
    queries: Tensor,
    indices: Tensor,
    labels: Tensor,
    *,
    scores: Tensor | None = None,
    keys: Tensor | None = None,
    temperature: float = 0.02,
    chunk: int = 4096,
    missing: float | None = None,
) -> Tensor:
    """Return the labels that queries take over from their neighbours, (Q, C): a mean weighted by :func:`attention`.

    Args:
        queries: see :func:`attention`, as ``scores``, ``keys``, ``temperature`` and ``chunk``.
        indices: (Q, k) rows of ``labels`` and ``keys``.
        labels: (N, C) floating: soft labels, or any values to average, such as depth patches. The mean is taken in
            the wider of their type and that of the queries, and in float32 at least.
        missing: a value that is no label: it is left out of the mean, which is NaN where all neighbours lack a value.
    """
    indices = indices.to(labels.device)
    weights = attention(queries, indices, scores=scores, keys=keys, temperature=temperature, chunk=chunk)
    weights = weights.to(torch.promote_types(weights.dtype, labels.dtype))
    if missing is None and labels.dtype == weights.dtype:  # nothing (Q, k, C) is built
        return F.embedding_bag(indices, labels, per_sample_weights=weights, mode="sum")
    block = max(1, GATHERED // max(1, indices.shape[1] * labels.shape[1]))
    return torch.cat(
        [_mean(w, labels[i].to(w), missing) for w, i in zip(weights.split(block), indices.split(block), strict=True)]
    )


def _mean(weights: Tensor, values: Tensor, missing: float | None) -> Tensor:
    """Return the means (q, C) of values (q, k, C) with weights (q, k)."""
    if missing is None:
        return torch.einsum("qk,qkc->qc", weights, values)
    known = values != missing
    total = torch.einsum("qk,qkc->qc", weights, known.to(weights.dtype))
    mean = torch.einsum("qk,qkc->qc", weights, values.masked_fill(~known, 0)) / total
    return mean.masked_fill(total == 0, torch.nan)


def _cosine_by_gathering(queries: Tensor, neighbours: Tensor) -> Tensor:
    """Return the cosines (q, k) of queries (q, D) with their neighbours (q, k, D)."""
    unit_keys = F.normalize(neighbours.to(queries), dim=-1)
    return torch.einsum("qd,qkd->qk", F.normalize(queries, dim=-1), unit_keys)


def upsample_argmax(maps: Tensor, size: int | tuple[int, int], class_block: int = 8) -> Tensor:
    """Return the class of each pixel, (B, H, W) int64: bilinear upsampling of class maps, then argmax.

    Equal to ``F.interpolate(maps, size, mode="bilinear").argmax(1)``, but never holds more than ``class_block``
    upsampled maps of one image, and near ties fall by rule, not by rounding: in the order of the classes, one takes a
    pixel over from another only if its value is greater by more than ``TIE`` of the image's largest.
    Classes that no pixel can choose are skipped: those that are zero everywhere, in maps without negative values that
    leave no cell empty (soft labels).

    Args:
        maps: (B, C, h, w) floating.
        size: (H, W).
        class_block: classes upsampled at a time.
    """
    return torch.stack([_upsample_argmax_one(image, size, class_block) for image in maps])


def _upsample_argmax_one(image: Tensor, size: int | tuple[int, int], class_block: int) -> Tensor:
    peaks, tie = image.amax((1, 2)), TIE * float(image.abs().max())
    coverable = bool((image.amin() >= 0) & (image.amax(0).amin() > 0))
    classes = peaks.nonzero().squeeze(1) if coverable else torch.arange(len(image), device=image.device)
    first = resize_maps(image[classes[:1]][None], size)[0, 0]
    to_beat, better = first + tie, torch.empty_like(first, dtype=torch.bool)
    winner = torch.full_like(first, int(classes[0]), dtype=torch.int16)  # a pass over it costs a quarter of int64's
    for block in classes[1:].split(class_block) if len(classes) > 1 else ():
        for label, value in zip(block.tolist(), resize_maps(image[block][None], size)[0], strict=True):
            torch.gt(value, to_beat, out=better)
            winner.masked_fill_(better, label)
            torch.where(better, value.add_(tie), to_beat, out=to_beat)
    return winner.long()
