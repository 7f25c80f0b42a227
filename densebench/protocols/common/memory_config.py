"""Settings of the memory of in-context retrieval: see `densebench.protocols.common.memory`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densebench.core.bounds import Auto, Count, Natural, Positive
from densebench.core.config import no_score
from densebench.protocols.common.feature_config import FeatureConfig


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(FeatureConfig):
    """Settings of every protocol that asks a memory of patches."""

    input_size: Count | Auto = "auto"
    """Side in pixels, of memory and query images; "auto": the dataset's own where it has one size, else 512
    (HBIRD), rounded down to a multiple of the patch."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Channel deviations instead of the weights' own."""
    neighbours: Count = 30
    """Rows of the memory that a patch takes its label from."""
    temperature: Positive = 0.02
    """Of the softmax over the neighbours' cosine similarities."""
    similarity: Literal["cosine", "l2"] = "cosine"
    """"cosine": unit-norm memory, inner product. "l2": squared distance of raw features, as DIP's code has it."""
    memory_size: Count | None = 10_240_000
    """Rows of the memory, shared evenly by the images, but no more than an image has patches; none keeps every one."""
    memory_dtype: Literal["float32", "float16"] = "float32"
    """What features and labels of the memory are rounded to (DIP: float16); products are in float32 all the same."""
    augmentation_epochs: Natural = 1
    """Passes over the memory images, each with new colour jitter and crop; 0 takes the images as they are."""
    search: Literal["exact", "scann"] = "exact"
    """"exact": the nearest neighbours themselves, the same on every machine. "scann": approximate, with the published
    parameters; needs the extra `scann`, and the record states its recall."""
    backend: Literal["auto", "torch", "faiss"] = no_score("auto")
    """Which exact search: they agree, so this is not part of the score hash."""
