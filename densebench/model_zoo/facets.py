"""What can be read of a network, by name; without torch, so that settings can be checked before it."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Facet: TypeAlias = Literal["token", "key", "query", "value"]
FACETS: tuple[Facet, ...] = ("token", "key", "query", "value")


class FeatureKey(NamedTuple):
    """Which features of a network: of which block, what of it, and after which norm."""

    layer: int = -1
    """Index of the block; negative ones count from the end."""
    facet: Facet = "token"
    """"token" is the block's output; "key", "query" and "value" are the attention's projections."""
    norm: bool = True
    """After the final norm; it belongs to the last layer's tokens and says nothing elsewhere (POS 3.2)."""
