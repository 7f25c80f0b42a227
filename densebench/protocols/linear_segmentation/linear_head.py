"""A linear segmentation head: its settings, which images it sees when, how it is trained and scored.

`protocol.py` has the sources; the numerics are in `ops/heads.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from densebench.core.config import known
from densebench.core.errors import DatasetError, UsageError
from densebench.datasets.dataset import DatasetInfo
from densebench.features.spec import FeatureSpec
from densebench.ops import heads
from densebench.ops.confusion import AbsentRule, ConfusionMatrix, mean_iou
from densebench.ops.resize import resize_labels
from densebench.ops.retrieval import upsample_argmax
from densebench.protocols.common import scoring
from densebench.protocols.common.examples import Example, as_seen, spread
from densebench.protocols.linear_segmentation.config import LinearHeadConfig
from densebench.protocols.protocol import Context, Data
from densebench.views.order import draw_share, evenly
from densebench.views.squash import Labels

Pair = tuple[Tensor, Tensor]
"""One image to train on: features (D, h, w) and mask (H, W)."""


@dataclass(frozen=True)
class LinearPlan:
    """Which images are trained on, and when."""

    images: tuple[int, ...]
    epochs: int
    batch: int
    learning_rate: float
    drop_at: int
    evaluated: frozenset[int]
    """Epochs, from 1, after which the validation images are scored; the last is among them."""
    shuffle: bool
    drop_last: bool
    seed: int

    @classmethod
    def of(cls, protocol: str, config: LinearHeadConfig, n_images: int, seed: int = 0) -> LinearPlan:
        """Draw the share of the images that a resolved config asks for."""
        images = draw_share(n_images, known(config.train_share, "train_share"), seed)
        drop_last = known(config.drop_last, "drop_last")
        if drop_last and len(images) < config.batch:
            raise UsageError(
                f"{protocol}.drop_last=true leaves nothing of {len(images)} training images in batches of "
                f"{config.batch}. Set {protocol}.batch={len(images)} or less, or {protocol}.drop_last=false."
            )
        return cls(
            images=images,
            epochs=config.epochs,
            batch=config.batch,
            learning_rate=config.learning_rate,
            drop_at=config.drop_at,
            evaluated=frozenset(evenly(config.epochs, config.n_evaluations)),
            shuffle=known(config.shuffle, "shuffle"),
            drop_last=drop_last,
            seed=seed,
        )

    def order(self, epoch: int) -> list[int]:
        """Return the images of an epoch, in order; the last batch is incomplete unless that is dropped."""
        order = list(self.images)
        if self.shuffle:
            order = [order[i] for i in np.random.default_rng((self.seed, epoch)).permutation(len(order))]
        return order[: len(order) // self.batch * self.batch] if self.drop_last else order


def train(
    config: LinearHeadConfig,
    plan: LinearPlan,
    head: nn.Conv2d,
    sgd: torch.optim.SGD,
    pairs: Iterator[Pair],
    info: DatasetInfo,
    context: Context,
) -> float:
    """Train the head for one epoch and return the mean loss over its valid pixels."""
    device = context.features.device
    height, width = config.spec.grid(context.features.info)
    upsample = [heads.bilinear_matrix(side, config.mask_size).to(device) for side in (height, width)]
    total, seen = torch.zeros((), device=device), 0
    size, valid = len(plan.order(0)), 0
    for i, (features, mask) in enumerate(pairs, start=1):
        with context.stage("training"):
            target = heads.pixel_targets(mask, config.mask_size, info.n_classes, info.ignored)
            total += heads.add_gradient(head, features, target.to(device), (upsample[0], upsample[1]))
            valid += int((target != heads.IGNORED).sum())
            if i % plan.batch == 0 or i == size:
                heads.mean_gradient_step(head, sgd, valid)
                seen, valid = seen + valid, 0
    if not seen:
        raise DatasetError(f"{info.name}: no pixel of {size} training images has a class; all are void.")
    return float(total) / seen


def logits_of(head: nn.Conv2d, maps: Tensor) -> Tensor:
    """Return logits (B, C, h, w) of features (B, D, h, w)."""
    with torch.no_grad():
        return torch.stack([heads.class_maps(head, features) for features in maps])


def validation_miou(config: LinearHeadConfig, head: nn.Conv2d, data: Data, context: Context, title: str) -> float:
    """Return the mIoU of a head in percent, and nothing else."""
    info, spec = data.info, config.spec
    matrix = ConfusionMatrix(info.n_classes, info.n_classes, info.ignored)
    for batch in context.timed(
        context.features.stream(data.val, spec, labels=labels_of(spec), title=title), "features"
    ):
        with context.stage("score"):
            predictions = upsample_argmax(logits_of(head, batch.maps), config.mask_size).cpu()
            matrix.update(predictions, resize_labels(batch.labels, config.mask_size))
    return 100 * float(mean_iou(*matrix.compute(), absent=config.absent))


@dataclass
class LinearScores:
    """What the validation images gave at the end."""

    last: scoring.PixelTally
    at_input: scoring.PixelTally
    best: scoring.PixelTally | None
    """Of the best head before the last one."""
    examples: list[Example] = field(default_factory=list)
    """Each at the size of the input."""

    def metrics(self, info: DatasetInfo, absent: AbsentRule) -> Iterator[scoring.Scored]:
        """Yield all variants of the mIoU; the best head is the last one where no other was better."""
        found = self.last.variants(absent)
        best = found["miou"] if self.best is None else self.best.miou(absent)
        found["miou_best"] = max(best, found["miou"], key=lambda miou: miou.value)
        found["miou_input"] = self.at_input.miou(absent)
        for name in ("miou", "miou_best", "miou_input", "miou_present", "miou_hungarian"):
            is_main = name == "miou"
            yield scoring.metric(name, {"": found[name]}, "head", main=is_main, info=info if is_main else None)


def evaluate(
    config: LinearHeadConfig, head: nn.Conv2d, best_head: nn.Conv2d | None, data: Data, context: Context
) -> LinearScores:
    """Score the last head at both sizes and the best of the others at `mask_size`."""
    info, spec, small = data.info, config.spec, config.mask_size
    last, at_input, best = (
        scoring.PixelTally(info.n_classes, info.ignored, scoring.MAX_TABLE_BYTES // 3) for _ in range(3)
    )
    scores = LinearScores(last, at_input, None if best_head is None else best)
    shown = spread(context.pictures, len(data.val))
    stream = context.features.stream(data.val, spec, labels=labels_of(spec), title="validation")
    for batch in context.timed(stream, "features"):
        with context.stage("score"):
            logits, targets = logits_of(head, batch.maps), resize_labels(batch.labels, small)
            scores.last.update(batch.indices, upsample_argmax(logits, small), targets)
            predictions = upsample_argmax(logits, spec.size)
            scores.at_input.update(batch.indices, predictions, batch.labels)
            if best_head is not None and scores.best is not None:
                scores.best.update(batch.indices, upsample_argmax(logits_of(best_head, batch.maps), small), targets)
        for place, index in enumerate(batch.indices):
            if index in shown:
                maps = batch.labels[place].numpy().copy(), predictions[place].cpu().numpy().astype(np.uint8)
                scores.examples.append((as_seen(data.val, index, spec), *maps))
    return scores


def labels_of(spec: FeatureSpec) -> Labels:
    """Return how masks are read: to the input's size by PIL's rule; `resize_labels` takes them on by torch's."""
    return Labels(spec.size, "centre")
