"""Vision encoders by name. A new family is a file here and a line below; `docs/adapters.md` shows an adapter in full.

Names: bare names of the zoo (`pico`) and of the catalogue (`dinov2_vits14`), `timm/NAME`, `open_clip/ARCH:TAG`,
`hf/REPO@REVISION`, `FILE.py:Class`, `CHECKPOINT.safetensors`. After a name that has an architecture, `?random` or
`?random=SEED` asks for its random initialisation, `?pos=antialias` or `?pos=offset` for one way to interpolate its
position embeddings; `&` joins both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from densebench.errors import UsageError
from densebench.registry import Registry, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from densebench.model_zoo.backbone import Backbone
    from densebench.model_zoo.zoo import Positions

FAMILIES: Registry[Callable[[ModelSpec], Backbone]] = Registry("family", group="densebench.families")
FAMILIES.add(
    "timm",
    "densebench.model_zoo.timm:load",
    "timm/NAME: plain ViTs; a stage of other nets",
)
FAMILIES.add("open_clip", "densebench.model_zoo.open_clip:load", "open_clip/ARCH:TAG: image towers of open_clip")
FAMILIES.add("hf", "densebench.model_zoo.transformers:load", "hf/REPO@REVISION: ViTs of transformers' AutoModel")
FAMILIES.add("zoo", "densebench.model_zoo.zoo:load", "checkpoints with a card, and the catalogue of published ones")
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
    positions: Positions | None = None
    """How to interpolate position embeddings; None = as the weights' own code does."""

    @property
    def random(self) -> bool:
        """Whether random initialisation is asked for."""
        return self.random_seed is not None


def parse_spec(text: str, weights: str | Path | None = None) -> ModelSpec:
    """Take a model name apart; raises UsageError for names no family knows.

    >>> parse_spec("timm/vit_tiny_patch16_224?random=3").random_seed
    3
    """
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.zoo import zoo_names

    name, question, options = text.partition("?")
    seed, positions = _options(text, options) if question else (None, None)
    path = None if weights is None else Path(weights)
    if path is not None and seed is not None:
        raise UsageError(f"{text!r} asks for random weights and --weights gives {path}: choose one.")
    prefix, slash, rest = name.partition("/")
    if ".py:" in name:
        family = "file"
    elif slash and prefix in FAMILIES:
        family, name = prefix, rest
    elif name in MODELS or name in ENTRIES or name in zoo_names() or name.endswith(".safetensors"):
        family = "zoo"
    else:
        raise unknown_name(
            "model", text, [*MODELS.names(), *zoo_names(), *ENTRIES, *(f"{f.name}/..." for f in FAMILIES)]
        )
    if positions and family != "zoo":
        raise UsageError(
            f"?pos goes with names of the catalogue and the zoo; {text!r} interpolates as its library does."
        )
    return ModelSpec(text, family, name, seed, path, positions)


def _options(text: str, options: str) -> tuple[int | None, Positions | None]:
    """Return the seed and the way of interpolation that follow a name's question mark."""
    seed, positions = None, None
    for option in options.split("&"):
        key, _, value = option.partition("=")
        if key == "random" and seed is None and (value or "0").isdecimal():
            seed = int(value or 0)
        elif option in ("pos=antialias", "pos=offset") and positions is None:
            positions = value
        else:
            kind = "repeated" if {"random": seed, "pos": positions}.get(key) is not None else "unknown"
            raise UsageError(
                f"{kind} option '?{option}' in model {text!r}; "
                "expected ?random, ?random=SEED, ?pos=antialias or ?pos=offset."
            )
    return seed, cast("Positions | None", positions)


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
