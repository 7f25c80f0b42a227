"""In-context depth: depth by retrieving patches of known depth, without training anything.

The memory of `hummingbird` with other labels: a patch remembers the depth of each of its pixels, a validation patch
takes over the mean of its nearest patches, weighted by attention. Source: DIP 3.1 and Tab. 3 (NYU Depth v2); the
code is DIP `hummingbird/src/hbird_eval.py`, whose depth mode cannot be run as published (no NYU loader, no metric).

Left open there, with the defaults here: retrieved patches are put back in their places (the code upsamples their
pixels as if they were channels); depth is in metres, valid between 1e-3 and 10 m; errors are computed per image at the
input size and averaged over images; pixels of the memory without a measurement are left out of the mean; depth is
binned for sampling between the least and greatest of each image (DIP: of each batch, which would make the batch size
part of the score).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.figures import kit as figures
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import depth as ops
from densebench.ops import sampling
from densebench.protocols.common import memory, scoring
from densebench.protocols.common.depth_scores import MAIN, DepthScores, described
from densebench.protocols.common.examples import as_seen, spread
from densebench.protocols.common.memory import Content, Memory
from densebench.protocols.in_context_depth.config import InContextDepthConfig
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    Protocol,
    check_depths,
    input_size,
)

PREDICTORS = ("prediction", "constant", "image_mean")
"""Whose errors are computed: the memory's, its mean depth everywhere, and the true mean of each image."""
UNMEASURED = 0.0


