"""Depth: a linear head on frozen patch tokens, trained to say how far every pixel is.

Tokens of one or of four layers, with the class token beside each, go through one linear layer to 256 bins of depth,
whose weighted mean is the prediction; errors are computed per image and averaged over images. Sources: PaKA B.1 and
Tab. 7 ask for it ("Linear 1.", "Linear 4.") and leave most settings open; DINOv2 is dinov2 `hub/depth` and
`eval/depth`, with the NYU settings of DVT (Denoising-ViT `evaluation/configs/vitb_nyu_linear_config.py`, derived from
DINOv2's own, which is not public); DINOv3 is dinov3 `eval/depth`; MDE is the Monocular-Depth-Estimation-Toolbox, whose
data pipeline and metrics all of them use.

Heads see augmented images, so features are not cached: every step runs the backbone. One run trains all heads and
learning rates on the same features, which is the same as training each on its own. Augmentation is drawn from
(seed, epoch, image) alone; a killed run goes on where its heads were saved. Embedded datasets have no published
setting: there, `steps`, `batch`, `max_depth` and `learning_rates` have defaults of their own that finish on a laptop,
and the record states them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.features.spec import FeatureSpec
from densebench.figures import kit as figures
from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from densebench.protocols.common import scoring
from densebench.protocols.common.depth_scores import DepthScores, described
from densebench.protocols.common.examples import spread
from densebench.protocols.depth.config import BATCH, STEPS, DepthConfig
from densebench.protocols.depth.heads import DepthPlan, Encoder, Trained, errors_of, layers_read, predict, valid_pixels
from densebench.protocols.depth.training import choose, train_heads
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    Protocol,
    check_depths,
)

CROP = (416, 544)

NAMES = ("rmse", "abs_rel", "delta1", "delta2", "delta3", "log10")
"""The errors that are reported."""


class Depth(Protocol[DepthConfig]):
    """Monocular depth from frozen patch tokens by linear heads."""

    name = "depth"
    title = "Monocular depth"
    version = 2
    config = DepthConfig
    presets = DepthConfig.presets
    metrics = described(NAMES, ("head",))
    needs = frozenset({"depth"})
    shrink_hint = "Take fewer images per step with --set depth.batch=N, or fewer depth.learning_rates."

    def resolve(self, config: DepthConfig, backbone: BackboneInfo, data: DatasetInfo) -> DepthConfig:
        """Fill in what depends on backbone and dataset."""
        four = config.four == "linear_layers" or (backbone.any_layer and backbone.depth >= 4)
        widest: tuple[Literal[1, 4], ...] = (1, 4) if four else (1,)
        heads = widest if config.heads == "auto" else config.heads
        if 4 in heads and not four:
            raise UsageError(
                f"depth.heads={heads}: {backbone.name} "
                + (f"has {backbone.depth} layers" if backbone.any_layer else "gives its last layer only")
                + "; set depth.heads=[1]."
            )
        norm = not backbone.any_layer if config.norm == "auto" else config.norm
        if not norm and not backbone.any_layer:
            raise UsageError(f"depth.norm=false: {backbone.name} gives its last layer after the final norm only.")
        has_token = backbone.has_class_token and backbone.prefix > 0
        class_token = has_token if config.class_token == "auto" else config.class_token
        if class_token and not has_token:
            raise UsageError(f"depth.class_token=true: {backbone.name} has no class token.")
        check_depths(self.name, config.min_depth, config.max_depth)
        return replace(
            config,
            heads=tuple(dict.fromkeys(heads)),
            norm=norm,
            class_token=class_token,
            crop=_default_crop(backbone, data) if config.crop == "auto" else config.crop,
            nyu_crops=data.family == "nyu" if config.nyu_crops == "auto" else config.nyu_crops,
        )

    def estimate(self, config: DepthConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, the tensors of a training step, and the arithmetic of the heads."""
        plan = DepthPlan.of(config, data.train)
        train, val = (_spec(config, backbone, size) for size in (plan.crop, _val_size(config, data.info)))
        patches, most = (math.prod(spec.grid(backbone)) for spec in (train, val))
        token = backbone.width * (2 if config.resolved.class_token else 1)
        stacked = config.four == "linear_layers"
        channels = [token * (1 if stacked else n) for n, _ in plan.heads]
        # a product with the weights, and some operations on each upsampled logit, thrice with the way back
        each = 6.0 * config.bins * sum(c + 5 * config.upsample**2 for c in channels)
        each += 6.0 * token**2 * sum(n - 1 for n, _ in plan.heads) if stacked else 0.0
        # logits, the same as rows, and a gradient of each; one head and one group of images are at work at a time
        fine = 1 if config.bin_norm == "linear" else config.upsample**2
        logits = 16 * max(patches, most) * fine * config.bins * max(2, config.images_per_loss)
        return Estimate(
            features={
                "train": (train, plan.steps * plan.batch + len(plan.held_out)),
                "val": (val, len(data.val) * (2 if config.flip_test else 1)),
            },
            uncached=frozenset({"train", "val"}),
            bank_bytes=logits + 4 * plan.batch * max(patches, most) * token * sum(config.resolved.heads),
            search_flops=each * (patches * plan.steps * plan.batch + most * len(data.val) / 3),
        )

    def run(self, config: DepthConfig, data: Data, context: Context) -> Measurement:
        """Train the heads on the training split, keep the best learning rate of each, evaluate."""
        plan = DepthPlan.of(config, data.train, context.seed)
        encoder = Encoder(config, context.backbone, context)
        trained, constant, loss = train_heads(config, plan, encoder, data.train, context)
        chosen, searched = choose(config, plan, encoder, trained, data.train, context)
        read = [h.layers for h in chosen]
        scores = _evaluate(config, encoder, chosen, constant, data.val, context)
        with context.stage("figures"):
            rows = ["image", "truth", *(f"linear {n}" for n in read)]
            pictures = {"depth.png": figures.depths(scores.examples, rows)} if scores.examples else {}
        return scoring.measurement(
            scores.metrics(NAMES, {f"linear{n}": {"head": f"linear{n}"} for n in read}, "heads"),
            facts={
                "layers": {f"linear{n}": list(layers_read(n, context.backbone.info.depth, config.four)) for n in read},
                "norm": config.norm,
                "class_token": config.class_token,
                "steps": plan.steps,
                "batch": plan.batch,
                "crop": list(plan.crop),
                "max_depth": config.max_depth,
                "learning_rates": {f"linear{h.layers}": h.rate for h in chosen},
                "held_out": {"images": len(plan.held_out), "rmse": searched},
                "last_losses": loss,
                "constant": {"depth": constant, **scores.values(NAMES, "constant")},
                "images_without_valid_pixel": scores.n_invalid,
            },
            notes=(
                "features are not cached: heads are trained on augmented images",
                f"trained for {plan.steps} steps of {plan.batch} images; published: {STEPS} of {BATCH}",
                "errors are averaged over images, not pooled over pixels; `constant` predicts the training mean",
            ),
            artifacts=pictures,
        )


