"""Protocols: ways to measure dense features. A new one is a file here and a line below; see `docs/protocols.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densebench.registry import Registry

if TYPE_CHECKING:
    from densebench.protocols.protocol import Protocol

PROTOCOLS: Registry[type[Protocol[Any]]] = Registry("protocol", group="densebench.protocols")
PROTOCOLS.add(
    "hummingbird", "densebench.protocols.hummingbird:Hummingbird", "in-context segmentation by patch retrieval"
)
PROTOCOLS.add(
    "overclustering", "densebench.protocols.overclustering:Overclustering", "k-means on patches, matched to classes"
)
PROTOCOLS.add(
    "positional_effect",
    "densebench.protocols.positional_effect:PositionalEffect",
    "how much cluster maps depend on position (NMI)",
)
PROTOCOLS.add(
    "correspondence",
    "densebench.protocols.correspondence:Correspondence",
    "key points found again in other images (PCK)",
)

__all__ = ["PROTOCOLS"]
