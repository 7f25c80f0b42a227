"""What a training run leaves behind: weights, and a card with everything that is needed to run it again."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from densebench.core.config import as_dict
from densebench.core.environment import PeakMemory, environment
from densebench.core.paths import write_atomically
from densebench.datasets.dataset import DenseDataset
from densebench.figures.training import curves
from densebench.methods.trainer import Trainer, states
from densebench.model_zoo.architecture import Architecture


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind."""

    name: str
    folder: Path
    """Holds weights.safetensors, card.json, log.jsonl and a picture of it, log.png."""
    card: dict[str, Any]

    def __str__(self) -> str:
        c = self.card
        lost = (
            f" {len(c['left_out'])} images that cannot be read were left out (see the card)." if c["left_out"] else ""
        )
        return (
            f"{self.name}: {c['method']}{f', preset {preset}' if (preset := c.get('preset')) else ''}, on "
            f"{c['data']['name']}/{c['data']['split']}, {c['steps']} steps, "
            f"{c['images_seen']} images in {c['seconds']:.0f} s ({c['images_per_second']:.1f}/s), "
            f"loss {c['loss_first']:.4f} -> {c['loss_last']:.4f}; {self.folder}{lost and '.' + lost}"
        )


def publish(
    trainer: Trainer, dataset: DenseDataset, architecture: Architecture, name: str, command: str
) -> dict[str, Any]:
    """Write weights and, last, the card that makes the folder a zoo checkpoint; drop the training state."""
    config, folder = trainer.config, trainer.folder
    branch = trainer.method.teacher if config.export == "teacher" else trainer.method.student
    dtype = torch.float16 if config.weights == "fp16" else torch.float32
    state: dict[str, Tensor] = {
        k: v.detach().cpu().to(dtype if v.is_floating_point() else v.dtype).contiguous()
        for k, v in branch.backbone.net.state_dict().items()  # type: ignore[union-attr]
    }
    blob = _in_order(save(state, {"format": "pt", "method": trainer.origin["method"]}))
    write_atomically(folder / "weights.safetensors", blob)
    write_atomically(folder / "log.png", curves(trainer.lines, name))
    origin = {key: trainer.origin[key] for key in ("method", "base", "base_digest")}
    card = {
        "schema": 1,
        "name": name,
        "command": command,
        **origin,
        "architecture": dataclasses.asdict(architecture),
        "weights": {"format": config.weights, "sha256": hashlib.sha256(blob).hexdigest(), "branch": config.export},
        "data": {
            "name": dataset.info.name,
            "split": dataset.split,
            "images": len(trainer.images),
            "digest": trainer.origin["data_digest"],
            "version": getattr(dataset, "version", None),  # of a renderer
        },
        "inputs": {k: v for k, v in trainer.origin.items() if k not in (*origin, "data_digest")},
        "preset": trainer.preset,
        "config": as_dict(config),
        "seed": config.seed,
        "processes": trainer.group.size,
        "left_out": sorted(trainer.left_out),
        "steps": trainer.steps,
        "images_seen": trainer.steps * config.batch,
        "seconds": round(trainer.seconds, 1),
        "images_per_second": round(trainer.steps * config.batch / max(trainer.seconds, 1e-9), 2),
        "loss_first": trainer.first_loss,
        "loss_last": trainer.last_loss,
        "peak_memory_bytes": max(PeakMemory().read()),
        "environment": environment(str(trainer.device)),
        "date": datetime.date.today().isoformat(),
        "licence": "Apache-2.0",
        "citation": trainer.method.citation,
    }
    write_atomically(folder / "card.json", json.dumps(card, indent=2) + "\n")
    for path in states(folder):
        path.unlink()
    return json.loads(json.dumps(card))


def _in_order(blob: bytes) -> bytes:
    """Return a safetensors file with its header sorted: equal tensors make equal bytes, and one SHA-256.

    safetensors writes the entries of the metadata in another order every time.
    """
    size = int.from_bytes(blob[:8], "little")
    header = json.dumps(json.loads(blob[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + blob[8 + size :]
