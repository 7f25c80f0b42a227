"""What a suite will take on this machine, whether its weights and data are here or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from PIL import Image

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo, DenseDataset, Root, Transforms
from densebench.datasets.names import DATASETS
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import BackboneInfo
from densebench.model_zoo.catalog import ENTRIES
from densebench.model_zoo.empty import empty_backbone
from densebench.model_zoo.zoo import zoo_folders
from densebench.protocols import PROTOCOLS
from densebench.protocols.protocol import Data
from densebench.runner.failures import FOREIGN
from densebench.runner.plan import Workload, flops_of
from densebench.suites import Suite, SuiteCell


class PublishedSplit(DenseDataset):
    """A split of which no more is known than how many images are published; `of` gives a dataset's."""

    def __init__(self, root: Root, split: str, transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        self.ids = [str(index) for index in range(self.info.splits[split])]

    @classmethod
    def of(cls, info: DatasetInfo) -> type[PublishedSplit]:
        """Return the class of a dataset's splits, called as every dataset's is."""
        return type(cls.__name__, (cls,), {"info": info})

    def image(self, index: int) -> Image.Image:
        """Raise: nothing is read."""
        raise UsageError(f"{self.info.name} is not read here.")


@dataclass
class Foreseen:
    """What all cells of a suite take together."""

    cells: int = 0
    unknown: list[str] = field(default_factory=list)
    """Cells of which nobody knows."""
    flops: float = 0.0
    cache_bytes: int = 0
    bank_bytes: int = 0
    """Of the largest bank."""


def foresee(suite: Suite) -> Foreseen:
    """Return what the cells of a suite take together, on the published number of images."""
    found, every = Foreseen(), list[Workload]()
    passes = {}
    for name in suite.models:
        cells = [cell for cell in suite.cells if name in cell.models]
        try:
            info = _info(name)
        except FOREIGN:
            found.unknown += [f"{name} / {cell.protocol}" for cell in cells]
            continue
        for cell in cells:
            for dataset in cell.datasets or ("scenes",):
                try:
                    every += [_foreseen(name, info, cell, dataset)] * len(cell.seeds)
                except FOREIGN:
                    found.unknown.append(f"{name} / {cell.protocol} / {dataset}")
    for each in every:
        for split, (spec, n) in each.estimate.features.items():
            if split not in each.estimate.uncached:
                passes[each.model, each.train_dataset, each.dataset, split, spec] = spec.nbytes(each.info, n)
    found.cells = len(every) + len(found.unknown)
    found.flops, found.cache_bytes = sum(flops_of(every)), sum(passes.values())
    found.bank_bytes = max((each.estimate.bank_bytes for each in every), default=0)
    return found


def _info(name: str) -> BackboneInfo:
    built_in = name in zoo_folders() or name not in ENTRIES
    backbone = load_model(name) if built_in else empty_backbone(ENTRIES[name])
    return replace(backbone.info, attention=backbone.has_attention)


def _foreseen(name: str, backbone: BackboneInfo, cell: SuiteCell, dataset: str) -> Workload:
    train, arrow, val = dataset.partition("->")
    data = Data(*(PublishedSplit.of(info)(None, split) for info, split in _splits(train, val or train)))
    protocol = PROTOCOLS[cell.protocol]()
    preset = cell.preset or protocol.default_preset(data.info)
    config = protocol.resolve(protocol.configure(preset, cell.settings), backbone, data.info)
    estimate = protocol.estimate(config, backbone, data)
    return Workload(name, backbone, val or train, train if arrow else "", estimate)


def _splits(train: str, val: str) -> Iterator[tuple[DatasetInfo, str]]:
    trained, evaluated = DATASETS[train].info, DATASETS[val].info
    yield trained, trained.train
    yield evaluated, evaluated.val
