"""From the name or the path of a checkpoint with a card to a backbone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densebench.core.errors import ModelError, UsageError
from densebench.core.paths import file_digest
from densebench.model_zoo.architecture import ARCHITECTURES, Architecture
from densebench.model_zoo.families import ModelSpec
from densebench.model_zoo.zoo import zoo_folders

if TYPE_CHECKING:
    from densebench.model_zoo.backbone import Backbone


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
    from densebench.model_zoo.adapters.building import build, wrap
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.files.checkpoint import fit, read
    from densebench.model_zoo.published import load_entry

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


def _check_digest(weights: Path, card: dict[str, Any]) -> None:
    """Raise ModelError where a card describes other weights than those beside it: a torn copy, a run cut off."""
    described = card.get("weights", {}).get("sha256")
    if described and weights.exists() and file_digest(weights) != described:
        raise ModelError(
            f"{weights} is not the file that the card beside it describes (its SHA-256 begins with {described[:12]}). "
            "Copy both again, or run `densebench train ... --resume` where a run that replaces them was cut off."
        )
