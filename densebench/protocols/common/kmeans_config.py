"""Settings of k-means on patches: see `densebench.protocols.common.clusters`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densebench.core.bounds import Count
from densebench.protocols.common.feature_config import FeatureConfig


@dataclass(frozen=True, kw_only=True)
class KMeansConfig(FeatureConfig):
    """How patches are clustered and their maps compared; protocols' configs add to it."""

    pca: Count | None = 50
    """Dimensions kept of the standardised tokens; none clusters the tokens as they are, not standardised either."""
    eval_size: Count = 100
    """Side that cluster maps and masks are compared at."""
    n_iter: Count = 100
    """Iterations of k-means."""
    n_redo: Count = 5
    """Starts of k-means, of which the best is kept."""
    points_per_centroid: Count = 256
    """k-means trains on at most so many tokens per centroid, faiss's default, which the published code leaves on."""
    kmeans: Literal["auto", "faiss", "torch"] = "auto"
    """Which implementation; "auto" is torch. Both draw the same rows, starts and splits, but their rounding differs and
    iterations amplify it, so it is part of the score hash. On a GPU faiss needs the extra `gpu`; without, it takes the
    CPU."""

    @property
    def backend(self) -> Literal["faiss", "torch"]:
        """What `kmeans` comes to."""
        return "torch" if self.kmeans == "auto" else self.kmeans
