"""Checkpoints with a card: a folder with `weights.safetensors` and `card.json`, shipped, trained here or fetched.

The card names the architecture (a timm model and its arguments) and the preprocessing, and tells how the weights came
about. Zoo folders are looked up in the package (`model_zoo/weights`) and in the user's zoo (`DENSEBENCH_ZOO`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from densebench.core.errors import UsageError
from densebench.core.paths import zoo_dir
from densebench.model_zoo.architecture import ARCHITECTURES

SHIPPED = Path(__file__).parent / "weights"


def zoo_folders() -> dict[str, Path]:
    """Return the folder of every zoo checkpoint on this machine; the user's own hide shipped ones."""
    found: dict[str, Path] = {}
    for place in (SHIPPED, zoo_dir()):
        if place.is_dir():
            found |= {card.parent.name: card.parent for card in sorted(place.glob("*/card.json"))}
    return found


def zoo_names() -> list[str]:
    """Return the names of all zoo checkpoints and of architectures that can be built without weights."""
    return sorted(zoo_folders().keys() | ARCHITECTURES.keys())


def read_card(name: str) -> dict[str, Any]:
    """Return the card of a zoo checkpoint; raises ModelError for one that is broken or says what it may not."""
    from densebench.model_zoo.files import cards

    folder = zoo_folders().get(name)
    if folder is None:
        raise UsageError(f"{name} has no weights on this machine; make them with `densebench train`.")
    return cards.read_card(folder / "card.json")
