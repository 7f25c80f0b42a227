"""Settings of studies of all layers and facets: see `densebench.protocols.common.sweeps`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from densebench.core.bounds import AtLeastOne
from densebench.model_zoo.facets import Facet
from densebench.protocols.common.feature_config import FeatureConfig

PAPER = "Unsupervised Semantic Segmentation Facilitates Model Understanding"


@dataclass(frozen=True, kw_only=True)
class SweepConfig(FeatureConfig):
    """Settings of a protocol that reads one layer and facet, or sweeps over several."""

    layers: Literal["all"] | Annotated[tuple[int, ...], AtLeastOne] | None = None
    """Layers of a sweep; none: `layer` alone. A sweep without `facets` is of `facet`."""
    facets: Literal["all"] | Annotated[tuple[Facet, ...], AtLeastOne] | None = None
    """Facets of a sweep; none: `facet` alone. A sweep without `layers` is of `layer`."""
