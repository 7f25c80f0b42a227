"""The one feature pass: images to feature maps, in a stream, through a bounded cache that all protocols share.

Features are a pure function of (weights, preprocessing, request, image), so a pass is done once and read by every
protocol that asks for the same request. They are rounded to the request's dtype whether or not they are cached: a
score never depends on the state of the cache. Random augmentation is drawn from (seed, epoch, image) and is therefore
part of the request, not of chance.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from densebench.core.config import score_hash
from densebench.core.errors import FeatureError
from densebench.core.progress import Progress
from densebench.datasets.dataset import DenseDataset
from densebench.features.cache import CachedFeatures, FeatureCache
from densebench.features.spec import Batch, FeatureSpec
from densebench.model_zoo.backbone import Backbone, DenseFeatures, FeatureKey
from densebench.views.order import load_views
from densebench.views.squash import Labels, Squashed

Precision = Literal["float32", "bfloat16", "float16"]

MOST_LOST = 2.0**-10
"""Share of a map's norm that rounding to float16 may take: twice what it can take of normal numbers. Above, many values
are subnormal or zero; a few tiny ones among normal ones do not come near it."""
SAFE = 2.0**-14
"""Root mean square from which no map loses as much: subnormal numbers are off by at most 2^-25 = SAFE * 2^-11."""


class _Pass(NamedTuple):
    """What is read of a dataset, and how many images at a time."""

    data: DenseDataset
    spec: FeatureSpec | None
    labels: Labels | None
    size: int


class FeatureSource:
    """Streams features of one backbone; the only place where images meet the model."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        cache: FeatureCache | None = None,
        progress: Progress | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        dtype: Literal["float16", "float32"] = "float16",
        batch_size: int = 16,
        workers: int = 0,
    ) -> None:
        self.backbone = backbone.to(device).eval()
        self.info = dataclasses.replace(backbone.info, attention=backbone.has_attention)
        self.cache = cache
        self.progress = progress or Progress(quiet=True)
        self.device = torch.device(device)
        self.precision = precision
        self.dtype = dtype
        self.batch_size = batch_size
        self.workers = workers
        self._weights = ""

    @property
    def weights_digest(self) -> str:
        """The backbone's weights digest, computed once."""
        self._weights = self._weights or self.backbone.weights_digest()
        return self._weights

    def stream(
        self,
        data: DenseDataset,
        spec: FeatureSpec | None,
        indices: Sequence[int] | None = None,
        *,
        labels: Labels | None = None,
        batch_size: int | None = None,
        title: str = "features",
    ) -> Iterator[Batch]:
        """Yield features and labels of `indices` (default: all), in order, in batches.

        Requests of one key go through the cache, and their batches may be smaller than asked for where cached and
        missing images alternate. Others are read anew each time: the four facets of twelve layers of one thousand
        images are some 60 GB at 448 pixels and width 768. A key's values are the same either way.

        `spec=None` yields labels only. Raises FeatureError for features that are not finite, with the image's id,
        ModelError for what the backbone does not have, and DatasetError or CorruptFileError for files that cannot be
        read.
        """
        wanted = list(range(len(data))) if indices is None else list(indices)
        batches = self._batches(_Pass(data, spec, labels, batch_size or self.batch_size), wanted)
        yield from self.progress.track(batches, title, len(wanted), size="indices")

    def _batches(self, asked: _Pass, wanted: list[int]) -> Iterator[Batch]:
        spec, stored = asked.spec, None
        if spec is not None and self.cache is not None and len(spec.keys) == 1 and not spec.attention:
            shape = (*spec.grid(self.info), self.info.width)
            stored = self.cache.open(self._key(asked.data, spec), wanted, shape, self.dtype)
        if stored is None:
            yield from self._extracted(asked, wanted, None)
            return
        # cached and missing images may alternate: each run of equals is served by one loader, order kept
        at = 0
        while at < len(wanted):
            is_cached, run = _run_at(at, wanted, stored.indices)
            read = self._cached if is_cached else self._extracted
            for batch in read(asked, run, stored):  # ends early where something is lost
                at += len(batch.indices)
                yield batch
        stored.close()

    def _cached(self, asked: _Pass, run: list[int], stored: CachedFeatures) -> Iterator[Batch]:
        """Yield what the cache has, up to the first batch in which it has less than it said."""
        read = self._load(asked, run, images=False) if asked.labels else None
        for chunk in _chunks(run, asked.size):
            array = stored.read(chunk)
            if array is None:
                return
            maps = torch.from_numpy(array).to(self.device).permute(0, 3, 1, 2)
            yield Batch(chunk, (maps,), _labels(chunk, next(read)[2] if read else None))

    def _extracted(self, asked: _Pass, run: list[int], stored: CachedFeatures | None) -> Iterator[Batch]:
        """Yield what the backbone gives now, and keep it where there is an entry for it."""
        spec = asked.spec
        for chunk, images, masks in self._load(asked, run):
            if spec is None or images is None:
                yield Batch(chunk, (), _labels(chunk, masks))
                continue
            names = [asked.data.ids[i] for i in chunk]
            found = self.dense(images, names, spec.keys, spec.std).maps if spec.keys else ()
            rows = [maps.permute(0, 2, 3, 1).contiguous() for maps in found]  # laid out as those that were cached
            if stored is not None:
                stored.append(chunk, rows[0].cpu().numpy())
            attention = self._attention(images, names, spec) if spec.attention else iter(())
            yield Batch(chunk, tuple(row.permute(0, 3, 1, 2) for row in rows), _labels(chunk, masks), attention)

    def dense(
        self,
        images: Tensor,
        names: Sequence[str],
        keys: Sequence[FeatureKey] = (FeatureKey(),),
        std: Sequence[float] | None = None,
        class_tokens: bool = False,
    ) -> DenseFeatures:
        """Run the backbone on images (B, 3, H, W), uint8 or in [0, 1], in this source's precision.

        Returns a map (B, D, h, w) per key, and its class token (B, D) where asked for and there, rounded to this
        source's type. Raises FeatureError with the `names` of images for which one is not finite.
        """
        with torch.no_grad(), self.autocast():
            found = self.backbone.dense(self._pixels(images), keys, std=std)
        n, tokens = len(keys), [token for token in found.class_tokens if class_tokens and token is not None]
        rounded = self._rounded([*found.maps, *tokens], names)
        return DenseFeatures(tuple(rounded[:n]), tuple(rounded[n:]) or (None,) * n)

    def _attention(self, images: Tensor, names: list[str], spec: FeatureSpec) -> Iterator[Tensor]:
        """Yield the attention (B, heads, N, N) of each layer asked for; raises FeatureError as `dense` does."""
        layers = self.backbone.attentions(self._pixels(images), spec.attention, std=spec.std)
        while True:
            with torch.no_grad(), self.autocast():  # not around the yield: it would hold for the caller too
                attention = next(layers, None)
            if attention is None:
                return
            self._refuse_infinite([attention], [attention], names)
            yield attention

    def _pixels(self, images: Tensor) -> Tensor:
        pixels = images.to(self.device, non_blocking=True)
        return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the backbone computes in this source's precision."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def _rounded(self, raw: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        """Return features in this source's type; raises FeatureError where they are infinite or lost in it."""
        rounded = [x.to(getattr(torch, self.dtype), copy=True) for x in raw]  # an adapter may use its memory again
        self._refuse_infinite(rounded, raw, names)
        self._refuse_lost(rounded, raw, names)
        return rounded

    def _refuse_lost(self, rounded: Sequence[Tensor], raw: Sequence[Tensor], names: Sequence[str]) -> None:
        """Raise FeatureError where rounding moves the map of an image by more than MOST_LOST of its norm."""
        for after, before in zip(rounded, raw, strict=True):
            norms = torch.linalg.vector_norm(before.flatten(1), dim=1, dtype=torch.float64)
            small = ((norms > 0) & (norms < SAFE * before[0].numel() ** 0.5)).nonzero().squeeze(1)
            for i in small.tolist():
                lost = float((after[i].double() - before[i].double()).norm() / norms[i])
                if lost > MOST_LOST:
                    scale = float(norms[i]) / before[i].numel() ** 0.5
                    raise FeatureError(
                        f"{self.info.name} returned features too small for {self.dtype} for image {names[i]}: their "
                        f"root mean square is {scale:.1e}, and rounding takes {lost:.1%} of their norm. "
                        "Run again with --feature-dtype float32."
                    )

    def _refuse_infinite(self, rounded: Sequence[Tensor], raw: Sequence[Tensor], names: Sequence[str]) -> None:
        finite = torch.stack([x.flatten(1).isfinite().all(dim=1) for x in rounded]).all(dim=0)
        if not finite.all():
            bad = [name for name, ok in zip(names, finite.tolist(), strict=True) if not ok]
            overflow = all(bool(x.isfinite().all()) for x in raw)
            raise FeatureError(
                f"{self.info.name} returned features that are not finite for image {', '.join(bad[:3])}"
                + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
                + (
                    ": they exceed float16. Run again with --feature-dtype float32."
                    if overflow
                    else " (NaN or infinity). No number was written; check the weights and the adapter."
                )
            )

    def _key(self, data: DenseDataset, spec: FeatureSpec) -> str:
        info = self.info
        return score_hash(
            {
                "weights": self.weights_digest,
                "model": [self.backbone.identity or info.name, info.patch, info.prefix, info.mean, info.std],
                "spec": spec,
                "precision": [self.precision, self.dtype],
                "data": data.digest(),
            }
        )

    def _load(
        self, asked: _Pass, wanted: list[int], images: bool = True
    ) -> Iterator[tuple[list[int], Tensor | None, Tensor | None]]:
        """Decode and resize in worker processes; yields (indices, images (B, 3, H, W), labels (B, H, W))."""
        data, spec, labels, size = asked
        if spec is None:
            reader = Squashed(data, None, labels=labels)
        else:
            reader = Squashed(data, spec.size if images else None, spec.interpolation, labels, spec.augment)
        return load_views(
            reader,
            list(_chunks(wanted, size)),
            self.workers if len(wanted) > 2 * size else 0,
            pin_memory=self.device.type == "cuda" and images,
        )


def _labels(chunk: list[int], masks: Tensor | None) -> Tensor:
    """Return the masks (B, H, W) of a batch, (B, 0, 0) where none were asked for."""
    return torch.empty(len(chunk), 0, 0, dtype=torch.uint8) if masks is None else masks


def _run_at(start: int, wanted: list[int], have: Container[int]) -> tuple[bool, list[int]]:
    """Return the longest run from a place in `wanted` on whose images are all cached (True), or all missing."""
    is_cached = wanted[start] in have
    stop = start + 1
    while stop < len(wanted) and (wanted[stop] in have) == is_cached:
        stop += 1
    return is_cached, wanted[start:stop]


def _chunks(items: Sequence[int], size: int) -> Iterable[list[int]]:
    return (list(items[i : i + size]) for i in range(0, len(items), size))
