"""Settings of the positional-effect study: see `densebench.protocols.positional_effect.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densebench.core.bounds import Auto, Count, Natural, Positive
from densebench.core.config import AS_PAPER, Preset, known
from densebench.protocols.common.sweep_config import PAPER, SweepConfig


@dataclass(frozen=True, kw_only=True)
class PositionalEffectConfig(SweepConfig):
    """Settings of the positional-effect study (POS 2.1, A.2)."""

    presets = {
        "paper": Preset(source=f"{PAPER}, 2.1 to 2.3 and A.2"),
        "embedded": AS_PAPER,
        "sweep": Preset(
            source=f"{PAPER}, 2.4, 3.2, 3.3 and A.11 (table 4): every layer and facet, best layer by mIoU",
            settings={"layers": "all", "facets": "all"},
        ),
        "embedded-sweep": Preset(
            source="preset sweep with few steps, each of which runs the backbone on all its images",
            settings={"layers": "all", "facets": "all", "steps": 100, "batch": 8, "init_batches": 24},
        ),
        "overclustering": Preset(
            source=f"{PAPER}, A.5: 70 clusters more; the matching is left open and follows NeCo and Leopart",
            settings={"extra_clusters": 70, "matching": "precision"},
        ),
        "raw": Preset(source=f"{PAPER}, A.11, table 4, row Before: no final norm", settings={"norm": False}),
    }
    clusters: Count | Auto = "auto"
    """Number of clusters; "auto": the number of classes (27 in the paper) and `extra_clusters`."""
    extra_clusters: Natural = 0
    """Clusters beyond the classes: 70 in POS A.5."""
    matching: Literal["hungarian", "precision"] = "hungarian"
    """One-to-one over the whole test set (POS 2.2); "precision" gives each cluster its best class, which POS A.5
    leaves open and NeCo and Leopart do where clusters outnumber classes."""
    steps: Count = 5000
    """Of the online k-means (POS A.2)."""
    batch: Count = 24
    """Images per step (POS A.2)."""
    learning_rate: Positive = 5e-3
    """Of Adam on the centroids."""
    init_batches: Count = 96
    """Batches whose principal components are the initial centroids (POS A.2)."""
    cell: Count = 1
    """Side in pixels of one position. Larger cells need less memory and have less bias, and hide what varies within."""
    groups: Count = 10
    """Image groups of the jackknife."""
    locality: Literal["auto", "patches", "all", "none"] | None = "auto"
    """Tokens between which a sweep measures the locality bias I(K, Q) of POS 3.3: patches alone, renormalised, or all,
    class token and registers too; "auto": patches where the backbone gives attention, else none. POS is silent."""

    @property
    def n_clusters(self) -> int:
        """`clusters` as a number; raises ValueError for a config that was not resolved."""
        return known(self.clusters, "clusters")
