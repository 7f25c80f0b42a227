"""Settings of keypoint matching: see `densebench.protocols.correspondence.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from densebench.core.bounds import AtLeastOne, Count, Positive, Seed
from densebench.core.config import AS_PAPER, Preset
from densebench.protocols.common.sweep_config import PAPER, SweepConfig


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig(SweepConfig):
    """Settings of keypoint matching (POS A.7)."""

    presets = {
        "paper": Preset(source=f"{PAPER}, A.7 and Table 3; where it says nothing, DIFT eval_spair.py"),
        "embedded": AS_PAPER,
        "sweep": Preset(
            source=f"{PAPER}, A.7, A.8 and A.11 (tables 3 and 5): every layer and facet, best layer by PCK",
            settings={"layers": "all", "facets": "all"},
        ),
        "embedded-sweep": Preset(
            source="preset sweep with fewer pairs", settings={"layers": "all", "facets": "all", "pairs": 500}
        ),
    }
    upsampling: Literal["image", "input", "grid"] = "image"
    """Where the best match is looked for: the target image's own pixels, those of the input, or patch centres. The
    source's feature is bilinear at the keypoint in all three."""
    alphas: Annotated[tuple[Positive, ...], AtLeastOne] = (0.1, 0.05, 0.01)
    """Tolerances, as parts of the longer side that `threshold` names; the first is the main one."""
    threshold: Literal["bbox", "image"] = "bbox"
    """The target object's bounding box (SPair-71k, PF-WILLOW) or the target image (as PF-PASCAL is often scored)."""
    pairs: Count | None = None
    """At most so many pairs, drawn with `seed`; none: all that the dataset lists, 2000 where it lists none."""
    seed: Seed = 0
    """Of the pairs that are drawn: models see the same ones, whatever the seed of the run."""
