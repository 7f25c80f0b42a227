"""Depth: a linear head on frozen patch tokens, trained to say how far every pixel is.

Tokens of one or of four layers, with the class token beside each, go through one linear layer to 256 bins of depth,
whose weighted mean is the prediction; errors are computed per image and averaged over images. Sources: P-PaKA B.1 and
Tab. 7 ask for it ("Linear 1.", "Linear 4.") and leave most settings open; D2 is dinov2 `hub/depth` and
`eval/depth`, with the NYU settings of DVT (Denoising-ViT `evaluation/configs/vitb_nyu_linear_config.py`, derived from
DINOv2's own, which is not public); D3 is dinov3 `eval/depth`; MDE is the Monocular-Depth-Estimation-Toolbox, whose
data pipeline and metrics all of them use.

Heads see augmented images, so features are not cached: every step runs the backbone. One run trains all heads and
learning rates on the same features, which is the same as training each on its own. Augmentation is drawn from
(seed, epoch, image) alone. Embedded datasets have no published setting: there, `steps`, `batch`, `max_depth` and
`learning_rates` have defaults of their own that finish on a laptop, and the record states them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from densebench import figures
from densebench.config import no_score
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.errors import DatasetError, DensebenchError, FeatureError, UsageError
from densebench.features import FeatureSpec
from densebench.model_zoo.backbone import Backbone, BackboneInfo
from densebench.ops import depth as ops
from densebench.protocols.protocol import Context, Data, Estimate, Measurement, MetricInfo, Preset, Protocol
from densebench.results import Metric

STEPS, BATCH, RATES = 38_400, 16, (1e-3, 2e-3, 5e-3)
EMBEDDED = {"steps": 200, "batch": 8, "max_depth": 20.0, "learning_rates": (5e-3,)}
"""Defaults on embedded datasets, chosen so that a run takes about two minutes on two cores."""
CROP = (416, 544)
ROTATION = 2.5
GAMMA, BRIGHTNESS, COLOUR = (0.9, 1.1), (0.75, 1.25), (0.9, 1.1)
"""Augmentation of MDE `configs/_base_/datasets/nyu.py`, each with probability 0.5: degrees, and factors."""

NAMES = {"rmse": "rmse", "abs_rel": "abs_rel", "delta1": "a1", "delta2": "a2", "delta3": "a3", "log10": "log_10"}
"""Our names of the errors that are reported, and MDE's."""
MEANING = {
    "rmse": "root of the mean squared error, per image",
    "abs_rel": "mean of |error| / true depth, per image",
    "delta1": "share of pixels off by a factor below 1.25, per image",
    "delta2": "share of pixels off by a factor below 1.25^2, per image",
    "delta3": "share of pixels off by a factor below 1.25^3, per image",
    "log10": "mean of |log10 prediction - log10 truth|, per image",
}


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Settings of linear depth heads; D2, D3, DVT and MDE are the codes named above."""

    heads: tuple[Literal[1, 4], ...] | None = None
    """Numbers of layers to read, one head each; None: (1, 4) as P-PaKA Tab. 7, (1,) for backbones that give only their
    last layer. Four layers end the four quarters of the depth; of 24 blocks they are 4, 11, 17, 23 as D2 has them."""
    norm: bool | None = None
    """Take the last layer after its final norm (others are always raw); None: no, as D2's hub, where the backbone can
    leave it out. DVT and D3 say yes."""
    class_token: bool | None = None
    """Concatenate the class token to every patch (D2 yes, D3 no); None: where the backbone has one."""
    batch_norm: bool = False
    """Batch normalisation before the linear layer (D3 yes; D2's head is called BNHead and has none)."""
    upsample: int = 4
    """Bilinear factor on the head's input (D2 4, D3 1)."""
    init_std: float | None = None
    """Deviation of the initial weights, biases 0 (D3 0.01); None: torch's default for convolutions (D2)."""
    bins: int = 256
    bin_norm: ops.BinNorm = "linear"
    min_depth: float = 1e-3
    """Metres: first bin, and the exclusive lower bound of what is evaluated (MDE)."""
    max_depth: float | None = None
    """Metres: last bin and exclusive upper bound; None: 10 as for NYU (D2's hub writes 80), 20 on embedded datasets."""
    steps: int | None = None
    """Optimiser steps; None: 38,400 (DVT, D3), 200 on embedded datasets. Warm-ups are shares of it."""
    batch: int | None = None
    """Images per step; None: 16 (DVT, D3: 8 GPUs with 2 each), 8 on embedded datasets."""
    images_per_loss: int = 2
    """The loss is no mean over pixels: it is taken over so many images, and averaged (DVT, D3: 2 on each GPU)."""
    learning_rates: tuple[float, ...] | None = None
    """Of AdamW. Of several, each head keeps the one with the lowest RMSE on training images held out. None: 1e-3,
    2e-3, 5e-3 (D2's own is not public, DVT has 5e-3, P-PaKA says nothing), 5e-3 on embedded datasets."""
    held_out: int = 256
    """Training images that choose among several learning rates, at most a fifth of all; a single rate needs none."""
    beta2: float = 0.999
    """Of AdamW; the first beta cycles between 0.95 and 0.85 with the schedule (DVT, D3)."""
    weight_decay: float = 0.01
    schedule: ops.Schedule = "cosine"
    """"cosine": linear warm-up times cosine (DVT). "one_cycle": D3's WarmupOneCycleLR, first beta 0 in the warm-up."""
    warmup: float = 1 / 3
    """Share of the steps (DVT, D3: 12,800)."""
    loss_warmup: float = 1 / 384
    """Share of the steps in which the loss is the mean log error alone (D2, D3: 100)."""
    gradient_loss: float = 0.0
    """Weight of the gradient loss along image rows and columns. D2's code takes differences along batch and channel,
    so the published 0.5 multiplies an exact 0 for 2 images per GPU; 0 is what was run."""
    clip: float = 35.0
    """Largest norm of a head's gradient (DVT, D3)."""
    augment: bool = True
    """Rotation, flip, random crop and colour as MDE; without it, the central crop."""
    crop: tuple[int, int] | None = None
    """Height and width of training crops; None: 416x544 (MDE), nine tenths of datasets with a fixed size."""
    nyu_crops: bool | None = None
    """Cut NYU's white frame off training images, and evaluate inside the Eigen crop (MDE); None: on NYU."""
    flip_test: bool = True
    """Average the predictions of image and mirror image (MDE, D3)."""
    examples: int = no_score(6)
    """Images in the picture."""


class Depth(Protocol[DepthConfig]):
    """Monocular depth from frozen patch tokens by linear heads."""

    name = "depth"
    title = "Monocular depth"
    config = DepthConfig
    presets = {
        "paper": Preset(source="PaKA B.1 and Tab. 7, with the head and losses of DINOv2; learning rate searched"),
        "dinov2": Preset(
            source="dinov2 hub/depthers.py and eval/depth; schedule of Denoising-ViT vitb_nyu_linear_config.py",
            settings={"learning_rates": (5e-3,)},
        ),
        "dinov3": Preset(
            source="dinov3 eval/depth/configs/config-nyu.yaml",
            settings={
                "heads": (1,),
                "norm": True,
                "class_token": False,
                "batch_norm": True,
                "upsample": 1,
                "init_std": 0.01,
                "learning_rates": (3e-4,),
                "beta2": 0.99,
                "weight_decay": 1e-4,
                "schedule": "one_cycle",
            },
        ),
    }
    metrics = tuple(
        MetricInfo(f"{name}@linearN", "m" if name == "rmse" else "1", name.startswith("delta"), meaning)
        for name, meaning in MEANING.items()
    )
    needs = frozenset({"depth"})
    shrink_hint = "Take fewer images per step with --set depth.batch=N, or fewer depth.learning_rates."

    def resolve(self, config: DepthConfig, backbone: BackboneInfo, data: DatasetInfo) -> DepthConfig:
        """Fill in what depends on backbone and dataset."""
        if not self.needs <= data.targets:
            raise UsageError(f"depth needs depth, which {data.name} does not have. Run `densebench list datasets`.")
        four = backbone.any_layer and backbone.depth >= 4
        heads = config.heads or ((1, 4) if four else (1,))
        if 4 in heads and not four:
            raise UsageError(
                f"depth.heads={heads}: {backbone.name} "
                + (f"has {backbone.depth} layers" if backbone.any_layer else "gives its last layer only")
                + "; set depth.heads=[1]."
            )
        norm = not backbone.any_layer if config.norm is None else config.norm
        if not norm and not backbone.any_layer:
            raise UsageError(f"depth.norm=false: {backbone.name} gives its last layer after the final norm only.")
        has_token = backbone.has_class_token and backbone.prefix > 0
        if config.class_token and not has_token:
            raise UsageError(f"depth.class_token=true: {backbone.name} has no class token.")
        defaults: dict[str, Any] = {"steps": STEPS, "batch": BATCH, "max_depth": 10.0, "learning_rates": RATES}
        if data.embedded:
            defaults = EMBEDDED
        resolved = replace(
            config,
            heads=tuple(dict.fromkeys(heads)),
            norm=norm,
            class_token=has_token if config.class_token is None else config.class_token,
            crop=config.crop or _default_crop(backbone, data),
            nyu_crops=data.name == "nyu" if config.nyu_crops is None else config.nyu_crops,
            **{k: v for k, v in defaults.items() if getattr(config, k) is None},
        )
        _check(resolved)
        return resolved

    def estimate(self, config: DepthConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, the tensors of a training step, and the arithmetic of the heads."""
        plan = _Plan.of(config, data.train)
        train, val = (_spec(config, backbone, size) for size in (plan.crop, _val_size(config, data.info)))
        patches, most = (math.prod(spec.grid(backbone)) for spec in (train, val))
        token = backbone.width * (2 if config.class_token else 1)
        channels = [n * token for n, _ in plan.heads]
        # a product with the weights, and about five operations on each upsampled logit, thrice with the way back
        each = 6.0 * config.bins * sum(c + 5 * config.upsample**2 for c in channels)
        # logits, the same rectified, and a gradient of each; one head and one group of images are at work at a time
        logits = 16 * max(patches, most) * config.upsample**2 * config.bins * max(2, config.images_per_loss)
        return Estimate(
            features={
                "train": (train, plan.steps * plan.batch + len(plan.held_out)),
                "val": (val, len(data.val) * (2 if config.flip_test else 1)),
            },
            bank_bytes=logits + 4 * plan.batch * max(patches, most) * token * sum(set(config.heads or ())),
            search_flops=each * (patches * plan.steps * plan.batch + most * len(data.val) / 3),
        )

    def run(self, config: DepthConfig, backbone: Backbone, data: Data, context: Context) -> Measurement:
        """Train the heads on the training split, keep the best learning rate of each, evaluate."""
        plan = _Plan.of(config, data.train, context.seed)
        encoder = _Encoder(config, backbone, context)
        trained, constant, loss = _train(config, plan, encoder, data.train, context)
        chosen, searched = _choose(config, plan, encoder, trained, data.train, context)
        read = [h.layers for h in chosen]
        scores = _evaluate(config, encoder, chosen, constant, data.val, context)
        with context.stage("figures"):
            pictures = {"depth.png": _picture(scores.examples, read)} if scores.examples else {}
        by_name = scores.by_name()
        return Measurement(
            metrics=tuple(_metrics(by_name, read)),
            facts={
                "layers": {f"linear{n}": list(_layers(n, backbone.info.depth)) for n in read},
                "norm": config.norm,
                "class_token": config.class_token,
                "steps": plan.steps,
                "batch": plan.batch,
                "crop": list(plan.crop),
                "max_depth": config.max_depth,
                "learning_rates": {f"linear{h.layers}": h.rate for h in chosen},
                "held_out": {"images": len(plan.held_out), "rmse": searched},
                "last_losses": loss,
                "constant": {"depth": constant, **{name: by_name[name][-1][0] for name in NAMES}},
                "images_without_valid_pixel": scores.hollow,
            },
            notes=(
                "features are not cached: heads are trained on augmented images",
                f"trained for {plan.steps} steps of {plan.batch} images; published: {STEPS} of {BATCH}",
                "errors are averaged over images, not pooled over pixels; `constant` predicts the training mean",
            ),
            artifacts=pictures,
        )


def _check(config: DepthConfig) -> None:
    """Raise UsageError for numbers that mean nothing."""
    assert config.max_depth is not None
    assert config.crop is not None
    wrong = [
        f"{name}={value}"
        for name, value, ok in (
            ("steps", config.steps, (config.steps or 0) > 0),
            ("batch", config.batch, (config.batch or 0) > 0),
            ("images_per_loss", config.images_per_loss, config.images_per_loss > 0),
            ("upsample", config.upsample, config.upsample > 0),
            ("bins", config.bins, config.bins > 1),
            ("max_depth", config.max_depth, config.max_depth > config.min_depth > 0),
            ("learning_rates", config.learning_rates, min(config.learning_rates or (0,)) > 0),
            ("held_out", config.held_out, config.held_out > 0),
            ("warmup", config.warmup, 0 <= config.warmup < 1),
            ("loss_warmup", config.loss_warmup, 0 <= config.loss_warmup <= 1),
            ("crop", config.crop, min(config.crop) > 0),
        )
        if not ok
    ]
    if wrong:
        raise UsageError(f"depth.{', depth.'.join(wrong)}: expected positive numbers, shares below 1 and 2 bins.")


def _default_crop(backbone: BackboneInfo, data: DatasetInfo) -> tuple[int, int]:
    if data.input_size is None:
        return CROP
    side = max(1, int(0.9 * data.input_size) // backbone.patch) * backbone.patch
    return side, side


def _val_size(config: DepthConfig, data: DatasetInfo) -> tuple[int, int]:
    """Return the size of evaluated images as far as it is known before one is opened."""
    if data.input_size is not None:
        return data.input_size, data.input_size
    return (480, 640) if config.nyu_crops else config.crop or CROP


def _layers(n: int, depth: int) -> tuple[int, ...]:
    """Return the blocks that a head of n layers reads, from 0."""
    if n == 1:
        return (depth - 1,)
    return (4, 11, 17, 23) if depth == 24 else tuple(i * depth // 4 - 1 for i in range(1, 5))


def _spec(config: DepthConfig, backbone: BackboneInfo, size: tuple[int, int]) -> FeatureSpec:
    """Return the request that stands for a pass in plan and record: images are padded, not resized, to its size."""
    height, width = (-(-side // backbone.patch) * backbone.patch for side in size)
    return FeatureSpec(size=(height, width), norm=bool(config.norm))


@dataclass(frozen=True)
class _Plan:
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
    def of(cls, config: DepthConfig, train: DenseDataset, seed: int = 0) -> _Plan:
        """Split the training images as the config asks."""
        assert config.steps is not None
        assert config.batch is not None
        assert config.crop is not None
        assert config.heads is not None
        assert config.learning_rates is not None
        order = np.random.default_rng((seed, len(train))).permutation(len(train)).tolist()
        several = len(config.learning_rates) > 1 and len(train) > 4
        n = min(config.held_out, len(train) // 5) if several else 0
        return cls(
            steps=config.steps,
            batch=config.batch,
            crop=config.crop,
            heads=tuple((layers, rate) for layers in config.heads for rate in config.learning_rates),
            images=tuple(sorted(order[n:])),
            held_out=tuple(sorted(order[:n])),
            seed=seed,
        )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, image) pairs of each step: all images in a new order in every epoch."""
        waiting: list[tuple[int, int]] = []
        epoch = 0
        for _ in range(self.steps):
            while len(waiting) < self.batch:
                order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
                waiting += [(epoch, self.images[i]) for i in order]
                epoch += 1
            yield waiting[: self.batch]
            waiting = waiting[self.batch :]

    def __len__(self) -> int:
        return self.steps


class _Views(Dataset[Any]):
    """Decodes images and depth, augmented where an epoch is given; errors travel as values, so workers end quietly."""

    def __init__(self, data: DenseDataset, config: DepthConfig, seed: int) -> None:
        self.data, self.config, self.seed = data, config, seed

    def __getitem__(self, key: tuple[int, int] | int) -> Any:
        try:
            epoch, index = key if isinstance(key, tuple) else (None, key)
            image, depth = self._read(index)
            if epoch is not None:
                rng = np.random.default_rng((self.seed, epoch, index))
                image, depth = self._augmented(image, depth, rng, self.data.ids[index])
            pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)
            return index, pixels, torch.from_numpy(np.array(depth))
        except DensebenchError as error:
            return error

    def _read(self, index: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        image, depth = self.data.image(index), self.data.depth(index)
        if depth.shape != image.size[::-1]:
            raise DatasetError(
                f"{self.data.info.name} image {self.data.ids[index]} is {image.size[0]}x{image.size[1]} px but its "
                f"depth {depth.shape[1]}x{depth.shape[0]}; expected the same. Get the original files."
            )
        return np.asarray(image), depth

    def _augmented(
        self, image: NDArray[Any], depth: NDArray[np.float32], rng: np.random.Generator, name: str
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return one training view: frame off, rotated, mirrored, cropped, recoloured, in MDE's order."""
        if self.config.nyu_crops:
            window = ops.border_crop(*depth.shape)
            image, depth = image[window], depth[window]
        assert self.config.crop is not None
        height, width = self.config.crop
        if depth.shape[0] < height or depth.shape[1] < width:
            raise DatasetError(
                f"{self.data.info.name} image {name} has {depth.shape[1]}x{depth.shape[0]} px to train on, less than "
                f"the crop of {width}x{height}. Set depth.crop='[HEIGHT, WIDTH]' to at most the smallest image."
            )
        turn, flip, recolour = (rng.random(3) < 0.5) & self.config.augment
        angle = rng.uniform(-ROTATION, ROTATION)
        if turn:
            image = np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))
            depth = np.asarray(Image.fromarray(depth).rotate(angle, Image.Resampling.NEAREST))
        if flip:
            image, depth = image[:, ::-1], depth[:, ::-1]
        spare = depth.shape[0] - height, depth.shape[1] - width
        top, left = rng.integers(0, spare, endpoint=True) if self.config.augment else (spare[0] // 2, spare[1] // 2)
        image, depth = (x[top : top + height, left : left + width] for x in (image, depth))
        if recolour:
            gamma, bright = rng.uniform(*GAMMA), rng.uniform(*BRIGHTNESS)
            factors = (bright * rng.uniform(*COLOUR, 3)).astype(np.float32)
            # the power is of values in 0..255, as published: it brightens or darkens by up to 255^0.1
            image = np.clip(image.astype(np.float32) ** np.float32(gamma) * factors, 0, 255)
        return image, depth


def _load(
    views: _Views, batches: Iterable[Any], context: Context
) -> Iterator[tuple[list[int], list[Tensor], list[Tensor]]]:
    """Yield (image indices, images (3, H, W) in [0, 1], depths (H, W)) of each batch, in order."""
    loader = DataLoader(views, batch_sampler=batches, num_workers=context.features.workers, collate_fn=list)
    for items in loader:
        for item in items:
            if isinstance(item, DensebenchError):
                raise item
        indices, images, depths = zip(*items, strict=True)
        yield list(indices), list(images), list(depths)


class _Encoder:
    """The frozen backbone as heads read it: padded images in, channels per head out."""

    def __init__(self, config: DepthConfig, backbone: Backbone, context: Context) -> None:
        self.config, self.backbone, self.source = config, backbone, context.features
        assert config.heads is not None
        wanted = {n: _layers(n, backbone.info.depth) for n in config.heads}
        self.layers = sorted({layer for layers in wanted.values() for layer in layers})
        self.rows = {n: [self.layers.index(layer) for layer in layers] for n, layers in wanted.items()}

    def __call__(self, images: Tensor, names: Sequence[str]) -> dict[int, Tensor]:
        """Return {layers: (B, C, h, w)} float32 of images (B, 3, H, W) in [0, 1]; raises FeatureError for NaN."""
        padded = ops.centre_pad(images.to(self.source.device), self.backbone.info.patch, self.backbone.info.mean)
        found = self.source.dense(
            padded, names, self.layers, norm=bool(self.config.norm), class_tokens=bool(self.config.class_token)
        )
        # rounded like the features of every other protocol, which go through the cache
        maps, tokens = ([x.float() for x in some] for some in found)
        return {
            n: ops.concat_tokens([maps[i] for i in rows], [tokens[i] for i in rows] if tokens else ())
            for n, rows in self.rows.items()
        }

    def channels(self, n: int) -> int:
        """Return the number of channels that a head of n layers reads."""
        return n * self.backbone.info.width * (2 if self.config.class_token else 1)


class _Trained(NamedTuple):
    """A head, the number of layers it reads, and its learning rate."""

    layers: int
    rate: float
    head: ops.LinearHead

    @property
    def label(self) -> str:
        """How facts name it."""
        return f"linear{self.layers} rate {self.rate:g}"


def _head(config: DepthConfig, channels: int, seed: int) -> ops.LinearHead:
    assert config.max_depth is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # heads of one size start alike, whatever is trained beside them
        return ops.LinearHead(
            channels,
            ops.uniform_bins(config.bins, config.min_depth, config.max_depth),
            bin_norm=config.bin_norm,
            upsample=config.upsample,
            batch_norm=config.batch_norm,
            init_std=config.init_std,
        )


def _train(
    config: DepthConfig, plan: _Plan, encoder: _Encoder, train: DenseDataset, context: Context
) -> tuple[list[_Trained], float, dict[str, float]]:
    """Return the trained heads, the mean training depth in metres, and each head's mean loss over its last steps."""
    device = context.features.device
    heads = [_Trained(n, rate, _head(config, encoder.channels(n), context.seed).to(device)) for n, rate in plan.heads]
    optimisers = [torch.optim.AdamW(h.head.parameters(), lr=h.rate, weight_decay=config.weight_decay) for h in heads]
    recent: list[list[float]] = [[] for _ in heads]
    total, count = 0.0, 0
    stream = context.timed(_load(_Views(train, config, context.seed), plan, context), "load")
    for step, batch in enumerate(context.progress.track(stream, "training depth heads", plan.steps, unit="steps")):
        indices, images, depths = batch
        with context.stage("features"):
            found = encoder(torch.stack(images), [train.ids[i] for i in indices])
        target = torch.stack(depths).to(device)
        total, count = total + float(target.double().sum()), count + int((target > 0).sum())
        share, beta = ops.rate_and_beta(step, plan.steps, config.schedule, config.warmup)
        warm_up = step < round(config.loss_warmup * plan.steps)
        with context.stage("training"):
            for h, optimiser, losses in zip(heads, optimisers, recent, strict=True):
                optimiser.param_groups[0].update(lr=share * h.rate, betas=(beta, config.beta2))
                optimiser.zero_grad()
                losses.append(
                    h.head.add_gradient(found[h.layers], target, config.images_per_loss, warm_up, config.gradient_loss)
                )
                nn.utils.clip_grad_norm_(h.head.parameters(), config.clip)
                optimiser.step()
                del losses[:-100]
    if not count:
        raise DatasetError(f"{train.info.name} {train.split}: no pixel of the training images has a depth above 0.")
    for h in heads:
        h.head.eval()
    return heads, total / count, {h.label: sum(x) / len(x) for h, x in zip(heads, recent, strict=True)}


def _choose(
    config: DepthConfig,
    plan: _Plan,
    encoder: _Encoder,
    trained: list[_Trained],
    train: DenseDataset,
    context: Context,
) -> tuple[list[_Trained], dict[str, float]]:
    """Return, for each number of layers, the head with the lowest RMSE on held-out training images; and all RMSEs."""
    rmse = [0.0] * len(trained)  # without images to choose by, the first rate stays
    if plan.held_out:
        means = [ops.ImageMean((len(ops.ERRORS),), n_replicates=1) for _ in trained]
        plain = replace(config, flip_test=False)
        stream = _predictions(plain, encoder, trained, train, plan.held_out, "choosing learning rates", context)
        for index, _, depth, predictions in stream:
            for mean, prediction in zip(means, predictions, strict=True):
                mean.update(index, _errors(config, prediction, depth))
        rmse = [float(mean.mean()[ops.ERRORS.index("rmse")]) for mean in means]
    found: dict[int, tuple[float, _Trained]] = {}
    for h, value in zip(trained, rmse, strict=True):
        if h.layers not in found or value < found[h.layers][0]:
            found[h.layers] = value, h
    searched = {h.label: value for h, value in zip(trained, rmse, strict=True)} if plan.held_out else {}
    return [h for _, h in found.values()], searched


def _predictions(
    config: DepthConfig,
    encoder: _Encoder,
    heads: list[_Trained],
    data: DenseDataset,
    indices: Sequence[int],
    title: str,
    context: Context,
) -> Iterator[tuple[int, Tensor, Tensor, list[Tensor]]]:
    """Yield (index, image (3, H, W), depth (H, W), prediction of each head (H, W)), all on the CPU."""
    size = context.features.batch_size
    batches = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
    stream = context.timed(_load(_Views(data, config, context.seed), batches, context), "load")
    for batch in context.progress.track(stream, title, len(batches), unit="batches"):
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


def _errors(config: DepthConfig, prediction: Tensor, depth: Tensor) -> Tensor:
    assert config.max_depth is not None
    valid = ops.valid_depth(depth, config.min_depth, config.max_depth, eigen=bool(config.nyu_crops))
    return ops.depth_errors(prediction, depth, valid)


@dataclass
class _Scores:
    """What came out of the validation pass."""

    means: ops.ImageMean
    hollow: int = 0
    examples: list[tuple[NDArray[Any], list[NDArray[Any]]]] = field(default_factory=list)
    """Images, each with truth and predictions."""

    def by_name(self) -> dict[str, list[tuple[float, tuple[float, float]]]]:
        """Return value and interval of each error, head after head, the constant prediction last."""
        mean, (low, high) = self.means.mean(), self.means.interval()
        return {
            name: [
                (float(mean[row, column]), (float(low[row, column]), float(high[row, column])))
                for row in range(len(mean))
            ]
            for name, column in ((name, ops.ERRORS.index(theirs)) for name, theirs in NAMES.items())
        }


def _evaluate(
    config: DepthConfig,
    encoder: _Encoder,
    heads: list[_Trained],
    constant: float,
    val: DenseDataset,
    context: Context,
) -> _Scores:
    """Predict every validation image and average its errors."""
    scores = _Scores(ops.ImageMean((len(heads) + 1, len(ops.ERRORS))))
    shown = set(np.linspace(0, len(val) - 1, min(config.examples, len(val))).astype(int).tolist())
    everything = range(len(val))
    for index, image, depth, predictions in _predictions(
        config, encoder, heads, val, everything, "depth of validation images", context
    ):
        with context.stage("score"):
            flat = torch.full_like(depth, min(constant, config.max_depth or constant))
            errors = torch.stack([_errors(config, p, depth) for p in (*predictions, flat)])
            scores.hollow += int(errors.isnan().any())
            scores.means.update(index, errors)
        if index in shown:
            maps = [depth.numpy(), *(p.numpy() for p in predictions)]
            scores.examples.append((image.permute(1, 2, 0).numpy(), maps))
    if scores.hollow == len(val):
        raise DatasetError(
            f"{val.info.name} {val.split}: no pixel of any image lies between {config.min_depth} and "
            f"{config.max_depth} m. Is its depth in metres? Else set depth.max_depth."
        )
    return scores


def _metrics(by_name: dict[str, list[tuple[float, tuple[float, float]]]], heads: list[int]) -> Iterator[Metric]:
    """Yield the errors of every head."""
    for row, n in enumerate(heads):
        for name in NAMES:
            value, interval = by_name[name][row]
            yield Metric(
                name=f"{name}@linear{n}",
                value=value,
                unit="m" if name == "rmse" else "1",
                higher_is_better=name.startswith("delta"),
                main=name in ("rmse", "abs_rel", "delta1"),
                ci95=interval,
                ci_method="Poisson bootstrap over validation images, heads held fixed",
            )


def _picture(examples: list[tuple[NDArray[Any], list[NDArray[Any]]]], heads: list[int]) -> bytes:
    """Return images, true and predicted depth below each other as PNG, all depths in one colour bar."""
    titles = ["image", "truth", *(f"linear {n}" for n in heads)]
    seen = np.concatenate([depth[depth > 0] for _, maps in examples for depth in maps[:1]])
    low, high = np.percentile(seen, [1, 99]) if seen.size else (0.0, 1.0)
    colours = colormaps["viridis_r"].with_extremes(bad="#ebebeb")
    figure = Figure(figsize=(1.6 * len(examples) + 1.2, 1.45 * len(titles)), layout="constrained")
    axes = figure.subplots(len(titles), len(examples), squeeze=False)
    for column, (image, maps) in enumerate(examples):
        axes[0, column].imshow(image)
        for axis, depth in zip(axes[1:, column], maps, strict=True):
            drawn = axis.imshow(np.ma.masked_less_equal(depth, 0), cmap=colours, vmin=low, vmax=high)
    for row, title in zip(axes, titles, strict=True):
        row[0].set_ylabel(title, fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, extend="both")
    bar.set_label("metres (grey: not measured)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figures.png(figure)
