"""Vision encoders by name. A new family is a file here and a line below; `docs/adapters.md` shows an adapter in full.

Names: bare names of the zoo (`pico`) and of the catalogue (`dinov2_vits14`), `timm/NAME`, `open_clip/ARCH:TAG`,
`hf/REPO@REVISION`, `FILE.py:Class`, `CHECKPOINT.safetensors`. After a name that has an architecture, `?random` or
`?random=SEED` asks for its random initialisation, `?pos=antialias` or `?pos=offset` for one way to interpolate its
position embeddings; `&` joins both. `NAME=` before it and `@WEIGHTS` after it: see `densebench.model_zoo.spec`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from densebench.core.errors import UsageError
from densebench.model_zoo.families import FAMILIES, MODELS
from densebench.model_zoo.spec import ModelSpec, parse_models, parse_spec, split_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from densebench.model_zoo.backbone import Backbone


def load_model(model: str | ModelSpec, weights: str | Path | None = None, seed: int = 0) -> Backbone:
    """Build a backbone by name, in eval mode on the CPU; its `info.name` is what NAME= says, where it does.

    It is built under the random state of `seed`, which what an adapter draws for itself depends on; what is asked for
    by `?random` does not.

    Examples:
        >>> load_model("pico").info.patch
        8
    """
    from densebench.model_zoo.adapters.foreign import identified, seeded
    from densebench.model_zoo.adapters.user import registered

    spec = parse_spec(model, weights) if isinstance(model, str) else model
    if spec.name in MODELS and (spec.weights is not None or spec.random):
        raise UsageError(f"{spec.text!r} builds its own weights: --weights, @FILE and ?random do not apply.")
    with seeded(seed):
        if spec.name in MODELS:
            backbone = registered(spec.name)
        else:
            backbone = FAMILIES[spec.family](spec)
            backbone.requires_grad_(False)
    backbone.identity = backbone.identity or spec.text.partition("?")[0]
    if spec.label or spec.name in MODELS:
        backbone.info = replace(backbone.info, name=spec.shown)
    return identified(backbone.eval())


def register_model(name: str, adapter: Callable[[], Backbone] | str, summary: str = "") -> None:
    """Make an adapter class (or "module:Class") known under a name; raises UsageError for one that is taken."""
    MODELS.add(name, adapter, summary)


__all__ = [
    "FAMILIES", "MODELS", "ModelSpec", "load_model", "parse_models", "parse_spec", "register_model", "split_models",
]  # fmt: skip
