"""Who builds which models, and what it is told: a new family is a file in `adapters` and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from densebench.core.registry import Registry
from densebench.model_zoo.architecture import Positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from densebench.model_zoo.backbone import Backbone


@dataclass(frozen=True)
class ModelSpec:
    """A model name taken apart: which family builds it, from what, and what it is called."""

    text: str
    """SPEC, as the user wrote it."""
    family: str
    name: str
    random_seed: int | None = None
    weights: Path | None = None
    positions: Positions | None = None
    """How to interpolate position embeddings; None = as the weights' own code does."""
    entry: str = ""
    """Where in the file the weights lie; "" = where the wrappers of well-known training code have them."""
    label: str = ""
    """What the model is called in place of `text`; "" where nothing says so."""

    @property
    def random(self) -> bool:
        """Whether random initialisation is asked for."""
        return self.random_seed is not None

    @property
    def shown(self) -> str:
        """What tables, records and file names call the model; a user's class without NAME= says it itself."""
        return self.label or self.text


FAMILIES: Registry[Callable[[ModelSpec], Backbone]] = Registry("family", group="densebench.families")
FAMILIES.add(
    "timm",
    "densebench.model_zoo.adapters.timm:load",
    "timm/NAME: plain ViTs; a stage of other nets",
)
FAMILIES.add(
    "open_clip", "densebench.model_zoo.adapters.open_clip:load", "open_clip/ARCH:TAG: image towers of open_clip"
)
FAMILIES.add(
    "hf", "densebench.model_zoo.adapters.transformers:load", "hf/REPO@REVISION: ViTs of transformers' AutoModel"
)
FAMILIES.add("zoo", "densebench.model_zoo.loading:load", "checkpoints with a card, and the catalogue of published ones")
FAMILIES.add("file", "densebench.model_zoo.adapters.user:load", "FILE.py:Class: your own adapter")

MODELS: Registry[Callable[[], Backbone]] = Registry("model", group="densebench.models")
"""Adapters that need no spec: registered by `register_model` or by an installed package."""
