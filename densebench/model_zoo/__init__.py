"""Vision encoders by name. A new family is a file here and a line below; `docs/models.md` shows an adapter in full.

Names: bare zoo names (`pico`), `timm/NAME`, `FILE.py:Class`, `CHECKPOINT.safetensors`. `?random` or `?random=SEED`
after a name that has an architecture asks for its random initialisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from densebench.errors import UsageError
from densebench.registry import Registry, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from densebench.model_zoo.backbone import Backbone

FAMILIES: Registry[Callable[[ModelSpec], Backbone]] = Registry("family", group="densebench.families")
FAMILIES.add("timm", "densebench.model_zoo.timm:load", "timm/NAME: every plain ViT of timm")
FAMILIES.add("zoo", "densebench.model_zoo.zoo:load", "checkpoints with a card: shipped, trained or fetched")
FAMILIES.add("file", "densebench.model_zoo.user:load", "FILE.py:Class: your own adapter")

MODELS: Registry[Callable[[], Backbone]] = Registry("model", group="densebench.models")
"""Adapters that need no spec: registered by `register_model` or by an installed package."""


@dataclass(frozen=True)
class ModelSpec:
    """A model name taken apart: which family builds it, from what."""

    text: str
    """As the user wrote it; the name that results carry."""
    family: str
    name: str
    random_seed: int | None = None
    weights: Path | None = None

    @property
    def random(self) -> bool:
        """Whether random initialisation is asked for."""
        return self.random_seed is not None


def parse_spec(text: str, weights: str | Path | None = None) -> ModelSpec:
    """Take a model name apart; raises UsageError for names no family knows.

    >>> parse_spec("timm/vit_tiny_patch16_224?random=3").random_seed
    3
    """
    from densebench.model_zoo.zoo import zoo_names

    name, _, option = text.partition("?")
    seed = None
    if option:
        key, _, value = option.partition("=")
        if key != "random" or not (value or "0").isdigit():
            raise UsageError(f"unknown option '?{option}' in model {text!r}; expected ?random or ?random=SEED.")
        seed = int(value or 0)
    path = None if weights is None else Path(weights)
    if path is not None and seed is not None:
        raise UsageError(f"{text!r} asks for random weights and --weights gives {path}: choose one.")
    if ".py:" in name:
        return ModelSpec(text, "file", name, seed, path)
    prefix, slash, rest = name.partition("/")
    if slash and prefix in FAMILIES:
        return ModelSpec(text, prefix, rest, seed, path)
    if name in MODELS or name in zoo_names() or name.endswith(".safetensors"):
        return ModelSpec(text, "zoo", name, seed, path)
    raise unknown_name("model", text, [*MODELS.names(), *zoo_names(), *(f"{f.name}/..." for f in FAMILIES)])


def load_model(text: str, weights: str | Path | None = None) -> Backbone:
    """Build a backbone by name, in eval mode on the CPU.

    >>> load_model("pico").info.patch
    8
    """
    if text in MODELS:
        return MODELS[text]().eval()
    spec = parse_spec(text, weights)
    return FAMILIES[spec.family](spec).eval().requires_grad_(False)


def register_model(name: str, adapter: Callable[[], Backbone] | str, summary: str = "") -> None:
    """Make an adapter class (or "module:Class") known under a name."""
    MODELS.add(name, adapter, summary)


__all__ = ["FAMILIES", "MODELS", "ModelSpec", "load_model", "parse_spec", "register_model"]