def _default_crop(backbone: BackboneInfo, data: DatasetInfo) -> tuple[int, int]:
    if data.input_size is None:
        return CROP
    side = max(1, int(0.9 * data.input_size) // backbone.patch) * backbone.patch
    return side, side


def _val_size(config: DepthConfig, data: DatasetInfo) -> tuple[int, int]:
    """Return the size of evaluated images as far as it is known before one is opened."""
    if data.input_size is not None:
        return data.input_size, data.input_size
    return (480, 640) if config.resolved.nyu_crops else config.resolved.crop


def _spec(config: DepthConfig, backbone: BackboneInfo, size: tuple[int, int]) -> FeatureSpec:
    """Return the request that stands for a pass in plan and record: images are padded, not resized, to its size."""
    height, width = (-(-side // backbone.patch) * backbone.patch for side in size)
    return FeatureSpec(size=(height, width), keys=(FeatureKey(norm=config.resolved.norm),))


def _evaluate(
    config: DepthConfig,
    encoder: Encoder,
    heads: list[Trained],
    constant: float,
    val: DenseDataset,
    context: Context,
) -> DepthScores:
    """Predict every validation image and average its errors."""
    scores, shown = DepthScores(*(f"linear{h.layers}" for h in heads), "constant"), spread(context.pictures, len(val))
    stream = predict(config, encoder, heads, val, range(len(val)), "depth of validation images", context)
    for index, image, depth, predictions in stream:
        with context.stage("score"):
            flat = torch.full_like(depth, min(constant, config.max_depth or constant))
            errors = torch.stack([errors_of(config, p, depth) for p in (*predictions, flat)])
            scores.update(index, errors, int(valid_pixels(config, depth).sum()))
        if index in shown:
            maps = [depth.numpy(), *(p.numpy() for p in predictions)]
            scores.examples.append((image.permute(1, 2, 0).numpy(), maps))
    scores.check("depth", val, config.min_depth, config.max_depth)
    return scores
