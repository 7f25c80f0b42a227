"""Checkpoints with a card: a folder with `weights.safetensors` and `card.json`, shipped, trained here or fetched.

The card names the architecture (a timm model and its arguments) and the preprocessing, and tells how the weights came
about. Zoo folders are looked up in the package (`model_zoo/weights`) and in the user's zoo (`DENSEBENCH_ZOO`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from densebench.core.errors import ModelError, UsageError
from densebench.core.paths import file_digest, zoo_dir

if TYPE_CHECKING:
    from densebench.model_zoo import ModelSpec
    from densebench.model_zoo.backbone import Backbone

Positions = Literal["antialias", "offset"]
"""How position embeddings reach another grid: see `densebench.model_zoo.adapters.positions`."""

SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A timm model with arguments, and the preprocessing its weights are trained with."""

    timm: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    stem: tuple[int, ...] = ()
    """Channels of the convolutions (3x3, stride 2) that make the patch tokens; () = timm's own patch embedding."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    interpolation: str = "bilinear"
    native_size: int = 224
    positions: Positions | None = "antialias"
    """None where the net has a rule of its own, so that there is nothing to choose."""


ARCHITECTURES = {
    # 1.2 M parameters, 20 x 20 tokens on a 160 px scene; convolutions for a patch embedding learn from fewer images
    # (Xiao et al., Early Convolutions Help Transformers See Better, NeurIPS 2021)
    "pico": Architecture(
        timm="vit_tiny_patch16_224",
        kwargs={"patch_size": 1, "embed_dim": 128, "depth": 6, "num_heads": 4, "img_size": 96},
        stem=(24, 48, 128),
        native_size=96,
    ),
}


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


def find(spec: ModelSpec) -> tuple[Path | None, dict[str, Any], Architecture]:
    """Return the weights, the card and the architecture of a zoo name, or of the path of a safetensors file.

    Names in ARCHITECTURES with `?random`, and names of the catalogue, have no weights and an empty card. Raises
    ModelError where a card is missing or broken.
    """
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.files import cards

    path = Path(spec.name)
    if spec.random and spec.name in ARCHITECTURES:
        return None, {}, ARCHITECTURES[spec.name]
    folder = path.parent if path.suffix == ".safetensors" else zoo_folders().get(spec.name)
    if folder is not None and os.path.exists(folder / "card.json"):
        card = cards.read_card(folder / "card.json")
        weights = path if path.suffix == ".safetensors" else folder / "weights.safetensors"
        return weights, card, Architecture(**card["architecture"])
    if spec.name in ENTRIES:
        if ENTRIES[spec.name].adapter != "timm":
            raise ModelError(f"{spec.name} has no timm architecture that a card could name; it cannot be a base.")
        published = ENTRIES[spec.name].architecture
        return None, {}, replace(published, positions=spec.positions or published.positions)
    if spec.name in ARCHITECTURES:
        raise ModelError(f"{spec.name} has no weights on this machine; '{spec.name}?random' builds it without.")
    if not os.path.isfile(path):  # which no path is too long for
        raise UsageError(f"{path} does not exist; --model takes a name, FILE.py:Class or CHECKPOINT.safetensors.")
    raise ModelError(
        f"{path} has no card.json beside it, so its architecture is unknown. "
        "Checkpoints of `densebench train` have one; for timm weights use `--model timm/NAME --weights FILE`."
    )


def load(spec: ModelSpec) -> Backbone:
    """Build a zoo checkpoint by name, or from the path of its safetensors file (its card must lie beside it)."""
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.catalog.loading import load_entry
    from densebench.model_zoo.files.checkpoint import fit, read

    if spec.name in ENTRIES and spec.name not in zoo_folders():
        return load_entry(ENTRIES[spec.name], spec)
    if spec.weights is not None:
        raise UsageError(f"--weights goes with timm/NAME and names of the catalogue; {spec.text!r} has its own.")
    weights, card, architecture = find(spec)
    architecture = replace(architecture, positions=spec.positions or architecture.positions)
    try:
        net = build(architecture, spec.random_seed or 0)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ModelError(
            f"{spec.text} is {architecture.timm} with {architecture.kwargs}, which timm cannot build ({reason}). "
            "Is its card that of another version of timm?"
        ) from error
    if weights is not None and not spec.random:
        _check_digest(weights, card)
        fit(net, read(weights), spec.text, weights.name)
    told = {key: card.get(key, "") for key in ("licence", "citation")}
    backbone = wrap(net, spec.text, architecture, **told)
    # wherever the folder lies and whatever it is called
    backbone.identity = f"{architecture.timm} {sorted(architecture.kwargs.items())} {tuple(architecture.stem)}"
    return backbone


def wrap(net: Any, name: str, architecture: Architecture, **info: Any) -> Backbone:
    """Return a net behind the backbone contract, with the preprocessing of its architecture."""
    from densebench.model_zoo.adapters.positions import OffsetBackbone
    from densebench.model_zoo.adapters.timm import TimmBackbone

    return (OffsetBackbone if architecture.positions == "offset" else TimmBackbone)(
        net,
        name,
        mean=tuple(architecture.mean),
        std=tuple(architecture.std),
        interpolation=architecture.interpolation,
        native_size=architecture.native_size,
        **info,
    )


def _check_digest(weights: Path, card: dict[str, Any]) -> None:
    """Raise ModelError where a card describes other weights than those beside it: a torn copy, a run cut off."""
    described = card.get("weights", {}).get("sha256")
    if described and weights.exists() and file_digest(weights) != described:
        raise ModelError(
            f"{weights} is not the file that the card beside it describes (its SHA-256 begins with {described[:12]}). "
            "Copy both again, or run `densebench train ... --resume` where a run that replaces them was cut off."
        )


def build(architecture: Architecture, seed: int = 0) -> Any:
    """Return the timm model of an architecture with random weights."""
    import torch
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer_hybrid import ConvStem
    from torch import nn

    from densebench.model_zoo.adapters.timm import create

    kwargs = dict(architecture.kwargs)
    if architecture.stem:
        n = len(architecture.stem)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stem = ConvStem(3, n, tuple(architecture.stem), stride=(2,) * n, act_layer=nn.GELU)
        kwargs["embed_layer"] = partial(HybridEmbed, backbone=stem, proj=False)
    return create(architecture.timm, seed, **kwargs)
