"""Protocols: ways to measure dense features. A new one is a file here and a line below; see `docs/your_protocol.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densebench.core.registry import Registry

if TYPE_CHECKING:
    from densebench.protocols.protocol import Protocol

PROTOCOLS: Registry[type[Protocol[Any]]] = Registry(
    "protocol", "densebench.protocols", needs=("name", "presets", "run")
)
for _name, _class, _summary in (
    ("hummingbird", "Hummingbird", "in-context segmentation by patch retrieval"),
    ("in_context_depth", "InContextDepth", "in-context depth by patch retrieval"),
    ("overclustering", "Overclustering", "k-means on patches, matched to classes"),
    ("linear_segmentation", "LinearSegmentation", "a linear head on frozen patches, trained on crops"),
    ("linear_segmentation_cached", "LinearSegmentationCached", "the same on squashed images, from cached features"),
    ("finetune_segmentation", "FinetuneSegmentation", "backbone and head trained together: linear or Segmenter"),
    ("positional_effect", "PositionalEffect", "how much cluster maps depend on position (NMI)"),
    ("correspondence", "Correspondence", "keypoints found again in other images (PCK)"),
    ("depth", "Depth", "distance of every pixel by linear heads"),
    (
        "unsupervised_segmentation",
        "UnsupervisedSegmentation",
        "foreground and objects without labels (CBFE, communities)",
    ),
):
    _room = f"densebench.protocols.{_name.removesuffix('_cached')}"
    PROTOCOLS.add(_name, f"{_room}.protocol:{_class}", _summary, config=f"{_room}.config:{_class}Config")


def register_protocol(protocol: type[Protocol[Any]]) -> None:
    """Make a protocol known under its name; raises UsageError for one that is taken, or for a class that is none."""
    name = getattr(protocol, "name", "")
    PROTOCOLS.add(name, protocol, getattr(protocol, "title", ""))


__all__ = ["PROTOCOLS", "register_protocol"]
