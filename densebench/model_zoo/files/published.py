"""What is known of a published file of weights before it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint file, and how the names in it become those of the architecture."""

    url: str = ""
    """Empty where only a person with a browser can fetch it: see `page`."""
    page: str = ""
    """Where its authors speak of it."""
    sha256: str = ""
    """As published; empty where none is known, and then the digest of the first fetch counts."""
    entry: str = ""
    """The dict in the file that holds the weights; with ? at the end it may be absent."""
    prefix: str = ""
    """What precedes the backbone's names: * is one dotted component, ** any number of them."""
    others: bool = False
    """Whether the file may hold other modules (heads, a student) outside the prefix."""
    drop: tuple[str, ...] = ()
    """Patterns of names inside the prefix that the architecture does without."""
    layout: Literal["timm", "dinov2"] = "timm"
    """Whose names these are: `timm` (also DINO's code) or `dinov2`."""
    inferred: str = ""
    """What of this block no loading code and no README states."""
