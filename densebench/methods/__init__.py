"""Post-training methods: from images without labels to a zoo checkpoint. A new one is a file here and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densebench.methods.names import METHODS, SEGMENTERS

if TYPE_CHECKING:
    from densebench.methods.card import TrainResult


def train(**kwargs: Any) -> TrainResult:
    """Train a method on a base and write a zoo checkpoint; see `densebench.methods.launch.train`.

    >>> train(method="dino", base="pico?random", data="scenes", name="mine", overrides={"epochs": 1})
    """
    from densebench.methods.launch import train as run

    return run(**kwargs)


__all__ = ["METHODS", "SEGMENTERS", "train"]
