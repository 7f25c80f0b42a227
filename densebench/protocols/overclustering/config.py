"""Settings of overclustering: see `densebench.protocols.overclustering.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from densebench.core.bounds import AtLeastOne, Count, Seed
from densebench.core.config import AS_PAPER, Preset, later
from densebench.ops.choices import AbsentRule, ClusterMatching
from densebench.protocols.common.kmeans_config import KMeansConfig


@dataclass(frozen=True, kw_only=True)
class OverclusteringConfig(KMeansConfig):
    """Settings of overclustering, with the names of the published configs where they have one."""

    presets = {
        "paper": Preset(source="PaKA A.2, NeCo A.2, with the code they ran (NeCo and Leopart experiments/overcluster)"),
        "embedded": AS_PAPER,
        "text": Preset(
            source="PaKA 5.2 and A.2, NeCo A.2 as written: greedy by precision, then Hungarian; the code does either",
            settings={"matching": "greedy_hungarian"},
        ),
        "neco": Preset(source="NeCo experiments/overcluster: the same settings"),
        "leopart": Preset(
            source="Leopart experiments/overcluster README: K = 500 for VOC", settings={"clusters": (500,)}
        ),
    }
    clusters: Annotated[tuple[Count | Literal["classes"], ...], AtLeastOne] = ("classes", 300, 500)
    """Numbers of clusters; "classes" is the number of classes."""
    seeds: Annotated[tuple[Seed, ...], AtLeastOne] = (0, 1, 2, 3, 4)
    """Of k-means; scores are means over them."""
    matching: ClusterMatching = later("by_count")
    """How clusters get their classes. "by_count": Hungarian on IoU if they are as many, else each its best class by
    precision (NeCo code, LEO). "greedy_hungarian": each its best class by precision, then Hungarian on IoU of the
    merged clusters, whatever their number (texts of PaKA and NeCo)."""
    absent: AbsentRule = "zero"
    """IoU of a class that is neither in the ground truth nor predicted: 0, or left out of the mean."""
