"""The backbone contract: images in, dense features out, geometry declared and preprocessing sealed.

An adapter subclasses `Backbone`, declares a `BackboneInfo` and fills one hook, `tokens`; where attention can be read,
`attention` too. Everything that is easily forgotten (normalisation, divisibility by the patch, dropping registers,
non-square grids, layers counted from the end) is done once, here, by `dense` and `attentions`, which adapters cannot
override.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from densebench.core.bounds import Count, Natural, Positive
from densebench.core.config import field_types, type_error
from densebench.core.errors import ModelError
from densebench.model_zoo.facets import FACETS as FACETS
from densebench.model_zoo.facets import Facet as Facet
from densebench.model_zoo.facets import FeatureKey as FeatureKey

QUERY_AND_KEY: tuple[Facet, Facet] = ("query", "key")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

BOUNDED = ("patch", "width", "depth", "heads", "prefix", "mean", "std", "native_size")
"""What an info is held against the bounds of."""


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """What an adapter declares: geometry and preprocessing belong to the weights and are never guessed.

    Raises ModelError for what no network can have.
    """

    name: str
    patch: Count
    """Pixels per side of one patch."""
    width: Count
    """Channels D of a token; keys, queries and values have as many, heads concatenated."""
    depth: Count = 1
    """Number of blocks; layers are 0..depth-1, negative ones count from the end."""
    heads: Count = 1
    prefix: Natural = 1
    """Tokens before the patches: class token plus registers. They never enter a feature map."""
    has_class_token: bool = True
    """Whether prefix token 0 is a class token."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    interpolation: str = "bilinear"
    """The resampling the weights were trained with."""
    native_size: Count = 224
    facets: tuple[Facet, ...] = ("token",)
    """Which facets `tokens` can return."""
    any_layer: bool = False
    """Whether `tokens` can return layers other than the last, and leave the final norm out."""
    attention: bool | None = None
    """Whether attention can be read; None: where the adapter's class defines the hook `attention`."""
    licence: str = ""
    citation: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in BOUNDED:
            if expected := type_error(value := getattr(self, name), field_types(BackboneInfo)[name]):
                raise ModelError(f"{self.name} declares {name}={value!r} in its info: expected {expected}.")

    def pass_flops(self, side: int) -> float:
        """Return the operations of one image of `side` by `side` pixels, rough: a product and its sum are two."""
        return self.token_flops((side // self.patch) ** 2 + self.prefix)

    def token_flops(self, tokens: int) -> float:
        """Return the operations of so many tokens: projections and MLP, then attention."""
        return tokens * self.depth * (24 * self.width**2 + 4 * tokens * self.width)


@dataclass(frozen=True)
class DenseFeatures:
    """Features of one batch, one entry per key that was asked for."""

    maps: tuple[Tensor, ...]  # (B, D, h, w) each
    class_tokens: tuple[Tensor | None, ...]  # (B, D) each, None where the model has none


TOKENS = "`tokens(self, pixels, keys)`: one tensor (B, prefix + h*w, D) per key, which has .layer, .facet and .norm"
ATTENTION = "`attention(self, pixels, layers)`: yield (B, heads, N, N) of each layer; pixels are normalised already"
OLD_HOOKS = {
    "tokens": ({"layers", "facet", "norm"}, TOKENS),
    "tokens_many": ({"reads"}, TOKENS),
    "attention": ({"images", "layer"}, ATTENTION),
    "attentions": ({"images"}, ATTENTION),
}
"""Hooks of before there were keys, with parameters that tell them, and what to write instead."""


class Backbone(nn.Module, ABC):
    """A frozen vision encoder that answers `dense(images)`.

    Examples:
        >>> class Mine(Backbone):
        ...     info = BackboneInfo(name="mine", patch=16, width=192, prefix=1)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = build_my_network()
        ...     def tokens(self, pixels, keys):
        ...         return [self.net.forward_features(pixels)]   # (B, prefix + h*w, D)
    """

    info: BackboneInfo
    identity: str = ""
    """Which network this is, for caches: two of equal weights may compute otherwise. Filled in by `load_model`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, (old, wanted) in OLD_HOOKS.items():
            if inspect.isfunction(hook := vars(cls).get(name)):
                parameters = inspect.signature(hook)
                if old & parameters.parameters.keys() or not _takes(parameters, 3):
                    raise ModelError(f"{cls.__name__}.{name}{parameters}: expected {wanted} (docs/adapters.md).")

    @abstractmethod
    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> Sequence[Tensor]:
        """Return one (B, prefix + h*w, D) tensor per key, all of one forward pass where that can be.

        `pixels` is (B, 3, H, W), already normalised. No key comes twice; layers are within 0..depth-1; `norm` is True
        where the final norm shall be applied, which are the last layer's tokens alone.
        """

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> Iterable[Tensor]:
        """Yield softmaxed attention (B, heads, N, N) of each layer, rows = queries, prefix tokens first. Optional.

        `pixels` and `layers` are as in `tokens`. A generator holds one layer at a time, however many are asked for.
        """
        raise ModelError(f"{self.info.name} gives no attention maps; protocols that read them cannot run on it.")

    @property
    def has_attention(self) -> bool:
        """Whether attention can be read: as declared, else whether the adapter's class defines the hook."""
        declared = self.info.attention
        return type(self).attention is not Backbone.attention if declared is None else declared

    @final
    def dense(
        self, images: Tensor, keys: Sequence[FeatureKey] = (FeatureKey(),), *, std: Sequence[float] | None = None
    ) -> DenseFeatures:
        """Return a feature map (B, D, h, w) and the class token (B, D) per key, all of one forward pass.

        Args:
            images: float32 RGB in [0, 1], (B, 3, H, W), H and W multiples of the patch size.
            keys: which layers, facets and norms; one may come twice.
            std: replaces the weights' own channel deviations, for parity with code that normalises otherwise.

        Raises ModelError when the request does not fit the declared geometry or the adapter's answer does not.
        """
        info = self.info
        grid, wanted = self._grid(images), [self._plain(key) for key in keys]
        unique = list(dict.fromkeys(wanted))
        tokens = self.tokens(self.normalise(images, std), unique) if unique else ()
        found = dict(zip(unique, self._checked(tokens, images, grid, len(unique)), strict=True))
        has_class_token = info.has_class_token and info.prefix
        return DenseFeatures(
            tuple(found[key][:, info.prefix :].transpose(1, 2).unflatten(2, grid) for key in wanted),
            tuple(found[key][:, 0] if has_class_token else None for key in wanted),
        )

    @final
    def attentions(
        self, images: Tensor, layers: Sequence[int], *, std: Sequence[float] | None = None
    ) -> Iterator[Tensor]:
        """Yield softmaxed attention (B, heads, N, N) of each layer, one at a time; arguments as in `dense`.

        Raises ModelError as `dense` does, and where the backbone gives no attention.
        """
        info = self.info
        height, width = self._grid(images)
        n = info.prefix + height * width
        answer = self.attention(self.normalise(images, std), [self._index(layer) for layer in layers])
        each = iter(answer if isinstance(answer, Iterable) else ())
        for _ in layers:
            found = next(each, None)
            if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[-2:] != (n, n):
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ModelError(
                    f"{info.name} returned attention {shape} for {images.shape[2]}x{images.shape[3]} pixels; expected "
                    f"({len(images)}, heads, {n}, {n}), where {n} = {info.prefix} prefix + {height}x{width} patches."
                )
            yield found

    def _plain(self, key: FeatureKey) -> FeatureKey:
        """Return a key as adapters get it, `norm` True where it is applied; raise ModelError where there is none."""
        info, last = self.info, self.info.depth - 1
        if key.facet not in info.facets:
            raise ModelError(f"{info.name} has no facet {key.facet!r}; it has {', '.join(info.facets)}.")
        layer = self._index(key.layer)
        if not info.any_layer and (layer != last or not key.norm):
            raise ModelError(f"{info.name} gives its last layer after the final norm only; {tuple(key)} asked for.")
        return FeatureKey(layer, key.facet, key.norm and key.facet == "token" and layer == last)

    def _index(self, layer: int) -> int:
        """Return a layer counted from 0; raise ModelError where there is none."""
        if not -self.info.depth <= layer < self.info.depth:
            raise ModelError(f"{self.info.name} has layers 0..{self.info.depth - 1}; {layer} asked for.")
        return layer % self.info.depth

    def _checked(self, outputs: Any, images: Tensor, grid: tuple[int, int], count: int) -> Sequence[Tensor]:
        """Return an adapter's answer if it is what was asked for and declared; else raise ModelError."""
        info = self.info
        if not isinstance(outputs, Sequence) or not all(isinstance(tokens, Tensor) for tokens in outputs):
            inside = f" of {type(outputs[0]).__name__}" if isinstance(outputs, Sequence) and len(outputs) else ""
            raise ModelError(
                f"{info.name} returned a {type(outputs).__name__}{inside} from `tokens`; expected a list with a "
                "tensor (B, prefix + h*w, D) per key."
            )
        want = (len(images), info.prefix + grid[0] * grid[1], info.width)
        for tokens in outputs:
            if tokens.shape != want:
                raise ModelError(
                    f"{info.name} returned features {tuple(tokens.shape)}; expected ({want[0]}, {want[1]}, "
                    f"{info.width}) = (batch, {info.prefix} prefix + {grid[0]}x{grid[1]} patches, width). "
                    "Check `prefix` (registers?), `patch` and `width` in its info."
                )
            if tokens.device != images.device:
                raise ModelError(
                    f"{info.name} was given images on {images.device} and returned features on {tokens.device}; "
                    "keep its weights as modules, parameters or buffers, and make tensors on `pixels.device`."
                )
        if len(outputs) != count:
            raise ModelError(f"{info.name} returned {len(outputs)} tensors; {count} were asked for, one per key.")
        return outputs

    def normalise(self, images: Tensor, std: Sequence[float] | None = None) -> Tensor:
        """Subtract the weights' mean and divide by their (or the given) deviation."""
        mean = images.new_tensor(self.info.mean).view(3, 1, 1)
        deviation = images.new_tensor(tuple(std) if std is not None else self.info.std).view(3, 1, 1)
        return (images - mean) / deviation

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.parameters()), torch.empty(0)).device

    def weights_digest(self) -> str:
        """Return the SHA-256 over names, types, shapes and bytes of all weights and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Return the height and width in patches; raise ModelError for what are no images of such patches."""
        info = self.info
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ModelError(
                f"{info.name} expects float RGB images (B, 3, H, W) in [0, 1]; "
                f"got {images.dtype} {tuple(images.shape)}."
            )
        height, width = images.shape[-2:]
        if height % info.patch or width % info.patch:
            raise ModelError(
                f"{info.name} has patches of {info.patch} px; {height}x{width} is not a multiple. "
                f"Nearest sizes: {height // info.patch * info.patch} or {-(-height // info.patch) * info.patch}."
            )
        return height // info.patch, width // info.patch


def _takes(signature: inspect.Signature, count: int) -> bool:
    """Return whether so many positional arguments can be given."""
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
