"""DIP: patches of a query image should find, among patches of other images, those with their own pseudo-label.

"DIP: Unsupervised Dense In-Context Post-training of Visual Representations": a task is a query, a positive that shares
a pseudo-class with it, and distractors; a soft nearest-neighbour lookup in the labelled patches of these predicts the
query's labels. Settings are those of the published code and configs (ViT-S/14 and ViT-B/14 with registers, COCO).
Labels and pairs come from a folder that `densebench pseudolabel` makes, or from the published archives, which show the
centre crop (`cover=crop`). As published, an epoch goes through all pairs, and distractors are the positives of other
tasks in the same part of a batch, where a task can meet its own again.
"""

from __future__ import annotations

import shlex
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.core.errors import DatasetError, UsageError
from densebench.datasets import DATASETS
from densebench.datasets.dataset import DenseDataset
from densebench.methods.configs.dip import DipConfig
from densebench.methods.crops import CropConfig, Crops, CropViews
from densebench.methods.data import TrainingImages
from densebench.methods.label_folder import LabelFolder
from densebench.methods.method import Branch, Method, TrainConfig
from densebench.model_zoo.backbone import Backbone, BackboneInfo
from densebench.ops.dip import add_distractors, in_context_loss, patch_labels, predict_in_context
from densebench.ops.resize import resize_labels


