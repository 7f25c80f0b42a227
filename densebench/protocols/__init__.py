"""Protocols: ways to measure dense features. A new one is a file here and a line below; see `docs/protocols.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densebench.core.registry import Registry

if TYPE_CHECKING:
    from densebench.protocols.protocol import Protocol

PROTOCOLS: Registry[type[Protocol[Any]]] = Registry(
    "protocol", "densebench.protocols", needs=("name", "presets", "run")
)
PROTOCOLS.add(
    "hummingbird",
    "densebench.protocols.hummingbird:Hummingbird",
    "in-context segmentation by patch retrieval",
    config="densebench.protocols.configs.hummingbird:HummingbirdConfig",
)
PROTOCOLS.add(
    "in_context_depth",
    "densebench.protocols.in_context_depth:InContextDepth",
    "in-context depth by patch retrieval",
    config="densebench.protocols.configs.in_context_depth:InContextDepthConfig",
)
PROTOCOLS.add(
    "overclustering",
    "densebench.protocols.overclustering:Overclustering",
    "k-means on patches, matched to classes",
    config="densebench.protocols.configs.overclustering:OverclusteringConfig",
)
PROTOCOLS.add(
    "linear_segmentation",
    "densebench.protocols.linear_segmentation:LinearSegmentation",
    "a linear head on frozen patches, trained on crops",
    config="densebench.protocols.configs.linear_segmentation:LinearSegmentationConfig",
)
PROTOCOLS.add(
    "linear_segmentation_cached",
    "densebench.protocols.linear_segmentation:LinearSegmentationCached",
    "the same on squashed images, from cached features",
    config="densebench.protocols.configs.linear_segmentation:LinearSegmentationCachedConfig",
)
PROTOCOLS.add(
    "finetune_segmentation",
    "densebench.protocols.finetune_segmentation:FinetuneSegmentation",
    "backbone and head trained together: linear or Segmenter",
    config="densebench.protocols.configs.finetune_segmentation:FinetuneConfig",
)
PROTOCOLS.add(
    "positional_effect",
    "densebench.protocols.positional_effect:PositionalEffect",
    "how much cluster maps depend on position (NMI)",
    config="densebench.protocols.configs.positional_effect:PositionalEffectConfig",
)
PROTOCOLS.add(
    "correspondence",
    "densebench.protocols.correspondence:Correspondence",
    "key points found again in other images (PCK)",
    config="densebench.protocols.configs.correspondence:CorrespondenceConfig",
)
PROTOCOLS.add(
    "depth",
    "densebench.protocols.depth:Depth",
    "distance of every pixel by linear heads",
    config="densebench.protocols.configs.depth:DepthConfig",
)
PROTOCOLS.add(
    "unsupervised_segmentation",
    "densebench.protocols.unsupervised_segmentation:UnsupervisedSegmentation",
    "foreground and objects without labels (CBFE, communities)",
    config="densebench.protocols.configs.unsupervised_segmentation:UnsupervisedSegmentationConfig",
)

__all__ = ["PROTOCOLS"]
