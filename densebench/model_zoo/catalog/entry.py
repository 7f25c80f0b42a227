"""What the catalogue knows of a model, and the shapes that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densebench.model_zoo.architecture import Architecture, Positions
from densebench.model_zoo.files.published import Published

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclass(frozen=True, kw_only=True)
class Entry:
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
    paradigm: str = ""
    """What table 1 of P-POS calls the method: supervised, CL (contrast, self-distillation) or MIM (masked images)."""
    embedding: str = "learned"
    """What tells the patches their place."""
    file: Published | None = None
    make: str = ""
    adapter: str = "timm"
    """Which module of the model zoo wraps the net: timm, capi or sam."""
    notes: str = ""

    @property
    def hub(self) -> str:
        """The Hugging Face repository of timm's weights; empty where the weights come from elsewhere."""
        # one file serves both names of a CLIP, of which one has the activation that OpenAI's was trained with
        return "" if self.file or self.make else f"timm/{self.architecture.timm.replace('_quickgelu', '')}"


SMALL, BASE, LARGE, HUGE, GIANT = "small", "base", "large", "huge", "giant"
SINES = "fixed sines and cosines"
LETTER = {SMALL: "s", BASE: "b", LARGE: "l", HUGE: "h", GIANT: "g"}


def vit(
    timm: str,
    size: int = 224,
    positions: Positions | None = "antialias",
    colour: Mapping[str, Any] = IMAGENET,
    **kwargs: Any,
) -> Architecture:
    """Return a timm ViT and the preprocessing of its weights."""
    return Architecture(
        timm=timm, kwargs=kwargs, **colour, interpolation="bicubic", native_size=size, positions=positions
    )


def plain_vit(size: str, patch: int = 16, positions: Positions = "offset", **kwargs: Any) -> Architecture:
    """Return a ViT with one class token at 224 pixels, positions as DINO's code interpolates them."""
    return vit(f"vit_{size}_patch{patch}_224", positions=positions, **kwargs)


def dinov2_vit(size: str, registers: bool) -> Architecture:
    """Return DINOv2's ViT/14 at 518 pixels; its hub interpolates positions in another way with registers."""
    reg = "reg4_" if registers else ""
    positions: Positions = "antialias" if registers else "offset"
    return vit(f"vit_{size}_patch14_{reg}dinov2", 518, positions, img_size=518)


def hub_entry(
    name: str,
    title: str,
    timm: str,
    prefix: int,
    size: int = 224,
    colour: Mapping[str, Any] = IMAGENET,
    positions: Positions | None = "antialias",
    **rest: Any,
) -> Entry:
    """Return an entry whose weights timm has, and whose positions it interpolates."""
    patch = 14 if "patch14" in timm else 16
    return Entry(
        name=name, title=title, architecture=vit(timm, size, positions, colour), patch=patch, prefix=prefix, **rest
    )
