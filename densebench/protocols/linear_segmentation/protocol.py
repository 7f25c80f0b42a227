"""Linear segmentation: a 1x1 convolution on frozen patch tokens, trained to name the class of every pixel.

Source: NeCo `experiments/linear_segmentation` and Leopart `experiments/linear_probing` (NeCo code, LEO), which PaKA
(5.2, A.2) and NeCo (A.2) follow. Tokens of random crops are classified at 100 x 100 pixels, in training and in
validation; predictions are scored as they are, with no matching. The head comes before the upsampling, which is the
same function (see `ops/heads.py`).

Left open, with the defaults here. Which head is reported: the code keeps the three best on validation images; `miou`
is the last one's, `miou_best` the best one's. At which size: training watches 100 x 100 pixels, but the script that
both READMEs name for evaluation (`eval_linear.py`) reads a saved head at the input's 448, which is `miou_input`.
Whether training images are shuffled: papers do not say, LEO does, NeCo code does not on VOC and ADE20K.

`linear_segmentation_cached` is another protocol by the same code: it trains on the images as they are, squashed, so
that their features are read from the cache and twenty epochs cost one pass of the backbone.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.figures import kit as figures
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import heads
from densebench.ops.resize import resize_labels
from densebench.protocols.common import scoring
from densebench.protocols.linear_segmentation.config import (
    BATCH,
    EPOCHS,
    LinearHeadConfig,
    LinearSegmentationCachedConfig,
    LinearSegmentationConfig,
)
from densebench.protocols.linear_segmentation.linear_head import (
    LinearPlan,
    Pair,
    evaluate,
    labels_of,
    train,
    validation_miou,
)
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Protocol,
    input_size,
)
from densebench.views.order import load_views
from densebench.views.segmentation import Mirror, SegmentationViews

C = TypeVar("C", bound=LinearHeadConfig)

NECO_LOADERS = {"voc": (False, True), "ade20k": (False, False), "coco": (True, True)}
"""NeCo code's (shuffle, drop_last) by dataset; others, Cityscapes among them, are (True, False)."""


