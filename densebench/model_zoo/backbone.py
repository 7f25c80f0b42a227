"""The backbone contract: images in, dense features out, geometry declared and preprocessing sealed.

An adapter subclasses `Backbone`, declares a `BackboneInfo` and fills one hook, `tokens`. Everything that is easily
forgotten (normalisation, divisibility by the patch, dropping registers, non-square grids, eval mode) is done once,
here, by `dense`, which adapters cannot override.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from densebench.core.bounds import Count, Natural, Positive
from densebench.core.config import field_types, type_error
from densebench.core.errors import ModelError
from densebench.model_zoo.facets import FACETS as FACETS
from densebench.model_zoo.facets import Facet as Facet

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
    """Whether `attention` can be read; None: where the adapter's class defines that method."""
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
    """Feature maps of one batch: `maps[i]` is (B, D, h, w) for the i-th requested layer."""

    maps: tuple[Tensor, ...]
    class_tokens: tuple[Tensor | None, ...]  # (B, D) each, None where the model has none


class FeatureKey(NamedTuple):
    """One map among several that are asked of one forward pass."""

    layer: int = -1
    facet: Facet = "token"
    norm: bool = True
    """The final norm; it belongs to the last layer's tokens and says nothing elsewhere."""


class Backbone(nn.Module, ABC):
    """A frozen vision encoder that answers `dense(images)`.

    An adapter in full:

    >>> class Mine(Backbone):
    ...     info = BackboneInfo(name="mine", patch=16, width=192, prefix=1)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.net = build_my_network()
    ...     def tokens(self, pixels, layers, facet, norm):
    ...         return [self.net.forward_features(pixels)]   # (B, prefix + h*w, D)
    """

    info: BackboneInfo
    identity: str = ""
    """Which network this is, for caches: two of equal weights may compute otherwise. Filled in by `load_model`."""

    @abstractmethod
    def tokens(self, pixels: Tensor, layers: Sequence[int], facet: Facet, norm: bool) -> Sequence[Tensor]:
        """Return one (B, prefix + h*w, D) tensor per layer.

        `pixels` is (B, 3, H, W), already normalised; `layers` are within 0..depth-1; `norm` asks for the final norm
        on the last layer's tokens (facet "token" only).
        """

    def tokens_many(self, pixels: Tensor, reads: Sequence[FeatureKey]) -> Sequence[Tensor]:
        """Return one (B, prefix + h*w, D) tensor per read; `layer` is within 0..depth-1.

        This calls `tokens` once per facet, and once more for tokens without the final norm. An adapter that can give
        several facets of one forward pass overrides it. Optional.
        """
        last = self.info.depth - 1
        # where the final norm has no say, a read joins those with it
        wanted = [r._replace(norm=r.norm or r.facet != "token" or r.layer != last) for r in reads]
        groups: dict[tuple[Facet, bool], dict[int, None]] = {}
        for layer, facet, norm in wanted:
            groups.setdefault((facet, norm), {})[layer] = None
        found: dict[FeatureKey, Tensor] = {}
        for (facet, norm), layers in groups.items():
            answer = self._refuse_others(self.tokens(pixels, list(layers), facet, norm))
            self._refuse_count(answer, len(layers))
            found.update((FeatureKey(layer, facet, norm), tokens) for layer, tokens in zip(layers, answer, strict=True))
        return [found[read] for read in wanted]

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """Return softmaxed attention (B, heads, N, N) of one layer, prefix tokens first. Optional."""
        raise ModelError(f"{self.info.name} gives no attention maps; protocols that read them cannot run on it.")

    def attentions(self, images: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield `attention` of several layers, one at a time so that no more than one is held.

        An adapter that can read all layers in one forward pass overrides it. Optional.
        """
        for layer in layers:
            yield self.attention(images, layer)

    @property
    def has_attention(self) -> bool:
        """Whether `attention` can be read: as declared, else whether the adapter's class defines it."""
        declared = self.info.attention
        return type(self).attention is not Backbone.attention if declared is None else declared

    @final
    def dense(
        self,
        images: Tensor,
        layers: Sequence[int] = (-1,),
        facet: Facet = "token",
        norm: bool = True,
        *,
        std: Sequence[float] | None = None,
    ) -> DenseFeatures:
        """Return feature maps (B, D, h, w) of the requested layers.

        Args:
            images: float32 RGB in [0, 1], (B, 3, H, W), H and W multiples of the patch size.
            layers: block indices, negative from the end.
            facet: "token" is the block's output; "key", "query", "value" are the attention's projections.
            norm: apply the final norm to the last layer's tokens (other layers are always raw, as in POS 3.2).
            std: replaces the weights' own channel deviations, for parity with code that normalises otherwise.

        Raises ModelError when the request does not fit the declared geometry or the adapter's answer does not.
        """
        info = self.info
        grid = self._check(images, facet, layers, norm)
        indices = [layer % info.depth for layer in layers]
        outputs = self.tokens(self.normalise(images, std), indices, facet, norm)
        maps = self._maps(outputs, images, grid, len(indices))
        has_class_token = info.has_class_token and info.prefix
        return DenseFeatures(maps, tuple(tokens[:, 0] if has_class_token else None for tokens in outputs))

    @final
    def dense_many(
        self, images: Tensor, reads: Sequence[FeatureKey], *, std: Sequence[float] | None = None
    ) -> tuple[Tensor, ...]:
        """Return a feature map (B, D, h, w) per read: layers and facets of one forward pass, where the adapter can.

        Args:
            images: as in `dense`.
            reads: which layers, facets and norms; negative layers count from the end.
            std: as in `dense`.

        Raises ModelError as `dense` does.
        """
        grid = (0, 0)
        for layer, facet, norm in reads:
            grid = self._check(images, facet, (layer,), norm)
        wanted = [read._replace(layer=read.layer % self.info.depth) for read in reads]
        outputs = self.tokens_many(self.normalise(images, std), wanted) if wanted else ()
        return self._maps(outputs, images, grid, len(wanted))

    def _maps(self, outputs: Sequence[Tensor], images: Tensor, grid: tuple[int, int], count: int) -> tuple[Tensor, ...]:
        """Return tokens (B, prefix + h*w, D) as maps (n, D, h, w), checked against what the adapter declares."""
        info, n = self.info, len(images)
        want = info.prefix + grid[0] * grid[1]
        for tokens in self._refuse_others(outputs):
            if tokens.shape != (n, want, info.width):
                raise ModelError(
                    f"{info.name} returned features {tuple(tokens.shape)}; expected ({n}, {want}, "
                    f"{info.width}) = (batch, {info.prefix} prefix + {grid[0]}x{grid[1]} patches, width). "
                    "Check `prefix` (registers?), `patch` and `width` in its info."
                )
            if tokens.device != images.device:
                raise ModelError(
                    f"{info.name} was given images on {images.device} and returned features on {tokens.device}; "
                    "keep its weights as modules, parameters or buffers, and make tensors on `pixels.device`."
                )
        self._refuse_count(outputs, count)
        return tuple(tokens[:, info.prefix :].transpose(1, 2).unflatten(2, grid) for tokens in outputs)

    def _refuse_others(self, outputs: Any) -> Sequence[Tensor]:
        """Return `outputs` if they are a sequence of tensors on the images' device; else raise ModelError."""
        if not isinstance(outputs, Sequence) or not all(isinstance(tokens, Tensor) for tokens in outputs):
            inside = f" of {type(outputs[0]).__name__}" if isinstance(outputs, Sequence) and len(outputs) else ""
            raise ModelError(
                f"{self.info.name} returned a {type(outputs).__name__}{inside} from `tokens`; expected a list with a "
                "tensor (B, prefix + h*w, D) per layer."
            )
        return outputs

    def _refuse_count(self, outputs: Sequence[Tensor], count: int) -> None:
        if len(outputs) != count:
            raise ModelError(f"{self.info.name} returned {len(outputs)} layers; {count} were asked for.")

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

    def _check(self, images: Tensor, facet: Facet, layers: Sequence[int], norm: bool) -> tuple[int, int]:
        info = self.info
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ModelError(
                f"{info.name} expects float RGB images (B, 3, H, W) in [0, 1]; "
                f"got {images.dtype} {tuple(images.shape)}."
            )
        height, width = images.shape[-2:]
        if height % info.patch or width % info.patch:
            raise ModelError(
                f"{info.name} has patches of {info.patch} px; {height}x{width} is no multiple. "
                f"Nearest sizes: {height // info.patch * info.patch} or {-(-height // info.patch) * info.patch}."
            )
        if facet not in info.facets:
            raise ModelError(f"{info.name} has no facet {facet!r}; it has {', '.join(info.facets)}.")
        outside = [layer for layer in layers if not -info.depth <= layer < info.depth]
        if outside:
            raise ModelError(f"{info.name} has layers 0..{info.depth - 1}; {outside} asked for.")
        others = [layer for layer in layers if layer % info.depth != info.depth - 1]
        if not info.any_layer and (others or not norm):
            raise ModelError(f"{info.name} gives its last layer after the final norm only; layers {layers} asked for.")
        return height // info.patch, width // info.patch


class OnePassBackbone(Backbone):
    """A backbone that reads any layers and facets, or attention, from one forward pass; one of each is a special case.

    Its adapters fill `tokens_many` and `attentions`.
    """

    def tokens(self, pixels: Tensor, layers: Sequence[int], facet: Facet, norm: bool) -> Sequence[Tensor]:
        """Return one (B, prefix + h*w, D) tensor per layer."""
        return self.tokens_many(pixels, [FeatureKey(layer, facet, norm) for layer in layers])

    @abstractmethod
    def tokens_many(self, pixels: Tensor, reads: Sequence[FeatureKey]) -> Sequence[Tensor]:
        """Return one (B, prefix + h*w, D) tensor per read."""

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """Return softmaxed attention (B, heads, N, N) of one layer, prefix tokens first."""
        return next(self.attentions(images, [layer]))

    @abstractmethod
    def attentions(self, images: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the attention of each layer; raises ModelError where it cannot be read."""
