"""Settings of NeCo: see `densebench.methods.neco`."""

from __future__ import annotations

from dataclasses import dataclass

from densebench.core.bounds import Count, Natural
from densebench.core.config import Preset
from densebench.core.errors import UsageError
from densebench.methods.configs.aligned import EMBEDDED, FOR_EMBEDDED, AlignedConfig
from densebench.ops.ordering import Ordering, check_ordering


@dataclass(frozen=True, kw_only=True)
class NecoConfig(AlignedConfig, Ordering):
    """The published configs for DINOv2 bases: small as here; ViT-B has batch=16 and lr=5e-6 (1e-6 with registers)."""

    presets = {
        "paper": Preset(source="the published configs for DINOv2 bases"),
        "embedded": Preset(source=FOR_EMBEDDED, settings={**EMBEDDED, "momentum": 0.99, "queue": 4096}),
    }
    epochs: Count = 25
    batch: Count = 64
    # the method's own, beside those of Ordering
    queue: Natural = 8192
    """Teacher tokens kept per global crop, to draw references from; 0 = references come from the batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordering(self)
        needed = self.batch // self.accumulate * self.roi_size**2
        if self.queue and self.queue < needed:
            raise UsageError(
                f"queue={self.queue}: a part of a batch takes {needed} references (images x roi_size^2); "
                f"give queue={needed} or more, a larger accumulate, or queue=0."
            )
