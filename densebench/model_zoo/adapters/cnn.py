"""Adapter over timm's networks whose features are a map with a stride: convolutional ones, and pyramids of attention.

`timm/NAME` takes the map of the last stage, `timm/NAME:STAGE` that of another, counted as timm counts its
`out_indices`. The patch is the stage's stride, there is no prefix and no class token, and the map is the stage's raw
output: these networks normalise, if at all, after pooling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo.adapters.timm_nets import described, fill, made
from densebench.model_zoo.backbone import Backbone, BackboneInfo, FeatureKey
from densebench.model_zoo.families import ModelSpec


class StageBackbone(Backbone):
    """One stage of a timm network with `feature_info` behind the backbone contract; the stages after it are dropped."""

    def __init__(self, net: Any, name: str, stage: int = -1, **info: Any) -> None:
        super().__init__()
        if hasattr(net, "num_prefix_tokens"):
            raise ModelError(
                f"{name} is a ViT, whose blocks are layers and no stages"
                + (
                    ", and takes one input size only; wrap it in an adapter of your own (docs/adapters.md)."
                    if stage == -1
                    else ". Name it without a stage."
                )
            )
        stages = getattr(net, "feature_info", None)
        if not stages or not hasattr(net, "forward_intermediates"):
            raise ModelError(f"{name} names no stages (`feature_info`): timm gives no feature maps of it.")
        stages = stages if isinstance(stages, list) else stages.info
        if not -len(stages) <= stage < len(stages):
            found = ", ".join(f"{i}: {s['num_chs']} channels, stride {s['reduction']}" for i, s in enumerate(stages))
            raise UsageError(f"{name} has no stage {stage}; it has {found}.")
        self.stage = stage % len(stages)
        # dropped so that the digest, the memory and the parameter count are those of what is measured
        net.prune_intermediate_layers([self.stage], prune_norm=True, prune_head=True)
        self.net: Any = net  # timm's attributes are not typed
        declared: dict[str, Any] = {
            **described(net),
            "name": name,
            "patch": int(stages[self.stage]["reduction"]),
            "width": int(stages[self.stage]["num_chs"]),
            "prefix": 0,
            "has_class_token": False,
        }
        self.info = BackboneInfo(**{**declared, **info})

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        """Return the stage's map as rows (B, h*w, D)."""
        try:
            (found,) = self.net.forward_intermediates(
                pixels, indices=[self.stage], output_fmt="NCHW", stop_early=True, intermediates_only=True
            )
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:  # how timm refuses a size, or torch does for it
            raise ModelError(self._refused(pixels.shape[2], pixels.shape[3], error)) from error
        return [found.flatten(2).transpose(1, 2)]

    def _refused(self, height: int, width: int, error: Exception) -> str:
        """Return what to say where a network does not take a size: most of these are built for one alone."""
        side, patch = self.info.native_size, self.info.patch
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        refused = f"{self.info.name} cannot encode {(height, width)} pixels: {reason.rstrip('.')}."
        if (height, width) == (side, side):
            return f"{refused} That is its native size; timm gives no map of this stage."
        if side % patch:
            return (
                f"{refused} Its native {side} px are not a multiple of this stage's stride, {patch}; take an earlier."
            )
        return f"{refused} It is built for some sizes only; its native one is set by --set PROTOCOL.input_size={side}."


def load(spec: ModelSpec) -> Backbone:
    """Build `NAME` or `NAME:STAGE` with hub weights, a local safetensors file, or random weights."""
    name, colon, stage = spec.name.partition(":")
    if colon and not stage.lstrip("-").isdigit():
        raise UsageError(f"{spec.text!r}: expected the number of a stage after the colon, such as timm/{name}:-1.")
    net = made(spec, partial(_create, name))
    notes = fill(net, spec)
    return StageBackbone(net, spec.text, int(stage or -1), notes=notes)


def _create(name: str, pretrained: bool) -> nn.Module:
    """Return a timm model without classifier; those with windows of attention are told to take any size."""
    import timm

    with contextlib.suppress(TypeError):  # convolutions take any size and know no such argument
        return timm.create_model(name, pretrained=pretrained, num_classes=0, strict_img_size=False)
    return timm.create_model(name, pretrained=pretrained, num_classes=0)
