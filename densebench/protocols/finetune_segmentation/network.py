"""A copy of a backbone under a segmentation head, what of it is trained at which learning rate, and one step of that.

`finetune_segmentation.py` has the settings and their sources.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.core.config import known
from densebench.core.errors import FeatureError, ModelError
from densebench.features.source import Precision
from densebench.model_zoo.backbone import Backbone
from densebench.ops.depth import centre_pad
from densebench.ops.heads import IGNORED, bilinear_matrix, linear_head
from densebench.ops.segmenter import DropPath, MaskTransformer, poly_rate

if TYPE_CHECKING:
    from densebench.protocols.finetune_segmentation.config import FinetuneSegmentationConfig

Size = tuple[int, int]


class SegmentationNetwork(nn.Module):
    """A backbone's copy, all of it in training, under a head; the backbone itself is not touched.

    Norm statistics and dropout stay as in evaluation, so that a batch may be split; drop path alone is at work while
    training, where it is asked for.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, precision: Precision = "float32") -> None:
        super().__init__()
        name = backbone.info.name
        try:
            self.backbone = copy.deepcopy(backbone)
        except (RuntimeError, TypeError) as error:
            raise ModelError(f"{name} cannot be copied ({error}), and only a copy of it may be fine-tuned.") from error
        if not any(p.is_floating_point() for p in self.backbone.parameters()):
            raise ModelError(
                f"{name} has no parameters that could be trained. Fine-tuning reaches a network "
                "that is a torch.nn.Module in an attribute of the adapter; one in a list, or a function, it does not."
            )
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.head, self.precision = head, precision
        self.has_drop_path = False

    def forward(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """Return logits (B, C, h, w) float32 of the patches of images (B, 3, H, W) in [0, 1].

        Images are padded all around to a multiple of the patch with what is 0 after normalisation. Raises FeatureError
        where an image's logits are not finite.
        """
        info = self.backbone.info
        kind = images.device.type
        autocast = (
            nullcontext() if self.precision == "float32" else torch.autocast(kind, getattr(torch, self.precision))
        )
        with autocast:
            maps = self.backbone.dense(centre_pad(images, info.patch, info.mean)).maps[0]
            logits = self.head(maps).float()
        finite = logits.detach().flatten(1).isfinite().all(dim=1)
        if not finite.all():
            bad = [name for name, ok in zip(names, finite.tolist(), strict=True) if not ok]
            raise FeatureError(
                f"{info.name} returned features that are not finite (NaN or infinity) for image {', '.join(bad[:3])}"
                + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
                + ". No number was written; if it happens in the midst of training, take a lower learning rate or clip "
                "gradients, and with float16 --precision bfloat16."
            )
        return logits

    def upsampling(self, image: Size, size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return matrices (H, h) and (W, w) that bring the logits of padded images to ``size``, padding cut off."""
        patch = self.backbone.info.patch
        found = []
        for side, wanted in zip(image, size, strict=True):
            padding = -side % patch
            grid = (side + padding) // patch
            if not padding:
                matrix = bilinear_matrix(grid, wanted)
            elif wanted == side:
                matrix = bilinear_matrix(grid, side + padding)[padding // 2 : padding // 2 + side]
            else:
                raise ValueError(f"images padded from {side} pixels are read at their own size, not at {wanted}")
            found.append(matrix.to(device))
        return found[0], found[1]


def build(
    config: FinetuneSegmentationConfig, backbone: Backbone, n_classes: int, seed: int, precision: Precision
) -> SegmentationNetwork:
    """Return the network to train, its head drawn from the seed, drop path and frozen blocks as configured."""
    width = backbone.info.width
    head: nn.Module
    if config.head == "linear":
        head = linear_head(width, n_classes, seed)
    else:
        heads = known(config.decoder_heads, "decoder_heads")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = MaskTransformer(width, n_classes, config.decoder_layers, heads, config.decoder_drop_path)
    network = SegmentationNetwork(backbone, head, precision)
    if config.freeze:
        for name, layer in layer_ids(network.backbone).items():
            if layer <= config.freeze:
                network.backbone.get_parameter(name).requires_grad_(False)
    network.has_drop_path = bool(config.drop_path) and set_drop_path(network.backbone, config.drop_path)
    return network


def blocks_of(backbone: Backbone) -> tuple[str, nn.Module]:
    """Return name and module of the list of the backbone's blocks: the largest that is as long as it is deep."""
    depth = backbone.info.depth
    lists = [
        (sum(p.numel() for p in module.parameters()), name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == depth
    ]
    if not lists:
        raise ModelError(
            f"{backbone.info.name} has no torch.nn.ModuleList or Sequential of {depth} blocks, its declared depth; "
            "layer_decay and freeze need one. Leave them at 1 and 0."
        )
    return max(lists, key=lambda found: found[0])[1:]


def layer_ids(backbone: Backbone) -> dict[str, int]:
    """Return the layer of every parameter: 0 before the blocks, 1..depth in them, depth + 1 after.

    Before is what the adapter registers before its list of blocks: embeddings, class token, position.
    """
    stack, blocks = blocks_of(backbone)
    places = [name for name, _ in blocks.named_children()]
    found: dict[str, int] = {}
    after = False
    for name, _ in backbone.named_parameters():
        if name.startswith(f"{stack}."):
            found[name] = 1 + places.index(name[len(stack) + 1 :].split(".")[0])
            after = True
        else:
            found[name] = backbone.info.depth + 1 if after else 0
    return found


def set_drop_path(backbone: Backbone, rate: float) -> bool:
    """Set drop path in the branches of the blocks, rising linearly from 0 to ``rate``; say whether they have a place.

    A place is a module called drop_path, drop_path1 or drop_path2 in every block, as timm and dinov2 have them.
    """
    try:
        _, blocks = blocks_of(backbone)
    except ModelError:
        return False
    names = ("drop_path", "drop_path1", "drop_path2")
    places = [[n for n in names if isinstance(getattr(block, n, None), nn.Module)] for block in blocks.children()]
    if not all(places):
        return False
    shares = torch.linspace(0, rate, backbone.info.depth).tolist()
    for block, found, share in zip(blocks.children(), places, shares, strict=True):
        for name in found:
            setattr(block, name, DropPath(share))
    return True


def make_optimiser(
    config: FinetuneSegmentationConfig, network: SegmentationNetwork, rate: float
) -> torch.optim.Optimizer:
    """Return the optimiser; every group keeps its learning rate at the start as "peak"."""
    depth = network.backbone.info.depth
    layers = layer_ids(network.backbone) if config.layer_decay != 1 else {}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.backbone.named_parameters():
        if parameter.requires_grad:
            decayed = rate * config.layer_decay ** (depth + 1 - layers.get(name, depth + 1))
            groups.setdefault(decayed, []).append(parameter)
    head = {"params": list(network.head.parameters()), "peak": rate * config.head_factor}
    wanted = [*({"params": p, "peak": peak} for peak, p in groups.items()), head]
    common: dict[str, Any] = {"lr": rate, "weight_decay": config.weight_decay}
    if config.optimiser == "sgd":
        return torch.optim.SGD(wanted, momentum=config.momentum, **common)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser](wanted, **common)


def rate_share(config: FinetuneSegmentationConfig, step: int, steps: int, epoch: int) -> float:
    """Return what every learning rate is multiplied by at a step."""
    if config.schedule == "poly":
        return poly_rate(step, steps, config.final_rate, config.power)
    return config.final_rate ** (epoch // config.drop_at)


class SegmentationTrainer:
    """Takes steps with one learning rate."""

    def __init__(
        self,
        config: FinetuneSegmentationConfig,
        network: SegmentationNetwork,
        rate: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.network, self.seed, self.device = config, network.to(device), seed, device
        self.optimiser = make_optimiser(config, network, rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=network.precision == "float16")
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]

    def step(self, step: int, share: float, images: Tensor, target: Tensor, names: Sequence[str]) -> float:
        """Take one step on images (B, 3, H, W) uint8 and classes (B, h, w), `IGNORED` where none; return the loss.

        Sub-batches go through the network one after the other, and of their logits one image's at a time is brought to
        the size of the targets, so what a step holds does not grow with the batch.
        """
        config = self.config
        for module in self.network.modules():
            module.training = isinstance(module, DropPath)
        for group in self.optimiser.param_groups:
            group["lr"] = share * group["peak"]
        self.optimiser.zero_grad()
        counted = target.numel() if config.loss_over == "all" else int((target != IGNORED).sum())
        size = (target.shape[1], target.shape[2])
        upsample = self.network.upsampling((images.shape[2], images.shape[3]), size, self.device)
        total = torch.zeros((), device=self.device)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(np.random.SeedSequence((self.seed, step)).generate_state(1).item())
            for start in range(0, len(images), config.sub_batch):
                part = slice(start, start + config.sub_batch)
                pixels = images[part].to(self.device).float().div_(255)
                total += self._add_gradient(pixels, target[part], upsample, max(counted, 1), names[part])
        if step == 0:
            self._check_reach()
        if config.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.trained, config.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return total.item()

    def _add_gradient(
        self, pixels: Tensor, target: Tensor, upsample: tuple[Tensor, Tensor], counted: int, names: Sequence[str]
    ) -> Tensor:
        logits = self.network(pixels, names)
        leaf = logits.detach().requires_grad_()
        rows, columns = upsample
        total = torch.zeros((), device=self.device)
        for image, truth in zip(leaf, target, strict=True):
            spread = rows @ image @ columns.T  # (C, H, W)
            labels = truth.to(self.device).flatten()
            loss = F.cross_entropy(spread.flatten(1).T, labels, ignore_index=IGNORED, reduction="sum") / counted
            self.scaler.scale(loss).backward()
            total += loss.detach()
        logits.backward(leaf.grad)
        return total

    def _check_reach(self) -> None:
        backbone = self.network.backbone
        if all(p.grad is None for p in backbone.parameters()):
            raise ModelError(
                f"no gradient reaches the weights of {backbone.info.name}: its `tokens` detaches its outputs or runs "
                "under torch.no_grad or inference_mode. Fine-tuning needs it not to."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser and scaler."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another trainer of the same settings was."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
