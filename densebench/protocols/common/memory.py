"""The memory of in-context retrieval: patches of training images with what is known of them, searched by likeness.

Shared by `hummingbird` (soft class labels) and `in_context_depth` (depth values). Source: open-hummingbird-eval 2.0
`hbird_eval.py` (HBIRD), and DIP's copy of it, `hummingbird/src/hbird_eval.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from densebench.core.errors import FeatureError, UsageError
from densebench.datasets.dataset import DenseDataset
from densebench.features.spec import Batch, FeatureSpec
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import faiss_calls, retrieval, sampling
from densebench.ops.search import SCANN_CENTRES, SPARE, ExactIndex, Index, Neighbours, make_index, recall_at_k
from densebench.protocols.common.memory_config import RetrievalConfig
from densebench.protocols.protocol import Context
from densebench.views.augment import Augment
from densebench.views.squash import Labels


def check(name: str, config: RetrievalConfig) -> None:
    """Raise UsageError for settings that cannot work together, or not on this machine."""
    if config.search == "scann" and config.similarity == "l2":
        raise UsageError(f"{name}.search=scann has published settings for similarity=cosine only; use exact.")
    for wanted, package in ((config.search, "scann"), (config.backend, "faiss")):
        if wanted == package and importlib.util.find_spec(package) is None:
            extra = {"scann": "scann", "faiss": "cpu"}[package]
            raise UsageError(f"{package} is not installed: pip install 'densebench[{extra}]'.")


def request(config: RetrievalConfig, epoch: int | None = None, seed: int = 0) -> FeatureSpec:
    """Return the feature request of memory images (an epoch) or validation images (none)."""
    augment = Augment(seed=seed, epoch=epoch) if epoch is not None and config.augmentation_epochs else None
    return replace(config.spec, std=config.std, augment=augment)


class MemorySize(NamedTuple):
    """How a memory is filled."""

    images: int
    epochs: int
    patches: int
    """Patches of one image."""
    per_image: int
    """Patches that an image gives in one epoch."""

    @property
    def rows(self) -> int:
        """Rows of the memory."""
        return self.images * self.epochs * self.per_image

    def nbytes(self, config: RetrievalConfig, width: int, label_width: int) -> int:
        """Return the size of the memory with features of `width` and labels of `label_width` values."""
        each = {"float32": 4, "float16": 2}[config.memory_dtype]
        return self.rows * (each * (width + label_width) + 4)


def size_of(config: RetrievalConfig, backbone: BackboneInfo, images: int) -> MemorySize:
    """Return how a memory of `images` is filled."""
    height, width = request(config).grid(backbone)
    patches, epochs = height * width, max(1, config.augmentation_epochs)
    if config.memory_size is None:
        return MemorySize(images, epochs, patches, patches)
    return MemorySize(images, epochs, patches, sampling.patches_per_image(config.memory_size, images, epochs, patches))


class Content(NamedTuple):
    """What a memory knows of a patch."""

    width: int
    """Values L per patch."""
    of: Callable[[Tensor], Tensor]
    """From the ground truth (B, H, W) of some images to the values (B, h, w, L) of their patches."""
    scores: Callable[[Tensor], Tensor]
    """From those to how common each patch is in its image, (B, h, w): see `densebench.ops.sampling`."""


class Origin(NamedTuple):
    """Where a row of a memory comes from."""

    epoch: int
    image: int
    """Position in the dataset."""
    patch: int
    """Row-major position in the grid."""


@dataclass(frozen=True)
class Memory:
    """Patches with their features, normalised for cosine, and their labels.

    `search` finds the nearest of a query, `aggregate` averages their labels.
    """

    config: RetrievalConfig
    seed: int
    """Of augmentation and sampling."""
    size: MemorySize
    indices: list[int]
    """The images, in the order in which they filled the memory, epoch after epoch."""
    keys: Tensor
    """(N, D)."""
    labels: Tensor
    """(N, L)."""
    chosen: Tensor | None
    """(N,) int32, the patch that each row is; None where every patch is kept."""
    index: Index

    @property
    def facts(self) -> dict[str, object]:
        """What the result says of it."""
        return {
            "images": self.size.images,
            "rows": self.size.rows,
            "rows_per_image": self.size.per_image,
            "search": self.config.search,
            "backend": self.index.backend,
        }

    def search(self, queries: Tensor) -> Neighbours:
        """Return the nearest rows of queries (Q, D)."""
        return self.index.search(queries, self.config.neighbours)

    def aggregate(self, queries: Tensor, found: Neighbours, missing: float | None = None) -> Tensor:
        """Return the labels (Q, L) that queries take over from the rows found, see `retrieval.attend`."""
        # scores of unit keys are cosines but for the query's norm; other keys have to be looked at again
        cosine = self.config.similarity == "cosine"
        return retrieval.attend(
            queries,
            found.indices,
            self.labels,
            scores=found.scores if cosine else None,
            keys=None if cosine else self.keys,
            temperature=self.config.temperature,
            missing=missing,
        )

    def recall(self, queries: Tensor, found: Neighbours) -> float:
        """Return the share of the exact neighbours that an approximate search found."""
        if self.config.search == "exact":
            return 1.0
        exact = ExactIndex(self.keys).search(queries, self.config.neighbours)
        return recall_at_k(found.indices, exact.indices)

    def origin(self, row: int) -> Origin:
        """Return where a row comes from."""
        image, place = divmod(row, self.size.per_image)
        epoch, at = divmod(image, self.size.images)
        return Origin(epoch, self.indices[at], place if self.chosen is None else int(self.chosen[row]))


def fit(
    config: RetrievalConfig,
    backbone: BackboneInfo,
    train: DenseDataset,
    indices: list[int],
    content: Content,
    context: Context,
    title: str,
) -> Memory:
    """Collect features and labels of the memory images, sampled per image where the memory is bounded.

    Raises UsageError where faiss is asked for and cannot search, FeatureError with the image's id for a patch of length
    zero, which has no direction to compare.
    """
    size = size_of(config, backbone, len(indices))
    dtype, device = getattr(torch, config.memory_dtype), context.features.device
    if config.backend == "faiss" and (reason := faiss_calls.why_not(device, config.neighbours + SPARE)):
        raise UsageError(f"backend=faiss: {reason}, or use backend=torch.")
    keys = torch.empty(size.rows, backbone.width, dtype=dtype)
    labels = torch.empty(size.rows, content.width, dtype=dtype)
    sampled = size.per_image < size.patches
    places = torch.empty(size.rows, dtype=torch.int32) if sampled else None
    generator = torch.Generator().manual_seed(context.seed)
    filled = 0
    for epoch in range(size.epochs):
        spec = request(config, epoch, context.seed)
        for batch in context.features.stream(train, spec, indices, labels=Labels(spec.size), title=title):
            known = content.of(batch.labels)  # (B, h, w, L)
            values = known.flatten(1, 2)
            features = batch.maps.flatten(2).transpose(1, 2)  # (B, P, D)
            stop = filled + len(batch.indices) * size.per_image
            if places is not None:
                # one draw per image, so that the batch size cannot change which patches are kept
                noise = torch.stack([torch.rand(size.patches, generator=generator) for _ in batch.indices])
                chosen = sampling.sample_patches(content.scores(known), size.per_image, noise)
                places[filled:stop] = chosen.flatten()
                features = features.gather(1, chosen[..., None].to(features.device).expand(-1, -1, features.shape[2]))
                values = values.gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))
            if config.similarity == "cosine":
                names = [train.ids[i] for i in batch.indices]
                features = _unit(features, names, backbone.name)
            keys[filled:stop] = features.flatten(0, 1)
            labels[filled:stop] = values.flatten(0, 1)
            filled = stop
    keys, labels = keys.to(device), labels.to(device)
    if config.search == "scann" and len(keys) < SCANN_CENTRES:
        raise UsageError(
            f"search=scann needs {SCANN_CENTRES} rows; a memory of {len(indices)} images has {len(keys)}. Use "
            "search=exact, or raise --limit."
        )
    metric: Literal["ip", "l2"] = "ip" if config.similarity == "cosine" else "l2"
    # faiss would hold a float32 copy beside keys of half precision
    backend = "torch" if config.memory_dtype == "float16" and config.backend == "auto" else config.backend
    index = make_index(keys, config.search, backend, metric, config.neighbours)
    return Memory(config, context.seed, size, indices, keys, labels, places, index)


def predict(
    bank: Memory, data: DenseDataset, context: Context, title: str, missing: float | None = None
) -> Iterator[tuple[Batch, Tensor, float]]:
    """Yield each batch of query images, the labels (B, h, w, L) its patches take over, and the recall of the search.

    The recall is that of the first batch; `missing` as `Memory.aggregate` has it.
    """
    spec, recall = request(bank.config), None
    stream = context.features.stream(data, spec, labels=Labels(spec.size), title=title)
    for batch in context.timed(stream, "features"):
        with context.stage("search"):
            found = bank.search(batch.tokens)
        recall = bank.recall(batch.tokens, found) if recall is None else recall
        with context.stage("search"):
            labels = bank.aggregate(batch.tokens, found, missing)
        yield batch, labels.unflatten(0, (len(batch.indices), *batch.maps.shape[2:])), recall


def _unit(features: Tensor, names: list[str], model: str) -> Tensor:
    """Return features (B, K, D) of length one."""
    try:
        return retrieval.normalise_keys(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    except ValueError as error:
        lengthless = int((features.norm(dim=2) == 0).any(1).nonzero()[0])
        raise FeatureError(
            f"{model} gives image {names[lengthless]} a patch of length zero, which has no direction to compare "
            f"({error}). Use another layer or facet."
        ) from error
