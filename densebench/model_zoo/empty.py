"""Models of the catalogue without memory for their weights: for estimates."""

from __future__ import annotations

import torch

from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import Backbone
from densebench.model_zoo.catalog import CatalogEntry


def empty_backbone(entry: CatalogEntry) -> Backbone:
    """Return the backbone of an entry without memory for its weights."""
    with torch.device("meta"):
        return load_model(f"{entry.name}?random")


def weights_size(entry: CatalogEntry) -> str:
    """Return the size of a file of all weights in float32, in words."""
    return f"about {4 * sum(p.numel() for p in empty_backbone(entry).parameters()) / 1e6:.0f} MB"
