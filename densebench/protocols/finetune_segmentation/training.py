"""Training for end-to-end fine-tuning: steps, scores of the validation images on the way, and the way on after a kill.

`finetune_segmentation.py` has the settings and their sources. Nothing here draws from a running random state: views
come from (seed, epoch, image), drop path from (seed, step). A run that was killed therefore ends in the numbers of an
unbroken one (on a CPU with the same number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from densebench.core.config import known
from densebench.core.errors import DatasetError, DensebenchError
from densebench.datasets.dataset import DenseDataset
from densebench.model_zoo.backbone import Backbone
from densebench.ops.confusion import AbsentRule, Counts, confusion, counts, mean_iou
from densebench.ops.heads import pixel_targets
from densebench.ops.jackknife import GroupSums
from densebench.ops.resize import resize_labels
from densebench.ops.retrieval import upsample_argmax
from densebench.ops.segmenter import slide
from densebench.protocols.common.checkpoint import Checkpoint
from densebench.protocols.common.examples import spread
from densebench.protocols.common.image_tables import ImageTables
from densebench.protocols.finetune_segmentation.network import (
    SegmentationNetwork,
    SegmentationTrainer,
    build,
    rate_share,
)
from densebench.protocols.protocol import Context, Data
from densebench.views.mmseg import MmsegViews
from densebench.views.order import Views, batches, draw_share, evenly, load_views
from densebench.views.segmentation import SegmentationViews, read_pair, resized

if TYPE_CHECKING:
    from densebench.protocols.finetune_segmentation.config import FinetuneSegmentationConfig


@dataclass(frozen=True)
class FinetunePlan:
    """What is trained for how long."""

    images: tuple[int, ...]
    size: int
    batch: int
    steps: int
    evaluated: tuple[int, ...]
    """Steps after which the validation images are scored; the last is the last."""
    rates: tuple[float, ...]
    seed: int

    @classmethod
    def of(cls, config: FinetuneSegmentationConfig, n_train: int, seed: int = 0) -> FinetunePlan:
        """Draw the share of the images that a resolved config asks for, and turn epochs into steps."""
        share, size = known(config.train_share, "train_share"), known(config.input_size, "input_size")
        images = draw_share(n_train, share, seed)  # those that linear segmentation trains on
        if config.epochs is not None:
            steps = math.ceil(config.epochs * len(images) / config.batch)
        else:
            steps = known(None if config.steps == "published" else config.steps, "steps")
        evaluated = tuple(evenly(steps, config.evaluations))
        return cls(images, size, config.batch, steps, evaluated, config.learning_rates, seed)


@dataclass
class FinetuneScores:
    """What the validation images gave: counts (3, C), those without each group of images (G, 3, C), pictures."""

    rate: float
    counts: Tensor
    left_out: Tensor
    examples: list[list[Tensor]]
    """Image (H, W, 3), truth and prediction (H, W), all uint8."""
    images: dict[str, Tensor] | None = None
    """The counts of each image, see `common/image_tables.py`; None where nothing is kept."""

    def miou(self, absent: AbsentRule) -> float:
        """Return the mean over classes in percent."""
        return 100 * float(mean_iou(*Counts(*self.counts), absent=absent))


@dataclass
class State:
    """How far the training of a cell has come."""

    place: int = 0
    """Which learning rate is at work."""
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    losses: tuple[float, int] = (0.0, 0)
    """Sum and number since the last evaluation."""
    best: FinetuneScores | None = None
    """Of the best learning rate that is done."""
    resumed: int | None = None
    """Step that this process began at, None from the start."""
    trained_parameters: int = 0
    has_drop_path: bool = False

    @property
    def chosen(self) -> FinetuneScores:
        """The scores of the best learning rate; raises ValueError before one is trained to its end."""
        if self.best is None:
            raise ValueError("no learning rate was trained to its end")
        return self.best

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be kept."""
        best = vars(self.best) if self.best is not None else None
        return {"place": self.place, "step": self.step, "curve": self.curve, "losses": self.losses, "kept": best}

    def add(self, scores: FinetuneScores, absent: AbsentRule, is_last: bool) -> None:
        """Add the scores of the validation images; after the last one, go on to the next learning rate."""
        miou, (total, count) = scores.miou(absent), self.losses
        self.curve.append({"rate": scores.rate, "step": self.step, "loss": total / count, "miou": miou})
        self.losses = 0.0, 0
        if is_last:
            if self.best is None or miou > self.best.miou(absent):
                self.best = scores
            self.place, self.step = self.place + 1, 0

    @classmethod
    def of(cls, found: dict[str, Any] | None) -> State:
        """Return the state of a checkpoint, or of the beginning."""
        if found is None:
            return cls()
        best = FinetuneScores(**found["kept"]) if found["kept"] is not None else None
        return cls(found["place"], found["step"], found["curve"], tuple(found["losses"]), best, resumed=found["step"])


