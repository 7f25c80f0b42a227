"""Settings of in-context depth: see `densebench.protocols.in_context_depth.protocol`."""

from __future__ import annotations

from dataclasses import dataclass

from densebench.core.bounds import Auto, Count, Natural, Positive
from densebench.core.config import Preset
from densebench.protocols.common.memory_config import RetrievalConfig


@dataclass(frozen=True, kw_only=True)
class InContextDepthConfig(RetrievalConfig):
    """Settings of in-context depth beside those of the memory (`memory.RetrievalConfig`)."""

    presets = {
        "paper": Preset(source="DIP 3.1, Tab. 3 and 7: cosine similarity; what is left open as its README"),
        "embedded": Preset(
            source="preset paper with a smaller memory, and depth up to the 20 m of the embedded scenes",
            settings={"memory_size": 25_600, "augmentation_epochs": 1, "max_depth": 20.0},
        ),
        "dip": Preset(
            source="DIP README and hummingbird/src: L2 on raw features in a float16 memory, std 0.255 in blue",
            settings={"similarity": "l2", "memory_dtype": "float16", "std": (0.229, 0.224, 0.255)},
        ),
    }
    input_size: Count | Auto = "auto"
    """Side in pixels; "auto": the dataset's own where it has one size, else 504 (DIP README), rounded down to a
    multiple of the patch."""
    temperature: Positive = 0.07
    """Of the softmax over the neighbours' cosine similarities (DIP Tab. 7, DIP README)."""
    memory_size: Count | None = 10_240_000
    """Rows of the memory (DIP 3.1); none keeps every patch."""
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
