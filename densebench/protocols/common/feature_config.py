"""Settings that protocols share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from densebench.core.bounds import Auto, Count
from densebench.core.config import known
from densebench.model_zoo.facets import Facet, FeatureKey

if TYPE_CHECKING:
    from densebench.features.spec import FeatureSpec
    from densebench.model_zoo.backbone import BackboneInfo

ATTENTION_BYTES = 2**28
"""The largest attention tensor made at once."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """What a protocol asks of the backbone; protocols' configs add to it."""

    input_size: Count | Auto = "auto"
    """Side in pixels that images are squashed to; "auto": the dataset's own where it has one size, else 448, rounded
    down to a multiple of the patch."""
    layer: int = -1
    """Layer whose output is read, from 0; negative numbers count from the last, -1."""
    facet: Facet = "token"
    """What is read of it: the output tokens, or the attention's keys, queries or values."""
    norm: bool = True
    """Take the last layer's tokens after the final norm."""

    @property
    def spec(self) -> FeatureSpec:
        """The same as a request."""
        from densebench.features.spec import FeatureSpec

        side = known(self.input_size, "input_size")
        return FeatureSpec(size=(side, side), keys=(FeatureKey(self.layer, self.facet, self.norm),))

    def attention_batch(self, backbone: BackboneInfo, batch_size: int) -> int:
        """Return how many images, at most `batch_size`, attention is asked for at once: ATTENTION_BYTES of a layer."""
        height, width = self.spec.grid(backbone)
        each = 4 * backbone.heads * (backbone.prefix + height * width) ** 2
        return max(1, min(batch_size, ATTENTION_BYTES // each))
