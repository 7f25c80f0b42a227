"""What can be read of a block of a network, by name; without torch, so that settings can be checked before it."""

from __future__ import annotations

from typing import Literal, TypeAlias

Facet: TypeAlias = Literal["token", "key", "query", "value"]
FACETS: tuple[Facet, ...] = ("token", "key", "query", "value")
