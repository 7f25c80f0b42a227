"""How far wrong turns move a score: the right and the wrong way on the same images, with an interval of the difference.

Run by hand: `python benchmarks/traps.py --share 4`, or with `--model NAME=SPEC@FILE --dataset voc --data-root DIR
--size 224`. Wrong models and datasets are made here, around the right ones, by the contracts that anybody's are made
by. A line is a wrong turn: the metric, its value the right and the wrong way, and the difference with its 95 % interval
over images (`densebench/results/compare.py`). docs/traps.md holds what this printed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import densebench
from densebench import Backbone, load_model, register_dataset, register_model
from densebench.core.progress import Progress
from densebench.datasets import DATASETS
from densebench.ops.confusion import ConfusionMatrix, mean_iou
from densebench.results import counts
from densebench.results.compare import Paired, paired
from densebench.results.kept import side_of
from densebench.results.schema import Record
from densebench.results.store import ResultStore
from densebench.views.squash import Labels, resize_mask

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RETRIEVAL = {"subset_seeds": [42], "augmentation_epochs": 0, "memory_size": 12_800}
LINEAR = {"epochs": 10, "batch": 20, "learning_rate": 0.1}


@dataclass(frozen=True)
class Line:
    """A wrong turn and what it moved."""

    trap: str
    metric: str
    right: float
    wrong: float
    low: float | None = None
    high: float | None = None
    remark: str = ""

    @classmethod
    def of(cls, trap: str, metric: str, found: Paired) -> Line:
        spread = "" if found.seed_sd is None else f"sd over {found.seeds[0]} seeds {found.seed_sd:.2f}"
        return cls(trap, metric, found.a, found.b, found.low, found.high, spread)

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{self.low:+.2f}, {self.high:+.2f}]"
        values = f"{self.right:.2f} | {self.wrong:.2f} | {self.wrong - self.right:+.2f}{ends}"
        return f"| {self.trap} | {self.metric} | {values} | {self.remark} |"


class Wrapped(Backbone):
    """Another backbone, with another declaration and other tokens."""

    def __init__(self, base: Backbone, place: int, edit: Callable[..., Any] | None = None, **declared: Any) -> None:
        super().__init__()
        self.base, self.edit = base, edit
        self.info = replace(base.info, attention=False, **declared)
        self.register_buffer("trap", torch.tensor(float(place)))  # a digest of its own

    def tokens(self, pixels: torch.Tensor, keys: Any) -> Any:
        found = self.base.tokens(pixels, keys)
        return [self.edit(tokens, self.info.prefix) for tokens in found] if self.edit else found


def prefix_kept(extra: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Return tokens as of a code that takes `extra` prefix tokens for patches and cuts as many off the end."""

    def edit(tokens: torch.Tensor, prefix: int) -> torch.Tensor:
        first = tokens[:, :1].expand(-1, extra, -1)
        return torch.cat([tokens[:, :prefix], first, tokens[:, prefix : tokens.shape[1] - extra]], 1)

    return edit


class Cells:
    """Records of one model and dataset, and of wrong ones made of them."""

    def __init__(self, args: argparse.Namespace, out: Path) -> None:
        self.args, self.out, self.dataset = args, out, args.dataset
        self.base, self.made = load_model(args.model), 0
        self.size = {} if args.size is None else {"input_size": args.size}

    def measure(self, protocol: str, model: str = "", dataset: str = "", train: str = "", **asked: Any) -> Record:
        """Return the record of one cell; fields of the protocol are in `settings`."""
        settings = {**self.size, **asked.pop("settings", {})}
        outcome = densebench.run(
            model=model or self.args.model,
            protocol=protocol,
            dataset=dataset or self.dataset,
            train_dataset=train,
            settings={protocol: settings},
            data_root=self.args.data_root,
            out=self.out,
            workers=0,
            pictures=0,
            progress=Progress(quiet=True),
            **asked,
        )
        if outcome.failed:
            raise outcome.failed[0][1]
        return outcome.records[0]

    def wrong_model(self, **how: Any) -> str:
        """Register a backbone that differs from the right one, and return its name."""
        self.made += 1
        place, name = self.made, f"wrong{self.made}"
        register_model(name, lambda: Wrapped(load_model(self.args.model), place, **how))
        return name

    def wrong_dataset(self, name: str, **methods: Any) -> str:
        """Register a dataset that differs from the right one, and return its name."""
        base = DATASETS[self.dataset]
        register_dataset(name, type(name, (base,), {"info": replace(base.info, name=name), **methods}))
        return name

    def compared(self, right: Record, wrong: Record, metric: str, other: str = "") -> Paired:
        """Return the difference in one metric, or of another metric from it."""
        sides = []
        for record, name in ((right, metric), (wrong, other or metric)):
            key = next(each.key for each in record.metrics if each.label == name)
            sides.append(side_of([(ResultStore(self.out).place(record), record)], key))
        return paired(sides[0], sides[1])