class LinearHeadProtocol(Protocol[C]):
    """A linear head on frozen tokens; subclasses say which views of the training images it sees."""

    metrics = (
        MetricInfo("miou", "%", True, "mIoU of the last epoch's head at 100 x 100 pixels"),
        MetricInfo("miou_best", "%", True, "the same of the best epoch, which is chosen on these very images"),
        MetricInfo("miou_input", "%", True, "mIoU of the last epoch's head at the pixels of the input"),
        MetricInfo("miou_present", "%", True, "miou over the classes that occur in the validation masks"),
        MetricInfo("miou_hungarian", "%", True, "miou after matching predictions to classes, which no head needs"),
    )

    uncached: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def pairs_by_epoch(
        self, config: C, plan: LinearPlan, data: DenseDataset, context: Context
    ) -> Iterator[Iterator[Pair]]:
        """Yield, for each epoch, features and masks of the images `plan.order(epoch)`, in that order."""

    @abstractmethod
    def passes(self, config: C, plan: LinearPlan) -> int:
        """Return how many training images the backbone runs on."""

    def resolve(self, config: C, backbone: BackboneInfo, data: DatasetInfo) -> C:
        """Fill in the input size and what depends on the dataset."""
        loaders = NECO_LOADERS if config.loaders == "neco" else {}
        shuffle, drop_last = loaders.get(data.family, (True, False))
        share = 0.1 if data.family == "coco" else 1.0
        return replace(
            config,
            input_size=input_size(config.input_size, 448, backbone, data),
            train_share=share if config.train_share == "auto" else config.train_share,
            shuffle=shuffle if config.shuffle == "auto" else config.shuffle,
            drop_last=drop_last if config.drop_last == "auto" else config.drop_last,
            evaluations=config.n_evaluations,
        )

    def estimate(self, config: C, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, what is held beside the model, and the arithmetic of the head."""
        plan = LinearPlan.of(self.name, config, len(data.train))
        spec, classes, side = config.spec, data.info.n_classes, config.mask_size
        rows, columns = spec.grid(backbone)
        # classify the patches, upsample their rows, then their columns
        each = 2.0 * classes * (backbone.width * rows * columns + side * columns * (rows + side))
        return Estimate(
            features={"train": (spec, self.passes(config, plan)), "val": (spec, len(data.val))},
            uncached=self.uncached,
            bank_bytes=3 * 1000 * 4 * classes**2 + 4 * 4 * classes * side**2 + self.mask_bytes(config, plan),
            search_flops=each * (3 * plan.epochs * len(plan.order(0)) + len(plan.evaluated) * len(data.val)),
        )

    def mask_bytes(self, config: C, plan: LinearPlan) -> int:
        """Return what is held of the training images."""
        return 0

    def run(self, config: C, data: Data, context: Context) -> Measurement:
        """Train the head, score the validation images after every epoch, score the last head and the best one."""
        plan = LinearPlan.of(self.name, config, len(data.train), context.seed)
        head = heads.linear_head(context.backbone.info.width, data.info.n_classes, context.seed).to(
            context.features.device
        )
        sgd = torch.optim.SGD(head.parameters(), lr=0.0, momentum=config.momentum, weight_decay=config.weight_decay)
        curve: list[dict[str, Any]] = []
        best: tuple[float, int, nn.Conv2d] | None = None
        for epoch, pairs in enumerate(self.pairs_by_epoch(config, plan, data.train, context), start=1):
            rate = plan.learning_rate * config.drop_factor ** ((epoch - 1) // plan.drop_at)
            sgd.param_groups[0]["lr"] = rate
            mean_loss = train(config, plan, head, sgd, pairs, data.train.info, context)
            curve.append({"epoch": epoch, "learning_rate": rate, "loss": mean_loss, "miou": None})
            if epoch in plan.evaluated and epoch < plan.epochs:
                curve[-1]["miou"] = value = validation_miou(
                    config, head, data, context, f"validation after epoch {epoch}"
                )
                if best is None or value > best[0]:
                    best = value, epoch, copy.deepcopy(head)
        scores = evaluate(config, head, None if best is None else best[2], data, context)
        scored = list(scores.metrics(data.info, config.absent))
        last = next(one.metric.value for one in scored if one.metric.name == "miou")
        curve[-1]["miou"] = last
        with context.stage("figures"):
            mious = {c["epoch"]: c["miou"] for c in curve if c["miou"] is not None}
            panels = {
                "training loss (nat)": {"mean of the epoch": {c["epoch"]: c["loss"] for c in curve}},
                "mIoU of validation images (%)": {f"at {config.mask_size} x {config.mask_size} pixels": mious},
            }
            pictures = {"curve.png": figures.curves(panels, "epoch")}
            if scores.examples:
                info = data.info
                pictures["examples.png"] = figures.segmentations(scores.examples, info.classes, info.palette)
        return scoring.measurement(
            scored,
            facts={
                "curve": curve,
                "best_epoch": best[1] if best is not None and best[0] >= last else plan.epochs,
                "train_images": len(plan.images),
                "steps": plan.epochs * -(-len(plan.order(0)) // plan.batch),
            },
            notes=(
                "miou is the last epoch's; miou_best is chosen on the images it is measured on, hence optimistic",
                f"trained for {plan.epochs} epochs in batches of {plan.batch}; published: {EPOCHS} of {BATCH}",
            ),
            artifacts=pictures,
        )


class LinearSegmentation(LinearHeadProtocol[LinearSegmentationConfig]):
    """A linear head trained on random crops, whose features are not cached."""

    name = "linear_segmentation"
    uncached = frozenset({"train"})
    title = "Linear segmentation"
    version = 2
    config = LinearSegmentationConfig
    presets = LinearSegmentationConfig.presets
    shrink_hint = "Take a smaller linear_segmentation.input_size or a smaller --batch-size."

    def resolve(
        self, config: LinearSegmentationConfig, backbone: BackboneInfo, data: DatasetInfo
    ) -> LinearSegmentationConfig:
        """Fill in the input size and what depends on the dataset."""
        for field, (low, high) in (("scale", config.scale), ("ratio", config.ratio)):
            if low > high:
                raise UsageError(f"{self.name}.{field}={(low, high)}: expected a range from low to high.")
        return super().resolve(config, backbone, data)

    def pairs_by_epoch(
        self, config: LinearSegmentationConfig, plan: LinearPlan, data: DenseDataset, context: Context
    ) -> Iterator[Iterator[Pair]]:
        """Run the backbone on new crops in every epoch."""
        views = SegmentationViews(
            data=data,
            size=config.spec.size,
            scale=config.scale,
            ratio=config.ratio,
            flip=config.flip,
            seed=plan.seed,
        )
        source, size = context.features, context.features.batch_size
        keys = [[(epoch, i) for i in plan.order(epoch)] for epoch in range(plan.epochs)]
        batches = [epoch[i : i + size] for epoch in keys for i in range(0, len(epoch), size)]
        stream = context.timed(load_views(views, batches, source.workers), "load")

        def pairs(epoch: int) -> Iterator[Pair]:
            steps = -(-len(keys[epoch]) // size)
            title = f"training, epoch {epoch + 1}"
            for indices, images, masks in context.progress.track(islice(stream, steps), title, steps, unit="batches"):
                with context.stage("features"):
                    names = [data.ids[i] for i in indices]
                    (maps,) = source.dense(images, names, config.spec.keys).maps
                yield from zip(maps.float(), masks, strict=True)

        for epoch in range(plan.epochs):
            yield pairs(epoch)

    def passes(self, config: LinearSegmentationConfig, plan: LinearPlan) -> int:
        """Every epoch is a pass."""
        return plan.epochs * len(plan.order(0))


class LinearSegmentationCached(LinearHeadProtocol[LinearSegmentationCachedConfig]):
    """The same head trained on squashed images, whose features come from the cache: another protocol, in seconds."""

    name = "linear_segmentation_cached"
    title = "Linear segmentation, cached features"
    version = 2
    config = LinearSegmentationCachedConfig
    presets = LinearSegmentationCachedConfig.presets
    shrink_hint = "Take a smaller linear_segmentation_cached.input_size or train_share."

    def pairs_by_epoch(
        self, config: LinearSegmentationCachedConfig, plan: LinearPlan, data: DenseDataset, context: Context
    ) -> Iterator[Iterator[Pair]]:
        """Read the same features in every epoch, or those of the mirror images in every second one."""
        spec, source = config.spec, context.features
        masks: dict[int, Tensor] = {}
        for batch in context.timed(
            source.stream(data, None, plan.images, labels=labels_of(spec), title="masks"), "load"
        ):
            ways = [batch.labels, batch.labels.flip(-1)] if config.mirror else [batch.labels]
            small = torch.stack([resize_labels(labels, config.mask_size) for labels in ways], dim=1)
            masks.update(zip(batch.indices, small, strict=True))

        def pairs(epoch: int) -> Iterator[Pair]:
            mirrored = config.mirror and epoch % 2 == 1
            asked = replace(spec, augment=Mirror()) if mirrored else spec
            title = f"training, epoch {epoch + 1}"
            for batch in context.timed(source.stream(data, asked, plan.order(epoch), title=title), "features"):
                for index, features in zip(batch.indices, batch.maps, strict=True):
                    yield features, masks[index][int(mirrored)]

        for epoch in range(plan.epochs):
            yield pairs(epoch)

    def passes(self, config: LinearSegmentationCachedConfig, plan: LinearPlan) -> int:
        """One pass, or two with mirror images."""
        return len(plan.images) * (2 if config.mirror else 1)

    def mask_bytes(self, config: LinearSegmentationCachedConfig, plan: LinearPlan) -> int:
        """Return the size of all training masks."""
        return self.passes(config, plan) * config.mask_size**2
