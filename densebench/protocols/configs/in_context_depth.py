"""Settings of in-context depth: see `densebench.protocols.in_context_depth`."""

from __future__ import annotations

from dataclasses import dataclass

from densebench.bounds import Count, Natural, Positive
from densebench.config import no_score
from densebench.protocols.configs.retrieval import RetrievalConfig


@dataclass(frozen=True, kw_only=True)
class InContextDepthConfig(RetrievalConfig):
    """Settings of in-context depth beside those of the memory (`memory.RetrievalConfig`)."""

    input_size: Count | None = None
    """Side in pixels; None: 504 (DIP README), rounded down to a multiple of the patch."""
    temperature: Positive = 0.07
    """Of the softmax over the neighbours' cosine similarities (P-DIP Tab. 7, DIP README)."""
    memory_size: Count | None = 10_240_000
    """Rows of the memory (P-DIP 3.1); None keeps every patch."""
    augmentation_epochs: Natural = 2
    """Passes over the memory images (DIP README); 0 takes them as they are."""
    bins: Count = 255
    """Bins of depth that stand for classes when patches are drawn (DIP)."""
    min_depth: Positive = 1e-3
    """Metres: exclusive lower bound of what is evaluated."""
    max_depth: Positive = 10.0
    """Metres: exclusive upper bound; 10 as for NYU."""
    eigen_crop: bool = False
    """Evaluate inside the crop of Eigen et al. that NYU is usually evaluated in."""
    examples: Natural = no_score(6)
    """Images in the picture; 0 draws none."""
