"""From an architecture to a network of timm, and from that to a backbone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from densebench.model_zoo.adapters.positions import OffsetBackbone
from densebench.model_zoo.adapters.timm import TimmBackbone
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.architecture import Architecture
from densebench.model_zoo.backbone import Backbone


def wrap(net: Any, name: str, architecture: Architecture, **info: Any) -> Backbone:
    """Return a net behind the backbone contract, with the preprocessing of its architecture."""
    return (OffsetBackbone if architecture.positions == "offset" else TimmBackbone)(
        net,
        name,
        mean=tuple(architecture.mean),
        std=tuple(architecture.std),
        interpolation=architecture.interpolation,
        native_size=architecture.native_size,
        **info,
    )


def build(architecture: Architecture, seed: int = 0) -> Any:
    """Return the timm model of an architecture with random weights."""
    kwargs = dict(architecture.kwargs)
    if architecture.stem:
        n = len(architecture.stem)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stem = ConvStem(3, n, tuple(architecture.stem), stride=(2,) * n, act_layer=nn.GELU)
        kwargs["embed_layer"] = partial(HybridEmbed, backbone=stem, proj=False)
    return create(architecture.timm, seed, **kwargs)