def retrieval(cells: Cells) -> Iterator[Line]:
    """Yield what moves retrieval: preprocessing, tokens, masks, rules of the metric."""

    share = cells.args.share
    at = "1" if share == 1 else f"1/{share}"
    metric = f"miou@{at}"

    def cell(**asked: Any) -> Record:
        settings = {**RETRIEVAL, "fractions": [share], **asked.pop("settings", {})}
        return cells.measure("hummingbird", settings=settings, **asked)

    def line(trap: str, wrong: Record, other: str = "") -> Line:
        return Line.of(trap, metric, cells.compared(right, wrong, metric, other))

    right = cell()
    yield line("predictions matched to classes again (Hungarian)", right, f"miou_hungarian@{at}")
    yield line("mean over the classes in the validation masks alone", right, f"miou_present@{at}")
    yield line("absent classes left out instead of counted as 0", cell(settings={"absent": "skip"}))
    plain = cells.wrong_model(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    yield line("images not normalised", cell(model=plain))
    yield line("normalised as ImageNet's models are", cell(model=cells.wrong_model(**IMAGENET)))
    if cells.base.info.std == IMAGENET["std"]:
        yield line("deviation of blue 0.255 instead of 0.225", cell(settings={"std": [0.229, 0.224, 0.255]}))
    for extra in (1, 4):
        yield line(f"{extra} prefix tokens taken for patches", cell(model=cells.wrong_model(edit=prefix_kept(extra))))
    yield line("features in float32 instead of float16", cell(feature_dtype="float32"))
    yield Line("mIoU of each image, averaged", metric, *mean_of_images(cells, right, at))
    yield line("void is class 0", cell(dataset=cells.wrong_dataset("void_is_zero", mask=void_is_zero)))
    if cells.args.size is not None:
        smooth, rough = (cells.wrong_dataset(**resized(cells.args.size, antialias)) for antialias in (True, False))
        yield line("resized by torch on tensors instead of Pillow", cell(dataset=smooth))
        right = cell(dataset=smooth)
        yield line("resized without antialias, all images", cell(dataset=rough))
        yield line("resized without antialias, queries only", cell(dataset=rough, train=smooth))
    drawn = cell(settings={"fractions": [8], "subset_seeds": [42, 400, 783, 1293, 4019]})
    values = sorted(next(each for each in drawn.metrics if each.label == "miou@1/8").seeds.values())
    remark = f"sd over the five {np.std(values, ddof=1):.2f}"
    yield Line(
        "a part of an unsorted listing: best and worst of five parts", "miou@1/8", values[-1], values[0], remark=remark
    )


def void_is_zero(self: Any, index: int) -> Any:
    """Return a mask whose void pixels are class 0."""
    mask = super(type(self), self).mask(index)
    return np.where(mask == 255, 0, mask).astype(np.uint8)


def resized(side: int, antialias: bool) -> dict[str, Any]:
    """Return a dataset's name and decoders that squash bilinearly, as torch does on tensors; masks to the nearest."""

    def image(self: Any, index: int) -> Image.Image:
        pixels = torch.from_numpy(np.array(super(type(self), self).image(index))).permute(2, 0, 1)[None].float()
        small = F.interpolate(pixels, (side, side), mode="bilinear", antialias=antialias)
        return Image.fromarray(small[0].permute(1, 2, 0).round().to(torch.uint8).numpy())

    def mask(self: Any, index: int) -> Any:
        return resize_mask(super(type(self), self).mask(index), Labels(size=(side, side)))

    def image_size(self: Any, index: int) -> tuple[int, int]:
        return side, side

    return {"name": f"squashed_{antialias}".lower(), "image": image, "mask": mask, "image_size": image_size}


def mean_of_images(cells: Cells, record: Record, at: str) -> tuple[float, float]:
    """Return mIoU over all pixels, and the mean over images of each one's own, both of the classes that are there."""
    kept = counts.read_npz(ResultStore(cells.out).place(record).with_suffix("") / counts.NAME)
    tables = counts.pixel_counts(kept.of("miou", {"fraction": at})[0])
    own = [counts.mean_iou(table, absent="skip") for table in tables]
    return counts.mean_iou(tables.sum(0), absent="skip"), float(np.nanmean(own))


def clustering(cells: Cells) -> Iterator[Line]:
    """Yield what moves overclustering."""
    n_classes = DATASETS[cells.dataset].info.n_classes
    for n_clusters in (n_classes, *cells.args.clusters):
        label = f"miou@K={n_clusters}"
        asked = {"clusters": [n_clusters]}
        right = cells.measure("overclustering", settings=asked)
        everything = cells.measure("overclustering", settings={**asked, "points_per_centroid": 10**6})
        yield Line.of(
            "k-means on all tokens instead of 256 per cluster", label, cells.compared(right, everything, label)
        )
        side = cells.args.size or DATASETS[cells.dataset].info.input_size
        fine = cells.measure("overclustering", settings={**asked, "eval_size": side})
        yield Line.of(f"scored at {side} instead of 100 pixels", label, cells.compared(right, fine, label))


def linear(cells: Cells) -> Iterator[Line]:
    """Yield what moves a linear head."""
    right = cells.measure("linear_segmentation_cached", settings={} if cells.dataset == "scenes" else LINEAR)
    for trap, other in (
        ("scored at the input's size instead of 100 pixels", "miou_input"),
        ("predictions matched to classes again (Hungarian)", "miou_hungarian"),
        ("the best epoch on the validation images", "miou_best"),
    ):
        yield Line.of(f"linear head: {trap}", "miou", cells.compared(right, right, "miou", other))


def square_grid(cells: Cells) -> Iterator[Line]:
    """Yield what a grid of other sides does, on images that are not squashed to squares: nearest neighbours by hand."""
    patch = cells.base.info.patch
    sides = (8 * patch, 18 * patch)  # 144 tokens, which a code that takes the root calls 12 x 12

    def split(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        data = DATASETS[cells.dataset](cells.args.data_root, name)
        maps, labels = [], []
        for index in range(len(data)):
            image = data.image(index).resize(sides[::-1], Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
            mask = torch.from_numpy(data.mask(index))[None, None].float()
            with torch.no_grad():
                maps.append(F.normalize(cells.base.dense(pixels).maps[0], dim=1))
            labels.append(F.interpolate(mask, (8, 18), mode="nearest").long()[0, 0])
        return torch.cat(maps), torch.stack(labels)

    n_classes = DATASETS[cells.dataset].info.n_classes
    train, val = split(DATASETS[cells.dataset].info.train), split("val")

    def score(as_square: bool) -> float:
        tokens = []
        for maps, _ in (train, val):
            maps = F.interpolate(maps.flatten(2).unflatten(2, (12, 12)), (8, 18)) if as_square else maps
            tokens.append(maps.flatten(2).transpose(1, 2).flatten(0, 1))
        known, truth = train[1].flatten(), val[1].flatten()
        memory, known = tokens[0][known != 255], known[known != 255]
        total = ConfusionMatrix(n_classes, n_classes)
        for start in range(0, len(truth), 2048):
            near = (tokens[1][start : start + 2048] @ memory.T).topk(30)
            votes = F.one_hot(known[near.indices], n_classes).float()
            found = ((near.values / 0.02).softmax(1)[..., None] * votes).sum(1).argmax(1)
            total.update(found, truth[start : start + 2048])
        return 100 * float(mean_iou(*total.compute(), absent="skip"))

    right, wrong = score(False), score(True)
    yield Line("8 x 18 patches read as 12 x 12", "mIoU of patches", right, wrong, remark="no densebench protocol")


PARTS = (retrieval, clustering, linear, square_grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pico")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--size", type=int, help="side that images are squashed to")
    parser.add_argument("--share", type=int, default=1, help="retrieve from one of so many training images")
    parser.add_argument("--clusters", type=int, nargs="*", default=[], help="overclusterings beside one per class")
    parser.add_argument("--part", choices=[part.__name__ for part in PARTS], help="only these")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| wrong turn | metric | right | wrong | difference | |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cells = Cells(args, Path(folder))
        for part in PARTS:
            for line in part(cells) if args.part in (None, part.__name__) else ():
                print(line, flush=True)


if __name__ == "__main__":
    main()