class Tasks:
    """Pairs of a query and a positive with their label maps; each pair is a sample, in which nothing is random."""

    def __init__(
        self, images: TrainingImages, labels: LabelFolder, pairs: list[tuple[int, int]], config: DipConfig, classes: int
    ) -> None:
        self.images, self.labels, self.pairs, self.classes = images, labels, pairs, classes
        self.resize, self.cover = config.resize, config.cover

    @property
    def ids(self) -> list[str]:
        """The query of each pair."""
        return [self.images.ids[query] for query, _ in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def crops(self, index: int, config: CropConfig, rng: np.random.Generator) -> Crops:
        """Return the centres of both images as global crops, the query's first; raises DatasetError for a wrong map."""
        images = [self.images[i] for i in self.pairs[index]]
        centres = [centre(image, self.resize, config.global_size) for image in images]
        maps = [self._labels(i, image, config.global_size) for i, image in zip(self.pairs[index], images, strict=True)]
        return Crops(
            globals=torch.stack([pixels for pixels, _ in centres]),
            locals=torch.empty((0, 3, config.local_size, config.local_size), dtype=torch.uint8),
            boxes=torch.tensor([box for _, box in centres]),
            flips=torch.zeros(2, dtype=torch.bool),
            size=torch.tensor(images[0].shape[1:]),
            drawn=torch.tensor((2, 0)),
            labels=torch.stack(maps),
        )

    def _labels(self, index: int, image: Tensor, side: int) -> Tensor:
        """Return the labels (side, side) of an image's centre."""
        id_ = self.images.dataset.ids[index]
        labels = self.labels.read(id_, self.classes)
        size = (image.shape[1], image.shape[2])
        shown, wanted = (size, f"as {size[0]} x {size[1]}") if self.cover == "image" else ((side, side), "as a square")
        if not same_frame((labels.shape[0], labels.shape[1]), shown):
            raise DatasetError(
                f"the label map {self.labels.find(id_)} is {labels.shape[0]} x {labels.shape[1]}; expected the same "
                f"shape {wanted}, as cover={self.cover} says."
            )
        if self.cover == "crop":
            return resize_labels(labels, side)
        (height, width), (top, left) = centre_geometry(size, self.resize, side)
        return resize_labels(labels, (height, width))[top : top + side, left : left + side]


def same_frame(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Tell whether two (height, width) can be of one picture at two sizes, each side rounded to whole pixels."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def centre_geometry(size: tuple[int, int], short: int, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (height, width) of an image whose shorter side is brought to `short`, and (top, left) of its centre.

    Rounding as in torchvision's Resize and CenterCrop.
    """
    height, width = (short if n == min(size) else int(short * n / min(size)) for n in size)
    return (height, width), (round((height - side) / 2), round((width - side) / 2))


def centre(image: Tensor, short: int, side: int) -> tuple[Tensor, tuple[float, ...]]:
    """Return the centre (3, side, side) of an image (3, H, W) uint8 resized to `short`, and its box in the image.

    Bilinear with antialiasing; the box is x1, y1, x2, y2 in pixels.
    """
    size = (image.shape[1], image.shape[2])
    (height, width), (top, left) = centre_geometry(size, short, side)
    resized = F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]
    y, x = size[0] / height, size[1] / width
    box = (left * x, top * y, (left + side) * x, (top + side) * y)
    return resized[:, top : top + side, left : left + side], box


class Dip(Method):
    """In-context segmentation by pseudo-labels. There is no teacher: the student stands in its place, at no cost."""

    Config: ClassVar[type[TrainConfig]] = DipConfig
    citation = "DIP: Unsupervised Dense In-Context Post-training of Visual Representations"
    config: DipConfig

    def __init__(self, base: Backbone, config: DipConfig) -> None:
        super().__init__(base, config)
        self.classes = config.classes or 0  # known once the labels are, see `samples`
        width = base.info.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            head = nn.Sequential(
                nn.Linear(width, config.expansion * width),
                nn.GELU(),
                nn.Linear(config.expansion * width, config.out),
                nn.LayerNorm(config.out, eps=1e-6),
            )
        self.adopt(Branch(base, head))
        self.teacher = self.student
        net: Any = base.net
        if config.blocks > len(net.blocks):
            raise UsageError(f"blocks={config.blocks}: {base.info.name} has {len(net.blocks)}.")
        base.requires_grad_(False)
        self.trained: list[nn.Module] = [*net.blocks[len(net.blocks) - config.blocks :], net.norm]
        for part in self.trained:
            part.requires_grad_(True)
        self.training_mode()

    def training_mode(self) -> None:
        """Leave what is frozen in evaluation mode: its batch statistics too stay as they are."""
        super().training_mode()
        self.student.backbone.eval()
        for part in self.trained:
            part.train()

    @classmethod
    def inputs(cls, config: DipConfig, base: BackboneInfo, dataset: DenseDataset) -> dict[str, str]:
        """Return the digest of labels and pairs, and the command that made them.

        Raises UsageError where they are missing or of other images.
        """
        labels = _labels(config, base, dataset)
        labels.pairs(dataset.ids[: config.images], config.pairs)
        made = labels.about.get("data", {})
        same = [made.get(key) for key in ("name", "split", "of")] == [dataset.info.name, dataset.split, len(dataset)]
        if same and made["digest"] != dataset.digest():
            raise UsageError(
                f"the labels in {config.labels} are of other images: {made['name']}/{made['split']} has changed since "
                f"they were made. {labels.hint}"
            )
        how = {"labels_command": labels.about["command"]} if labels.about else {}
        return {"labels_digest": labels.digest(config.pairs), **how}

    def samples(self, images: TrainingImages) -> Tasks:
        """Return the pairs among these images."""
        labels = _labels(self.config, self.base_info, images.dataset)
        self.classes = self.config.classes or labels.classes
        pairs = labels.pairs(images.dataset.ids[: len(images)], self.config.pairs)
        return Tasks(images, labels, pairs, self.config, self.classes)

    def loss(self, views: CropViews) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict each query's labels from its positive and from those of other tasks, and compare.

        Logged are the share of patches whose most frequent label is predicted (`accuracy`), and of labels that the
        support holds at all (`in_support`).
        """
        config, n = self.config, len(views)
        maps = self.student.backbone.dense(views.clean_globals.flatten(0, 1)).maps[0]
        query, positive = self.student.head(maps.flatten(2).transpose(1, 2)).split(n)  # (B, N, out) each
        dtype = torch.promote_types(query.dtype, torch.float32)
        target, known = patch_labels(views.labels.flatten(0, 1), self.base_info.patch, self.classes, dtype).split(n)
        others = torch.stack([torch.randperm(n) for _ in range(config.distractors)] or [torch.empty(0, n)])
        known = add_distractors(known, others)
        prediction = predict_in_context(query, add_distractors(positive, others), known, config.temperature)
        loss = in_context_loss(prediction, target, config.form)
        right = prediction.argmax(-1) == target.argmax(-1)
        held = (target * (known.amax(1, keepdim=True) > 0)).sum(-1)
        return loss, {"accuracy": right.float().mean(), "in_support": held.mean()}


def _labels(config: DipConfig, base: BackboneInfo, dataset: DenseDataset) -> LabelFolder:
    """Open the folder of labels; every error about it says how to make one."""
    split = f":{dataset.split}" if dataset.info.name in DATASETS else ""
    words = ["densebench", "pseudolabel", "--model", base.name, "--data", dataset.cli_name + split]
    command = f"{shlex.join(words)} --out {shlex.quote(config.labels) if config.labels else 'FOLDER'}"
    if config.labels is None:
        raise UsageError(f"DIP needs pseudo-labels: `{command}` makes them, --set labels=FOLDER names them.")
    return LabelFolder(config.labels, f"`{command}` makes them.")
