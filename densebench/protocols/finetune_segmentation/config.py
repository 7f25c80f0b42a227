"""Settings of end-to-end fine-tuning: see `densebench.protocols.finetune_segmentation.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from densebench.core.bounds import AtLeastOne, Auto, BelowOne, Chance, Count, Natural, NonNegative, Positive, Share
from densebench.core.config import Preset, no_score
from densebench.ops.choices import AbsentRule

SEGMENTER: dict[str, Any] = {
    "head": "segmenter",
    "pipeline": "slide",
    "optimiser": "adam",
    "weight_decay": 0.0,
    "head_factor": 1.0,
    "drop_path": 0.1,
    "schedule": "poly",
    "loss_over": "all",
    "absent": "skip",
    "epochs": None,
    "steps": "published",
    "batch": 8,
    "learning_rates": (8e-5, 3e-5, 1e-5, 8e-6),
    "evaluations": 10,
}
"""Batch and evaluations as MMSEG and CrIBo (8 GPUs with one image each; val_interval), learning rates as NeCo A.2."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSegmentationConfig:
    """Settings of end-to-end fine-tuning; MMSEG and CrIBo are the codes that the protocol names."""

    presets = {
        "paper": Preset(source="PaKA A.2, B.2, Tab. 8 and 10: linear head, backbone 1e-4, head 1e-2, 20 epochs"),
        "embedded": Preset(
            source="preset paper with one epoch at a larger rate: each step runs the backbone forth and back",
            settings={"epochs": 1, "batch": 4, "learning_rates": (1e-3,), "evaluations": 2},
        ),
        "segmenter": Preset(
            source="NeCo A.2, Tab. 4, with mmsegmentation 1.x configs/segmenter and CrIBo segmentation/configs",
            settings=SEGMENTER,
        ),
        "embedded-segmenter": Preset(
            source="preset segmenter with one epoch at one rate",
            settings={
                **SEGMENTER,
                "epochs": 1,
                "steps": None,
                "batch": 4,
                "learning_rates": (1e-4,),
                "evaluations": 2,
            },
        ),
    }
    head: Literal["linear", "segmenter"] = "linear"
    """"linear": one 1x1 convolution. "segmenter": transformer over patches and class tokens."""
    pipeline: Literal["squash", "slide"] = "squash"
    """"squash": random resized crops and mirror images as in linear segmentation, validation images squashed to their
    size. "slide": MMSEG's crops, validation images in sliding windows, compared at their own size."""
    input_size: Count | Auto = "auto"
    """Side of training views in pixels; "auto": the dataset's own where it has one size, else 448 rounded down to a
    multiple of the patch for "squash", 512 for "slide" (NeCo A.2), where images are padded with zeros all around up to
    the next multiple (518 for patches of 14)."""
    stride: Count = 480
    """Of sliding windows (MMSEG, CrIBo)."""
    mask_size: Count | None = 100
    """Side at which "squash" compares, in training and in validation (NeCo's linear code); none: validation masks at
    their own size, training masks at the input's. "slide" does not read it."""
    train_share: Share | Auto = "auto"
    """Share of the training images, drawn at random as in linear segmentation; "auto": 0.1 of COCO for "squash" (NeCo
    4.1, NeCo code; PaKA is silent), else all."""
    epochs: Count | None = 20
    """Passes over the training images (PaKA A.2); none: as many as `steps` makes. One of the two is set: asking for
    steps or epochs sets the other to none."""
    steps: Count | Literal["published"] | None = None
    """Optimiser steps instead of epochs. "published": 80,000 on VOC and Pascal Context, else 160,000 (NeCo A.2)."""
    batch: Count = 128
    """Images per step (NeCo's linear code)."""
    sub_batch: Count = 8
    """Images that go through the network at once; gradients of a batch are summed over them. In the score hash since
    sums in another order are rounded otherwise."""
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimiser; PaKA A.2 does not say which."""
    momentum: BelowOne = 0.9
    """Of SGD (PaKA A.2)."""
    weight_decay: NonNegative = 1e-4
    """On all parameters (PaKA A.2)."""
    learning_rates: Annotated[tuple[Positive, ...], AtLeastOne] = (1e-4,)
    """Of the backbone (PaKA A.2). Of several, each is trained, and the one with the best mIoU on the validation images
    is reported, as NeCo does: that choice looks at the images it is measured on."""
    head_factor: Positive = 100.0
    """Learning rate of the head over that of the backbone (PaKA A.2: 1e-2 over 1e-4; MMSEG: 1)."""
    layer_decay: Share = 1.0
    """Factor on the learning rate from each block to the one before it; 1: none (both papers)."""
    freeze: Natural = 0
    """Blocks that are not trained, from the first on, and the embedding before them."""
    drop_path: BelowOne = 0.0
    """Of the last block, rising linearly from 0 at the first, in backbones whose blocks have a place for it."""
    clip: Positive | None = None
    """Largest norm of the gradient; none: any (MMSEG, CrIBo: clip_grad=None)."""
    schedule: Literal["step", "poly"] = "step"
    """"step": times `final_rate` after every `drop_at` epochs. "poly": polynomial down to `final_rate` of the start."""
    drop_at: Count = 20
    """Epochs; 20 of 20 means never (NeCo's linear code)."""
    final_rate: Chance = 0.1
    """Share of the learning rate (NeCo code: gamma; NeCo A.2: eta_min)."""
    power: NonNegative = 0.9
    """Of "poly" (MMSEG, CrIBo)."""
    loss_over: Literal["valid", "all"] = "valid"
    """Cross-entropy is the mean over pixels with a class, or over all of them, those without counting 0 (MMSEG)."""
    decoder_layers: Count = 2
    """Of Segmenter (MMSEG, CrIBo, Strudel et al.)."""
    decoder_heads: Count | Auto = "auto"
    """"auto": one per 64 channels, as in MMSEG's configs for ViT-Ti, S, B and L."""
    decoder_drop_path: BelowOne = 0.1
    """MMSEG's default."""
    evaluations: Count = 20
    """Times that the validation images are scored in a training, evenly spaced, the last at the end."""
    absent: AbsentRule = "zero"
    """IoU of a class that is neither in the ground truth nor predicted: 0, or left out of the mean (MMSEG: "skip")."""
    checkpoint_seconds: NonNegative = no_score(300.0)
    """Seconds between checkpoints that a killed run goes on from; one is written after each evaluation, too."""
