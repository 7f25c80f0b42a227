"""What kinds of pictures have in common: the images shown, a model at work, and the contract of a kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densebench.core.environment import available_memory
from densebench.core.errors import UsageError
from densebench.core.resampling import RESAMPLING
from densebench.datasets.dataset import DenseDataset
from densebench.features.source import FeatureSource
from densebench.features.spec import FeatureSpec
from densebench.figures.arrays import Picture, enlarge
from densebench.model_zoo.backbone import Backbone, FeatureKey
from densebench.pictures.options import Options
from densebench.protocols.common.examples import spread
from densebench.protocols.common.memory import Memory
from densebench.protocols.protocol import Context, Data, Protocol, input_size

S = TypeVar("S")
C = TypeVar("C")
SHOWN = 224
"""Side in pixels of the images in a picture."""
PUBLISHED = 448
"""Side in pixels of the input where neither the dataset nor the user has one."""
MOST_LAYERS = 12
"""Of a study of layers that are drawn."""


@dataclass
class View:
    """The images that pictures are of, and how they are made."""

    data: Data
    images: tuple[int, ...]
    """Positions in the validation images."""
    options: Options
    points: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    """By kind and image the place asked about, (x, y) as shares of width and height, chosen with the first model."""

    @property
    def ids(self) -> list[str]:
        """The names of the images."""
        return [self.data.val.ids[i] for i in self.images]

    @property
    def chosen(self) -> DenseDataset:
        """The chosen images alone."""
        return self.data.val.select(self.images)

    def truth(self, index: int, size: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the mask of an image at `size`, (H, W), nearest."""
        return enlarge(self.data.val.mask(index), size)

    def image(self, index: int, train: bool = False) -> Picture:
        """Return an image (H, W, 3), its shorter side SHOWN pixels or less."""
        image = (self.data.train if train else self.data.val).image(index).convert("RGB")
        scale = min(1.0, SHOWN / min(image.size))
        width, height = (max(1, round(side * scale)) for side in image.size)
        return np.asarray(image.resize((width, height), RESAMPLING["bilinear"]))


@dataclass
class Model:
    """A model at work."""

    name: str
    """What the picture calls it."""
    spec_text: str
    """What --models says."""
    context: Context
    data: Data
    options: Options
    memories: dict[str, Memory] = field(default_factory=dict)
    """What several kinds search, by what it knows of a patch."""

    @property
    def source(self) -> FeatureSource:
        """Its features."""
        return self.context.features

    def beside(self, backbone: Backbone) -> FeatureSource:
        """Return the features of another backbone, read as this model's are."""
        own = self.source
        return FeatureSource(
            backbone,
            cache=own.cache,
            progress=own.progress,
            device=str(own.device),
            precision=own.precision,
            dtype=own.dtype,
            batch_size=own.batch_size,
            workers=own.workers,
        )

    @property
    def spec(self) -> FeatureSpec:
        """What is read of it where no protocol says; raises UsageError for what it does not have."""
        info = self.source.info
        side = input_size(self.options.input_size or "auto", PUBLISHED, info, self.data.info)
        layer, facet = self.options.layer, self.options.facet or "token"
        if layer is not None and not -info.depth <= layer < info.depth:
            raise UsageError(f"--layer {layer}: {info.name} has layers 0 to {info.depth - 1}.")
        if facet not in info.facets:
            raise UsageError(f"--facet {facet}: {info.name} has the facets {', '.join(info.facets)}.")
        return FeatureSpec(size=(side, side), keys=(FeatureKey(-1 if layer is None else layer, facet),))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer asked for, else those of a study of layers: MOST_LAYERS of them evenly spread, the last with them.

        Raises UsageError for a layer that there is not.
        """
        info = self.source.info
        if self.options.layer is not None:
            return (self.spec.keys[0].layer % info.depth,)
        return tuple(sorted(spread(MOST_LAYERS, info.depth)))

    def config(self, protocol: Protocol[C], asked: Mapping[str, Any] | None = None) -> C:
        """Return the settings of a protocol: its preset, what the user changes, and what depends on model and data.

        `asked` are settings beside those of the options. Raises UsageError for what does not fit into memory.
        """
        info, preset = self.source.info, self.options.preset or protocol.default_preset(self.data.info)
        config = protocol.configure(preset, {**(asked or {}), **self.options.overrides(protocol.name)})
        config = protocol.resolve(config, info, self.data.info)
        needed, free = protocol.estimate(config, info, self.data).bank_bytes, available_memory()
        if free is not None and needed > free:
            raise UsageError(
                f"{protocol.name} needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free. "
                f"{protocol.shrink_hint}"
            )
        return config

    def maps(self, data: DenseDataset) -> Tensor:
        """Return the feature maps (N, D, h, w) of all images of a dataset, on the CPU."""
        return torch.cat([batch.maps.cpu() for batch in self.source.stream(data, self.spec)])


class Kind(ABC, Generic[S]):
    """A kind of picture: what is shown of one model, and the picture of all."""

    name: ClassVar[str]

    @abstractmethod
    def show(self, view: View, model: Model) -> S:
        """Return what the picture shows of a model, small: no model is held beside another."""

    @abstractmethod
    def draw(self, view: View, shown: Mapping[str, S]) -> Mapping[str, bytes]:
        """Return pictures as PNG, by the name of their file without its ending, of what each model showed."""


def point_of(
    view: View, kind: str, image: int, grid: tuple[int, int], otherwise: Callable[[], tuple[int, int]] | None = None
) -> tuple[float, float]:
    """Return the place (x, y) that a kind asks about in an image, the same one for all models.

    That of --patch in the `grid` (h, w) of the first model, else of the patch that `otherwise` returns, else of the
    centre. Raises UsageError for a patch outside of that grid.
    """
    if (kind, image) not in view.points:
        row, column = view.options.patch or (otherwise() if otherwise else (grid[0] // 2, grid[1] // 2))
        if row >= grid[0] or column >= grid[1]:
            raise UsageError(f"--patch {row},{column} lies outside of the grid of {grid[0]} x {grid[1]} patches.")
        view.points[kind, image] = ((column + 0.5) / grid[1], (row + 0.5) / grid[0])
    return view.points[kind, image]


def patch_at(point: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of the patch of a grid (h, w) that a place (x, y), as shares, lies in."""
    return min(int(point[1] * grid[0]), grid[0] - 1), min(int(point[0] * grid[1]), grid[1] - 1)


def box_of(patch: tuple[int, int], grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box (top, left, height, width) of a patch of a grid (h, w) in a picture of `size` (H, W)."""
    (row, column), (height, width) = patch, size
    top, left = round(row * height / grid[0]), round(column * width / grid[1])
    bottom, right = round((row + 1) * height / grid[0]), round((column + 1) * width / grid[1])
    return top, left, max(1, bottom - top), max(1, right - left)
