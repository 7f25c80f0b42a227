"""What a reader wants to know of a model beside its scores: its size, and what it was trained on."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from densebench.core.errors import DensebenchError
from densebench.core.text import plain
from densebench.results.schema import ModelRecord

SIZES = {(192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H", (1408, 40): "g"}
"""Names of plain ViTs by width and depth; g and H as DINOv2 and MAE have them."""
UNKNOWN = "not known"
OTHER = "other"


def size_of(model: ModelRecord) -> str:
    """Return the size class of a network: "ViT-S", or "other" where it is none of the usual ones."""
    return f"ViT-{SIZES[model.width, model.depth]}" if (model.width, model.depth) in SIZES else OTHER


def printed_size(backbone: str) -> str:
    """Return the size class of a backbone as papers print it.

    >>> printed_size("ViT-S/16"), printed_size("ViT-B14"), printed_size("ResNet-50"), printed_size("")
    ('ViT-S', 'ViT-B', 'other', 'not known')
    """
    if not backbone:
        return UNKNOWN
    found = re.match(r"ViT-(Ti|S|B|L|H|g)(?![a-z])", backbone)
    return f"ViT-{found[1]}" if found else OTHER


def pretraining(name: str) -> Mapping[str, str]:
    """Return what the catalogue, or the card of a checkpoint, knows of a model's training: `data` and `objective`.

    Both are "not known" for a model of neither, and the data of `?random` is "none".
    """
    name, _, options = name.partition("?")
    if "random" in options:
        return {"data": "none: random weights", "objective": "none"}
    entry = _catalogue().get(name)
    if entry is not None:
        return entry
    card = _card(name)
    data = card.get("data")
    return {
        "data": plain(str(data["name"])) if isinstance(data, Mapping) and data.get("name") else UNKNOWN,
        "objective": plain(str(card["method"])) if card.get("method") else UNKNOWN,
    }


@functools.cache
def _catalogue() -> Mapping[str, Mapping[str, str]]:
    """Return data and objective of every model of the catalogue, by its name and by timm's where that has the file."""
    from densebench.model_zoo.catalog import ENTRIES

    found: dict[str, Mapping[str, str]] = {}
    for entry in ENTRIES.values():
        facts = {"data": entry.data or UNKNOWN, "objective": entry.objective or UNKNOWN}
        found[entry.name] = facts
        if entry.hub:
            found.setdefault(f"timm/{entry.architecture.timm}", facts)
    return found


def _card(name: str) -> Mapping[str, Any]:
    from densebench.model_zoo.zoo import read_card

    try:
        return read_card(name)
    except DensebenchError:  # it lies on another machine, or is none
        return {}
