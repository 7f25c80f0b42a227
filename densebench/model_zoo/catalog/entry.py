"""What the catalogue knows of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densebench.model_zoo.architecture import Architecture
from densebench.model_zoo.files.published import Published


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A model by name. `file` is its checkpoint, `make` the command that makes one; with neither, timm's hub has it."""

    name: str
    title: str
    architecture: Architecture
    patch: int
    prefix: int
    """Tokens before the patches: class token, registers, others."""
    licence: str
    citation: str
    data: str
    """What it was trained on, as its authors say."""
    objective: str
    paradigm: Literal["", "supervised", "CL", "MIM"] = ""
    """What table 1 of POS calls the method: supervised, CL (contrast, self-distillation) or MIM (masked images)."""
    embedding: str = "learned"
    """What tells the patches their place."""
    file: Published | None = None
    make: str = ""
    adapter: Literal["timm", "capi", "sam"] = "timm"
    """Which module of `adapters` wraps the net."""
    notes: str = ""

    @property
    def hub(self) -> str:
        """The Hugging Face repository of timm's weights; empty where the weights come from elsewhere."""
        # one file serves both names of a CLIP, of which one has the activation that OpenAI's was trained with
        return "" if self.file or self.make else f"timm/{self.architecture.timm.replace('_quickgelu', '')}"