class InContextDepth(Protocol[InContextDepthConfig]):
    """Monocular depth by dense nearest-neighbour retrieval."""

    name = "in_context_depth"
    title = "In-context depth"
    version = 2
    config = InContextDepthConfig
    presets = InContextDepthConfig.presets
    metrics = described(MAIN)
    needs = frozenset({"depth"})
    shrink_hint = "Take fewer rows with --set in_context_depth.memory_size=N, or a smaller in_context_depth.input_size."

    def resolve(self, config: InContextDepthConfig, backbone: BackboneInfo, data: DatasetInfo) -> InContextDepthConfig:
        """Fill in the input size."""
        config = replace(config, input_size=input_size(config.input_size, 504, backbone, data))
        memory.check(self.name, config)
        check_depths(self.name, config.min_depth, config.max_depth)
        return config

    def estimate(self, config: InContextDepthConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, the memory and the arithmetic of the search."""
        size = memory.size_of(config, backbone, len(data.train))
        return Estimate(
            features={
                "train": (memory.request(config, 0), len(data.train) * size.epochs),
                "val": (memory.request(config), len(data.val)),
            },
            bank_bytes=size.nbytes(config, backbone.width, backbone.patch**2),
            search_flops=2.0 * backbone.width * len(data.val) * size.patches * size.rows,
        )

    def run(self, config: InContextDepthConfig, data: Data, context: Context) -> Measurement:
        """Build the memory, predict all validation patches from it, average the errors over images."""
        train, patch = DepthLabels(data.train), context.backbone.info.patch
        with context.stage("memory"):
            every = list(range(len(train)))
            content = content_of(config, patch)
            bank = memory.fit(config, context.backbone.info, train, every, content, context, "memory of depth")
            constant = mean_depth(bank.labels, train)
        scores = _evaluate(config, bank, constant, patch, DepthLabels(data.val), context)
        with context.stage("figures"):
            shown = scores.examples
            pictures = {"depth.png": figures.depths(shown, ["image", "truth", "retrieved"])} if shown else {}
        return scoring.measurement(
            scores.metrics(MAIN, {"prediction": {}}, "memory"),
            facts={
                "bank": {**bank.facts, "recall": scores.recall},
                "max_depth": config.max_depth,
                **{predictor: scores.values(MAIN, predictor) for predictor in PREDICTORS[1:]},
                "constant_depth": constant,
                "images_without_valid_pixel": scores.n_invalid,
                "pixels_without_measured_neighbour": scores.n_unmeasured,
            },
            notes=(
                "errors are averaged over images, not pooled over pixels, at the input size",
                "`constant` predicts the mean depth of the memory, `image_mean` the true mean of each image",
            ),
            artifacts=pictures,
        )


class DepthLabels(DenseDataset):
    """Another dataset with its depth in the place of label maps: read, cut and resized (nearest) as they are."""

    info: ClassVar[DatasetInfo]

    def __init__(self, base: DenseDataset) -> None:
        self.info = base.info  # type: ignore[misc]  # as it shows another dataset
        super().__init__(base.root, base.split)
        self.base, self.ids = base, base.ids

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        return self.base.image(index)

    def image_size(self, index: int) -> tuple[int, int]:
        """Return width and height of one image in pixels."""
        return self.base.image_size(index)

    def mask(self, index: int) -> NDArray[Any]:
        """Decode one depth map, (H, W) float32 in metres, 0 = not measured."""
        return self.base.depth(index)

    def digest(self) -> str:
        """Return the digest of the dataset shown, whose cached features these are."""
        return self.base.digest()


def content_of(config: InContextDepthConfig, patch: int) -> Content:
    """Return what the memory knows of a patch: the depth of each pixel, row-major."""
    return Content(patch**2, partial(sampling.patchify_labels, patch=patch), partial(binned_scores, bins=config.bins))


def binned_scores(patches: Tensor, bins: int) -> Tensor:
    """Return how common the depths of each patch (B, h, w, pixels) are in its image, (B, h, w): bins are its classes.

    The range of the histogram is the image's own. A pixel without measurement is a depth of 0, as in DIP's code.
    """
    ids = torch.cat([ops.histogram_bins(image, bins) for image in patches.split(1)])
    return sampling.scores_of_ids(ids, bins + 1)


def mean_depth(labels: Tensor, train: DenseDataset) -> float:
    """Return the mean of all measured depths of a memory (N, L), in metres."""
    total, count = 0.0, 0
    for part in labels.split(65_536):
        total += float(part.double().sum())
        count += int((part != UNMEASURED).sum())
    if not count:
        raise DatasetError(
            f"no pixel of the training images has a depth ({train.info.name} {train.split}); a depth of 0 means "
            f"not measured. Run `densebench data check {train.cli_name}`."
        )
    return total / count


class _RetrievalScores(DepthScores):
    """What came out of the validation pass."""

    n_unmeasured = 0
    """Valid pixels that no neighbour has a measurement for; they get the constant."""
    recall = 1.0


def _evaluate(
    config: InContextDepthConfig, bank: Memory, constant: float, patch: int, val: DenseDataset, context: Context
) -> _RetrievalScores:
    """Predict the depth of every validation image and average its errors."""
    scores, shown = _RetrievalScores(*PREDICTORS), spread(context.pictures, len(val))
    for batch, grid, recall in memory.predict(bank, val, context, "queries of depth", missing=UNMEASURED):
        scores.recall = recall
        with context.stage("score"):
            for index, raw, truth in zip(batch.indices, ops.unpatchify(grid, patch).cpu(), batch.labels, strict=True):
                valid = ops.valid_depth(truth, config.min_depth, config.max_depth, config.eigen_crop)
                predicted = raw.nan_to_num(constant).clamp(config.min_depth, config.max_depth)
                scores.n_unmeasured += int((raw.isnan() & valid).sum())
                errors = torch.stack(list(_errors(predicted, constant, truth, valid)))
                scores.update(index, errors, int(valid.sum()))
                if index in shown:
                    maps = [truth.numpy().copy(), predicted.numpy()]  # a copy, or it would keep its whole batch
                    scores.examples.append((as_seen(val, index, config.spec), maps))
    scores.check("in_context_depth", val, config.min_depth, config.max_depth)
    return scores


def _errors(predicted: Tensor, constant: float, truth: Tensor, valid: Tensor) -> Iterator[Tensor]:
    """Yield the errors of PREDICTORS on one image."""
    mean = float(truth[valid].mean()) if valid.any() else constant
    for depth in (predicted, torch.full_like(truth, constant), torch.full_like(truth, mean)):
        yield ops.depth_errors(depth, truth, valid)