def train(
    config: FinetuneSegmentationConfig, plan: FinetunePlan, backbone: Backbone, data: Data, context: Context
) -> State:
    """Train one learning rate after the other, from wherever the last run of this cell was stopped."""
    drawn, info, device = data.train.select(plan.images), data.train.info, context.features.device
    checkpoint = Checkpoint.of(context, config, (data.train, data.val), config.checkpoint_seconds)
    found = checkpoint.load()
    state = State.of(found)
    if found is not None:
        context.progress.say(f"going on from step {state.step} of {plan.steps} at {plan.rates[state.place]:g}")
    views = _training_views(config, plan, drawn)
    side = (config.mask_size if config.pipeline == "squash" else None) or plan.size
    for place, rate in enumerate(plan.rates):
        if place < state.place:
            continue
        network = build(config, backbone, data.info.n_classes, context.seed, context.features.precision)
        trainer = SegmentationTrainer(config, network, rate, context.seed, device)
        state.trained_parameters = sum(p.numel() for p in trainer.trained)
        state.has_drop_path = network.has_drop_path
        if found is not None and state.step:
            trainer.load_state_dict(found["trainer"])
        found = None
        while state.place == place:
            stop = next(step for step in plan.evaluated if step > state.step)
            keys = batches(len(drawn), plan.batch, context.seed, range(state.step, stop))
            stream = context.timed(load_views(views, keys, context.features.workers), "load")
            title = f"training at {rate:g} up to step {stop} of {plan.steps}"
            for indices, images, masks in context.progress.track(stream, title, stop - state.step, unit="steps"):
                share = rate_share(config, state.step, plan.steps, state.step * plan.batch // len(drawn))
                with context.stage("training"):
                    target = pixel_targets(masks, side, info.n_classes, info.ignored)
                    loss = trainer.step(state.step, share, images, target, [drawn.ids[i] for i in indices])
                state.step += 1
                state.losses = state.losses[0] + loss, state.losses[1] + 1
                if checkpoint.due and state.step < stop:
                    with context.stage("checkpoint"):
                        checkpoint.save({**state.state_dict(), "trainer": trainer.state_dict()})
            scores = _evaluate(config, plan, network, rate, data.val, context)
            state.add(scores, config.absent, is_last=state.step == plan.steps)
            if state.place < len(plan.rates):  # after the last there is only the record to write
                with context.stage("checkpoint"):
                    checkpoint.save({**state.state_dict(), "trainer": trainer.state_dict() if state.step else None})
        del network, trainer  # before the next ones are built
    return state


def _training_views(config: FinetuneSegmentationConfig, plan: FinetunePlan, train: DenseDataset) -> Views:
    if config.pipeline == "slide":
        return MmsegViews(data=train, crop=plan.size, seed=plan.seed)
    return SegmentationViews(data=train, size=(plan.size, plan.size), seed=plan.seed)


@dataclass(frozen=True)
class SquashedPairs(Dataset[Any]):
    """Whole images at one size with their masks: (index, image (3, H, W) uint8, mask), or the error met on the way."""

    data: DenseDataset
    size: int
    mask_size: int | None
    """Side of the masks, brought to the image's size first as NeCo code does; None keeps their own."""

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        try:
            image, labels = read_pair(self.data, index)
        except DensebenchError as error:
            return error
        pixels, mask = resized(image, labels, (0, 0, *labels.shape), (self.size, self.size), mirrored=False)
        if self.mask_size is None:
            return index, pixels, torch.from_numpy(np.array(labels))
        return index, pixels, resize_labels(mask, self.mask_size)


def _predict(
    config: FinetuneSegmentationConfig,
    plan: FinetunePlan,
    network: SegmentationNetwork,
    val: DenseDataset,
    context: Context,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield (index, image (3, H, W) uint8, mask (H, W) uint8, prediction (H, W) int64), all on the CPU."""
    slides = config.pipeline == "slide"
    views: Views = MmsegViews(data=val, crop=plan.size)
    if not slides:
        views = SquashedPairs(val, plan.size, config.mask_size)
    at_once = 1 if slides or config.mask_size is None else config.sub_batch  # masks of their own sizes do not stack
    chunks = [list(range(i, min(i + at_once, len(val)))) for i in range(0, len(val), at_once)]
    stream = context.timed(load_views(views, chunks, context.features.workers), "load")
    for indices, images, masks in context.progress.track(stream, "scoring validation images", len(chunks), "batches"):
        names = [val.ids[i] for i in indices]
        with context.stage("validation"), torch.no_grad():
            pixels = images.to(context.features.device).float().div_(255)
            size = (masks.shape[1], masks.shape[2])
            if slides:

                def logits_of(crops: Tensor, name: str = names[0]) -> Iterator[Tensor]:
                    side = (crops.shape[2], crops.shape[3])
                    rows, columns = network.upsampling(side, side, crops.device)
                    yield from (rows @ maps @ columns.T for maps in network(crops, [name] * len(crops)))

                logits = slide(pixels[0], logits_of, plan.size, config.stride, config.sub_batch)[None]
            else:
                logits = network(pixels, names)
            predictions = upsample_argmax(logits, size).cpu()
        yield from zip(indices, images, masks, predictions, strict=True)


def _evaluate(
    config: FinetuneSegmentationConfig,
    plan: FinetunePlan,
    network: SegmentationNetwork,
    rate: float,
    val: DenseDataset,
    context: Context,
) -> FinetuneScores:
    """Score every validation image."""
    network.eval()
    info = val.info
    groups, images = GroupSums((3, info.n_classes)), ImageTables()
    shown, examples = spread(context.pictures, len(val)), []
    for index, image, mask, prediction in _predict(config, plan, network, val, context):
        with context.stage("score"):
            table = confusion(prediction, mask, info.n_classes, info.n_classes, info.ignored)
            groups.update(index, torch.stack(counts(table)))
            images.update(index, table)
        if index in shown:
            examples.append([image.permute(1, 2, 0).contiguous(), mask, prediction.to(torch.uint8)])
    total = groups.total()
    if not total.any():
        raise DatasetError(
            f"{info.name} {val.split}: no pixel of any mask has a class to be evaluated: nothing to score. "
            "Run `densebench data check` on it."
        )
    arrays = images.arrays()
    kept = None if arrays is None else {name: torch.from_numpy(array) for name, array in arrays.items()}
    return FinetuneScores(rate, total, groups.left_out(), examples, kept)
