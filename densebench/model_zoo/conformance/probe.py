"""What the checks share: a backbone with images to look at it with, and the ways in which a check ends.

A check gets a `Probe` and returns what it found. It raises `Failed` for a mistake, `Noted` for what is right or wrong
by intent, which no test can tell, and `NotApplicable` where the adapter does not declare what is looked at. The first
line of its docstring is what is expected.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densebench.core.errors import DensebenchError
from densebench.core.user_files import lines_in
from densebench.model_zoo.adapters.foreign import GRID, file_of, images
from densebench.model_zoo.backbone import Backbone, FeatureKey

LAST = FeatureKey()
SAME = 1e-3
"""Norm of a difference over norm of the features, up to which features are equal: float32 sums in another order."""


class Failed(Exception):  # noqa: N818
    """The adapter is wrong: what was found, and how to fix it."""

    def __init__(self, found: str, fix: str = "") -> None:
        super().__init__(found)
        self.found, self.fix = found, fix


class Noted(Failed):
    """Something to know that may be meant so."""


class NotApplicable(Exception):  # noqa: N818
    """The adapter does not declare what would be checked; the message says what."""


class Probe:
    """A backbone and the images it is looked at with."""

    def __init__(
        self,
        backbone: Backbone,
        size: tuple[int, int] | None = None,
        rebuild: Callable[[int], Backbone] | None = None,
    ) -> None:
        self.backbone = backbone
        self.rebuild = rebuild
        """Builds the adapter anew under a random state; None where it was given as an object."""
        self.info = backbone.info
        self.asked = size
        self.size = size or self.pixels(GRID)
        """The size most checks use: `sizes` sets it to one that works."""
        side = max(1, self.info.native_size // self.info.patch) * self.info.patch
        self.native = size or (side, side)
        """The native size, down to a multiple of the patch; `self.size` where the adapter refuses it."""
        self.usable = True
        """Whether any size works."""

    def pixels(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width in pixels of a grid of patches."""
        return grid[0] * self.info.patch, grid[1] * self.info.patch

    @property
    def last(self) -> int:
        """The last layer."""
        return self.info.depth - 1

    @property
    def ends(self) -> list[int]:
        """The first and the last layer, as far as they can be asked for."""
        return sorted({0, self.last}) if self.info.any_layer else [self.last]

    @property
    def keys(self) -> list[FeatureKey]:
        """Every declared layer of tokens, and every declared facet of the first and the last layer."""
        layers = range(self.info.depth) if self.info.any_layer else self.ends
        others = [facet for facet in self.info.facets if facet != "token"]
        return [*map(FeatureKey, layers), *(FeatureKey(layer, facet) for layer in self.ends for facet in others)]

    def images(self, n: int = 4, size: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
        """Return images (n, 3, H, W) in [0, 1]: blotches of colour under fine noise, the same on every machine."""
        return images(n, size or self.size, seed).to(self.backbone.device)

    def features(self, images: Tensor, key: FeatureKey = LAST, backbone: Backbone | None = None) -> Tensor:
        """Return the map (B, D, h, w) of one key, in float32, as a run would get it."""
        return self.maps(images, [key], backbone)[0].float()

    def maps(
        self, images: Tensor, keys: Sequence[FeatureKey] | None = None, backbone: Backbone | None = None
    ) -> tuple[Tensor, ...]:
        """Return the maps (B, D, h, w) of keys from one pass; by default of all that are looked at."""
        with torch.inference_mode():
            return (backbone or self.backbone).dense(images, self.keys if keys is None else keys).maps

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """Return the attention (B, heads, N, N) of one layer, in float32."""
        with torch.inference_mode():
            return next(self.backbone.attentions(images, [layer])).float()


def difference(a: Tensor, b: Tensor) -> float:
    """Return the norm of a - b over that of b; NaN where either is not finite."""
    return float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-12))


def differ(a: Tensor, b: Tensor, tolerance: float = SAME) -> bool:
    """Return whether two tensors are not equal, NaN being equal to nothing."""
    return not difference(a, b) <= tolerance


def said(error: BaseException, backbone: Backbone) -> str:
    """Return what stopped an adapter, and in which line of its own file; our own errors speak for themselves."""
    if isinstance(error, DensebenchError):
        return str(error)
    file = file_of(backbone)
    lines = lines_in(file, error) if file else []
    return f"{type(error).__name__}: {error}" + (f" ({file.name}, line {lines[-1]})" if file and lines else "")


def layer_inputs(backbone: Backbone, call: Callable[[], Any], most: int = 12) -> list[tuple[str, Tensor]]:
    """Return name and input of the first layers, of those that have weights and no parts, that a call runs through."""
    seen: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()]
            if tensors and len(seen) < most:
                seen.append((name, tensors[0].detach().float().clone()))

        return hook

    handles = [
        module.register_forward_pre_hook(keep(name), with_kwargs=True)
        for name, module in backbone.named_modules()
        if name and not list(module.children()) and list(module.parameters(recurse=False))
    ]
    try:
        with torch.inference_mode():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return seen


class PeakTensors(TorchDispatchMode):
    """The most bytes that tensors made within the block held at one time; what kernels take inside is not seen."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in known)
        self.keep = [tensor.untyped_storage() for tensor in known]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage not in self.known:
                self.known.add(storage)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return out

    def _freed(self, nbytes: int) -> None:
        self.live -= nbytes
