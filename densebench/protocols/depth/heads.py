"""Linear depth heads on a frozen backbone: what they read and what they predict.

`depth.py` has the settings and their sources, `depth_training.py` how heads are trained; the numerics are in `ops/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from densebench.datasets.dataset import DenseDataset
from densebench.model_zoo.backbone import Backbone, FeatureKey
from densebench.ops import depth as ops
from densebench.ops.depth import BinNorm
from densebench.ops.depth_bins import decode_upsampled
from densebench.ops.resize import resize_maps
from densebench.protocols.protocol import Context
from densebench.views.depth import DepthViews
from densebench.views.order import Key, batches, load_views

if TYPE_CHECKING:
    from densebench.protocols.depth.config import DepthConfig


def layers_read(n: int, depth: int, four: str = "blocks") -> tuple[int, ...]:
    """Return the blocks that a head of n layers reads, from 0; `four` is the config's."""
    if n == 1 or four == "linear_layers":
        return (depth - 1,)
    return (4, 11, 17, 23) if depth == 24 else tuple(i * depth // 4 - 1 for i in range(1, 5))


@dataclass(frozen=True)
class DepthPlan:
    """What is trained on what."""

    steps: int
    batch: int
    crop: tuple[int, int]
    heads: tuple[tuple[int, float], ...]
    """(layers, learning rate) of each."""
    images: tuple[int, ...]
    held_out: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, config: DepthConfig, train: DenseDataset, seed: int = 0) -> DepthPlan:
        """Split the training images as the config asks."""
        order = np.random.default_rng((seed, len(train))).permutation(len(train)).tolist()
        several = len(config.learning_rates) > 1 and len(train) > 4
        n = min(config.held_out, len(train) // 5) if several else 0
        return cls(
            steps=config.steps,
            batch=config.batch,
            crop=config.resolved.crop,
            heads=tuple((layers, rate) for layers in config.resolved.heads for rate in config.learning_rates),
            images=tuple(sorted(order[n:])),
            held_out=tuple(sorted(order[:n])),
            seed=seed,
        )

    def keys(self, start: int = 0) -> Iterator[list[Key]]:
        """Yield the (epoch, image) pairs of each step from `start`."""
        for keys in batches(len(self.images), self.batch, self.seed, range(start, self.steps)):
            yield [(epoch, self.images[i]) for epoch, i in keys]


class LinearHead(nn.Module):
    """Channels to depth: batch norm where asked for, one linear layer, bins (DINOv2 ``BNHead``, DINOv3 ``LinearHead``).

    Args:
        channels: C, see `ops.depth.concat_tokens`.
        centres: (K,) depths of the bins in metres.
        bin_norm: see `ops.depth.BinNorm`.
        upsample: see `ops.depth.linear_logits`.
        batch_norm: normalise the channels first; DINOv3 does, DINOv2 does not.
        init_std: deviation of the initial weights, with biases 0 (DINOv3 0.01); None: torch's default (DINOv2).
        before: linear layers of C channels before that one, with nothing between (PaKA B.1: 3).
    """

    def __init__(
        self,
        channels: int,
        centres: Tensor,
        *,
        bin_norm: BinNorm = "linear",
        upsample: int = 1,
        batch_norm: bool = False,
        init_std: float | None = None,
        before: int = 0,
    ) -> None:
        super().__init__()
        self.bin_norm, self.upsample = bin_norm, upsample
        self.range = float(centres[0]), float(centres[-1])
        self.norm = nn.BatchNorm2d(channels) if batch_norm else None
        self.linear = nn.Linear(channels, len(centres))
        if init_std is not None:
            nn.init.normal_(self.linear.weight, std=init_std)
            nn.init.zeros_(self.linear.bias)
        self.before = nn.Sequential(*(nn.Linear(channels, channels) for _ in range(before)))
        self.centres: Tensor
        self.register_buffer("centres", centres)

    def forward(self, x: Tensor) -> Tensor:
        """Return depth (B, 1, upsample * h, upsample * w) in metres of channels (B, C, h, w)."""
        return self._decode(x if self.norm is None else self.norm(x))

    def _decode(self, x: Tensor) -> Tensor:
        x = self.before(x.movedim(1, -1)).movedim(-1, 1)
        logits = ops.linear_logits(x, self.linear.weight, self.linear.bias)
        return decode_upsampled(logits, self.centres, self.bin_norm, self.upsample)

    def predict(self, x: Tensor, size: tuple[int, int], at_once: int = 2) -> Tensor:
        """Return depth (B, H, W) at ``size``, clamped to the bins' range; ``at_once`` images are upsampled at a time.

        Maps of padded images are stretched to the size of the image without cutting the padding off, as published.
        """
        return torch.cat([ops.finish_depth(self(part), *self.range, size)[:, 0] for part in x.split(at_once)])

    def add_gradient(
        self,
        x: Tensor,
        target: Tensor,
        images_per_loss: int = 2,
        warm_up: bool = False,
        gradient_weight: float = 0.0,
    ) -> float:
        """Add the gradient of the mean loss over groups of images to the parameters' own, and return that loss.

        Groups go through the layer one after the other, so what a step holds does not grow with the batch.

        Args:
            x: channels (B, C, h, w), no gradient wanted.
            target: (B, H, W) metres, 0 = not measured; predictions are stretched to its size.
            images_per_loss: images of a group. The loss is not a mean over pixels, so the number matters; the published
                one is that of a GPU, 2.
            warm_up: see `ops.depth.sig_loss`.
            gradient_weight: of `ops.depth.gradient_loss` beside it.
        """
        normed = x if self.norm is None else self.norm(x)  # statistics are the whole batch's
        leaf = normed.detach().requires_grad_(self.norm is not None)
        groups = list(zip(leaf.split(images_per_loss), target[:, None].split(images_per_loss), strict=True))
        total = 0.0
        for some, truth in groups:
            pred = resize_maps(self._decode(some), (truth.shape[2], truth.shape[3]))
            loss = ops.sig_loss(pred, truth, warm_up=warm_up)
            if gradient_weight:
                loss = loss + gradient_weight * ops.gradient_loss(pred, truth)
            (loss / len(groups)).backward()
            total += float(loss.detach()) / len(groups)
        if self.norm is not None:
            normed.backward(leaf.grad)
        return total


def views_of(data: DenseDataset, config: DepthConfig, seed: int) -> DepthViews:
    """Return the views of a dataset that the config asks for."""
    resolved = config.resolved
    return DepthViews(data, resolved.crop, seed, frame_off=resolved.nyu_crops, augment=config.augment)


class Encoder:
    """The frozen backbone as heads read it: padded images in, channels per head out."""

    def __init__(self, config: DepthConfig, backbone: Backbone, context: Context) -> None:
        self.settings, self.backbone, self.source = config.resolved, backbone, context.features
        wanted = {n: layers_read(n, backbone.info.depth, config.four) for n in self.settings.heads}
        self.layers = sorted({layer for layers in wanted.values() for layer in layers})
        self.rows = {n: [self.layers.index(layer) for layer in layers] for n, layers in wanted.items()}

    def __call__(self, images: Tensor, names: Sequence[str]) -> dict[int, Tensor]:
        """Return {layers: (B, C, h, w)} float32 of images (B, 3, H, W) in [0, 1]; raises FeatureError for NaN."""
        padded = ops.centre_pad(images.to(self.source.device), self.backbone.info.patch, self.backbone.info.mean)
        keys = [FeatureKey(layer, norm=self.settings.norm) for layer in self.layers]
        found = self.source.dense(padded, names, keys, class_tokens=self.settings.class_token)
        # rounded like the features of every other protocol, which go through the cache
        maps = [each.float() for each in found.maps]
        tokens = [token.float() for token in found.class_tokens if token is not None]
        return {
            n: ops.concat_tokens([maps[i] for i in rows], [tokens[i] for i in rows] if tokens else ())
            for n, rows in self.rows.items()
        }

    def channels(self, n: int) -> int:
        """Return the number of channels that a head of n layers reads."""
        return len(self.rows[n]) * self.backbone.info.width * (2 if self.settings.class_token else 1)


class Trained(NamedTuple):
    """A head, the number of layers it reads, and its learning rate."""

    layers: int
    rate: float
    head: LinearHead

    @property
    def label(self) -> str:
        """How facts name it."""
        return f"linear{self.layers} rate {self.rate:g}"


def new_head(config: DepthConfig, channels: int, n: int, seed: int) -> LinearHead:
    """Return a head of n layers with its initial weights, which depend on the seed and on its size alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # heads of one size start alike, whatever is trained beside them
        return LinearHead(
            channels,
            ops.uniform_bins(config.bins, config.min_depth, config.max_depth),
            bin_norm=config.bin_norm,
            upsample=config.upsample,
            batch_norm=config.batch_norm,
            init_std=config.init_std,
            before=n - 1 if config.four == "linear_layers" else 0,
        )


def predict(
    config: DepthConfig,
    encoder: Encoder,
    heads: list[Trained],
    data: DenseDataset,
    indices: Sequence[int],
    title: str,
    context: Context,
) -> Iterator[tuple[int, Tensor, Tensor, list[Tensor]]]:
    """Yield (index, image (3, H, W), depth (H, W), prediction of each head (H, W)), all on the CPU."""
    size = context.features.batch_size
    keys = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
    views = views_of(data, config, context.seed)
    stream = context.timed(load_views(views, keys, context.features.workers, stack=False), "load")
    for batch in context.progress.track(stream, title, len(keys), unit="batches"):
        for rows in _same_size(batch[1]):
            images = torch.stack([batch[1][i] for i in rows])
            names = [data.ids[batch[0][i]] for i in rows]
            predictions: list[Tensor] = []
            for mirrored in (False, True) if config.flip_test else (False,):
                with context.stage("features"):
                    found = encoder(images.flip(-1) if mirrored else images, names)
                with context.stage("heads"), torch.no_grad():
                    depth = [h.head.predict(found[h.layers], (images.shape[2], images.shape[3])) for h in heads]
                predictions = (
                    [(a + b.flip(-1)) / 2 for a, b in zip(predictions, depth, strict=True)] if mirrored else depth
                )
            for place, i in enumerate(rows):
                yield batch[0][i], batch[1][i], batch[2][i], [p[place].cpu() for p in predictions]


def _same_size(images: Sequence[Tensor]) -> Iterator[list[int]]:
    """Yield runs of positions whose images are of one size."""
    run: list[int] = []
    for i, image in enumerate(images):
        if run and image.shape != images[run[-1]].shape:
            yield run
            run = []
        run.append(i)
    if run:
        yield run


def errors_of(config: DepthConfig, prediction: Tensor, depth: Tensor) -> Tensor:
    """Return the errors of one prediction (H, W), where the config says that pixels count."""
    return ops.depth_errors(prediction, depth, valid_pixels(config, depth))


def valid_pixels(config: DepthConfig, depth: Tensor) -> Tensor:
    """Return which pixels of a depth map (H, W) the config says count."""
    return ops.valid_depth(depth, config.min_depth, config.max_depth, eigen=config.resolved.nyu_crops)
