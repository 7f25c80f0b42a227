"""End-to-end fine-tuning: backbone and segmentation head are trained together; what counts is where that ends.

Two published ways. `paper` is PaKA A.2, B.2 (Tab. 8, 10): a linear head, everything else as in linear segmentation.
`segmenter` is NeCo A.2 (Tab. 4), which runs Segmenter's decoder in mmsegmentation "following" CrIBo; MMSEG is
mmsegmentation 1.x `configs/segmenter` and its bases, CrIBo the `segmentation` folder of tileb1/CrIBo. The backbone is
trained as a copy: the one that other protocols measure stays as it is.

Left open by PaKA, with the defaults here: optimiser and schedule (those of linear segmentation, on which it
"builds"), batch size and mask size (NeCo's linear code: 128, 100 x 100), drop path (none). A learning rate of 1e-4
means something else in AdamW than in SGD; the optimiser is an option, and every record states it. Left open by NeCo:
batch size, weight decay and drop path (as CrIBo's configs), and which step is reported (here the last).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo
from densebench.features.spec import FeatureSpec
from densebench.figures import kit as figures
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops.confusion import AbsentRule, Counts
from densebench.protocols.common import scoring
from densebench.protocols.finetune_segmentation.config import FinetuneSegmentationConfig
from densebench.protocols.finetune_segmentation.training import FinetunePlan, FinetuneScores, train
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Protocol,
    input_size,
)
from densebench.results.schema import Metric
from densebench.views.mmseg import LONG

SHORT = ("voc", "pascal_context")
"""How the names of datasets begin that NeCo trains on for 80k iterations; the others have 160k."""


class FinetuneSegmentation(Protocol[FinetuneSegmentationConfig]):
    """Segmentation with everything trained: a backbone as the start of a search, not as a measure of its features."""

    name = "finetune_segmentation"
    title = "End-to-end fine-tuning"
    version = 2
    config = FinetuneSegmentationConfig
    presets = FinetuneSegmentationConfig.presets
    metrics = (
        MetricInfo("miou", "%", True, "mIoU at the end of training"),
        MetricInfo("miou_best", "%", True, "the best mIoU during training: chosen on the validation images"),
        MetricInfo("miou_present", "%", True, "mean over the classes that occur in the validation masks, at the end"),
    )
    shrink_hint = "Take fewer images at once with --set finetune_segmentation.sub_batch=N, or a smaller input_size."

    def configure(
        self, preset: str = "paper", overrides: Mapping[str, Any] | None = None
    ) -> FinetuneSegmentationConfig:
        """Return the config of a preset with overrides applied; steps that are asked for replace its epochs, and epochs
        its steps."""
        given = dict(overrides or {})
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if given.get(one) not in (None, "none"):
                given.setdefault(other, None)
        return super().configure(preset, given)

    def resolve(
        self, config: FinetuneSegmentationConfig, backbone: BackboneInfo, data: DatasetInfo
    ) -> FinetuneSegmentationConfig:
        """Fill in what depends on backbone and dataset."""
        _check(config, backbone)
        slides, asked = config.pipeline == "slide", config.input_size
        if slides:  # windows are padded
            size = (data.input_size or 512) if asked == "auto" else asked
        else:
            size = input_size(asked, 448, backbone, data)
        share = 0.1 if data.family == "coco" and not slides else 1.0
        heads = next(n for n in range(max(1, backbone.width // 64), 0, -1) if backbone.width % n == 0)
        steps = 80_000 if data.family in SHORT else 160_000
        return replace(
            config,
            input_size=size,
            train_share=share if config.train_share == "auto" else config.train_share,
            steps=steps if config.steps == "published" else config.steps,
            decoder_heads=heads if config.decoder_heads == "auto" else config.decoder_heads,
        )

    def estimate(self, config: FinetuneSegmentationConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, what a step holds beside the model, and the arithmetic of the way back."""
        plan = FinetunePlan.of(config, len(data.train))
        side = -(-plan.size // backbone.patch) * backbone.patch
        spec = FeatureSpec(size=(side, side))
        tokens = (side // backbone.patch) ** 2
        scored = len(plan.evaluated) * len(plan.rates) * len(data.val)
        train = plan.steps * plan.batch * len(plan.rates)
        forth = backbone.token_flops(tokens)
        back = 2.0 * train * forth * (1 - config.freeze / backbone.depth)
        second_windows = scored * forth if config.pipeline == "slide" else 0.0  # aspect 4:3
        return Estimate(
            features={"train": (spec, train), "val": (spec, scored)},
            uncached=frozenset({"train", "val"}),
            bank_bytes=_bytes_held(config, plan.size, backbone, data.info.n_classes),
            search_flops=back + second_windows,
        )

    def run(self, config: FinetuneSegmentationConfig, data: Data, context: Context) -> Measurement:
        """Train with every learning rate, scoring validation images on the way; report the best rate's last step."""
        plan = FinetunePlan.of(config, len(data.train), context.seed)
        state = train(config, plan, context.backbone, data, context)
        chosen = state.chosen
        best = max(state.curve, key=lambda point: point["miou"])
        with context.stage("figures"):
            pictures = {"curve.png": _curve(state.curve)}
            if chosen.examples:
                shown = [(image.numpy(), truth.numpy(), found.numpy()) for image, truth, found in chosen.examples]
                pictures["examples.png"] = figures.segmentations(shown, data.info.classes, data.info.palette)
        notes = [
            f"trained for {plan.steps} steps of {plan.batch} images with {config.optimiser}, all parameters of a copy",
            "`miou_best` is chosen on the validation images that it is measured on",
        ]
        if len(plan.rates) > 1:
            notes.append(f"the best of {len(plan.rates)} learning rates is reported, chosen on the validation images")
        if config.drop_path and not state.has_drop_path:
            notes.append("drop path is not applied: the backbone's blocks have no place for it")
        return scoring.measurement(
            _metrics(chosen, best["miou"], data.info, config.absent),
            facts={
                "learning_rate": chosen.rate,
                "steps": plan.steps,
                "epochs": round(plan.steps * plan.batch / len(plan.images), 3),
                "train_images": len(plan.images),
                "curve": state.curve,
                "best": {"learning_rate": best["rate"], "step": best["step"]},
                "trained_parameters": state.trained_parameters,
                "drop_path": config.drop_path if state.has_drop_path else 0.0,
                "resumed_at_step": state.resumed,
            },
            notes=notes,
            artifacts=pictures,
        )


def _check(config: FinetuneSegmentationConfig, backbone: BackboneInfo) -> None:
    """Raise UsageError for numbers that the backbone has no place for, and for both or none of steps and epochs."""
    width, heads, name = backbone.width, config.decoder_heads, "finetune_segmentation"
    if config.freeze >= backbone.depth:
        raise UsageError(f"{name}.freeze={config.freeze}: expected fewer than the {backbone.depth} blocks there are.")
    if heads != "auto" and width % heads:
        raise UsageError(f"{name}.decoder_heads={heads}: expected a number that divides the width, {width}.")
    if config.steps is None and config.epochs is None:
        raise UsageError(f"{name}.steps and {name}.epochs are none: set one of them.")
    if config.steps is not None and config.epochs is not None:
        raise UsageError(f"{name}.steps={config.steps} and epochs={config.epochs}: set one of them, not both.")


def _metrics(chosen: FinetuneScores, best: float, info: DatasetInfo, absent: AbsentRule) -> Iterator[scoring.Scored]:
    images = None if chosen.images is None else {name: array.numpy() for name, array in chosen.images.items()}
    found, rest = Counts(*chosen.counts), Counts(*chosen.left_out.unbind(1))
    plain, present = (scoring.miou(found, rest, absent, present=only, images=images) for only in (False, True))
    yield scoring.metric("miou", {"": plain}, "weights", main=True, info=info)
    yield scoring.metric("miou_present", {"": present}, "weights")
    yield scoring.Scored(Metric(name="miou_best", value=best))


def _bytes_held(config: FinetuneSegmentationConfig, size: int, backbone: BackboneInfo, n_classes: int) -> int:
    """Return what the training holds beside the model: the copy and its state, activations, logits.

    A block of a ViT keeps about 18 D numbers per token for the way back (two norms in and out, queries, keys and
    values, the attention's output, 4 D before and after the activation) where attention is not written out, and
    float32 is assumed; the weights are those of blocks with an MLP of 4 D.
    """
    width, pixels, is_segmenter = backbone.width, size**2, config.head == "segmenter"
    tokens = (-(-size // backbone.patch)) ** 2
    layers = backbone.depth + config.decoder_layers * is_segmenter
    weights = 4 * (12 * width**2 * layers + 3 * backbone.patch**2 * width)
    copies = 2 + (1 if config.optimiser == "sgd" else 2)  # the copy, its gradients, moments
    checkpoint = copies - 1
    token = 4 * 18 * width * (layers - config.freeze + 1)  # one more on the way back
    activations = token * (tokens + backbone.prefix + n_classes * is_segmenter)
    logits = 16 * n_classes * (min(config.mask_size**2, pixels) if config.mask_size else pixels)
    if config.pipeline == "slide":
        logits = n_classes * pixels * max(16, 8 * LONG)  # a training view's; the sum over windows, and its mean
    return weights * (copies + checkpoint) + config.sub_batch * activations + logits


def _curve(curve: list[dict[str, float]]) -> bytes:
    """Return mIoU and loss by step, a line per learning rate, as PNG."""
    rates = dict.fromkeys(point["rate"] for point in curve)
    panels = {
        title: {f"rate {rate:g}": {int(p["step"]): p[name] for p in curve if p["rate"] == rate} for rate in rates}
        for title, name in (("mIoU of validation images (%)", "miou"), ("training loss (nat)", "loss"))
    }
    return figures.curves(panels, "step")
