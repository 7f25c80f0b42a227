"""Adapter over open_clip: `open_clip/ARCH:TAG`, the image tower of any of its models that is a plain ViT.

`pip install 'densebench[open-clip]'`. Mean, deviation, native size and activation are those the weights of the tag
come with, whichever of its names (`ViT-B-16`, `ViT-B-16-quickgelu`) the architecture has. Position embeddings reach
other grids as open_clip resizes them when it loads: bicubic, antialiased.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.core.errors import ModelError, UsageError
from densebench.core.registry import unknown_name
from densebench.model_zoo.backbone import FACETS, QUERY_AND_KEY, Backbone, BackboneInfo, Facet, FeatureKey
from densebench.model_zoo.families import ModelSpec
from densebench.model_zoo.files.checkpoint import fit, read
from densebench.model_zoo.files.fetch import ask_hub
from densebench.model_zoo.files.wrappers import enter

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
"""A text tower in place of one that is not read and may have to be fetched."""


class OpenClipBackbone(Backbone):
    """open_clip's VisionTransformer behind the backbone contract; tokens are those before pooling and projection."""

    def __init__(self, tower: Any, name: str, **info: Any) -> None:
        super().__init__()
        for needed in ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post"):
            if not hasattr(tower, needed):
                raise ModelError(f"the image tower of {name} has no `{needed}`: it is not open_clip's own ViT.")
        blocks = tower.transformer.resblocks
        width = tower.positional_embedding.shape[1]
        if getattr(blocks[0].attn, "in_proj_weight", None) is None:
            raise ModelError(f"{name} projects keys, queries and values apart, which this adapter does not read.")
        self.tower: Any = tower
        # where the last norm follows the mean over tokens (CLIPA), `output_tokens` gives tokens without it
        self.normed = not getattr(tower, "final_ln_after_pool", False)
        self.info = BackboneInfo(
            name=name,
            patch=int(tower.conv1.kernel_size[0]),
            width=int(width),
            depth=len(blocks),
            heads=int(blocks[0].attn.num_heads),
            prefix=1,
            facets=FACETS,
            any_layer=True,
            attention=all(_is_plain(block.attn) for block in blocks),
            **info,
        )

    def weights_digest(self) -> str:
        """Return the digest of the weights; another with QuickGELU, which is no weight and changes every feature."""
        digest = super().weights_digest()
        quick = any(type(module).__name__ == "QuickGELU" for module in self.tower.modules())
        return hashlib.sha256(f"{digest};QuickGELU".encode()).hexdigest() if quick else digest

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        """Return block outputs and projections of all keys from one forward pass."""
        found: dict[FeatureKey, Tensor] = {}
        for index, block, before, after in self._pass(pixels, max(key.layer for key in keys)):
            for key in (key for key in keys if key.layer == index):
                if key.facet != "token":
                    found[key] = _project(block.attn, block.ln_1(before), key.facet)
                else:
                    found[key] = self.tower.ln_post(after) if key.norm and self.normed else after
        return [found[key] for key in keys]

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the attention of each layer; one forward pass gives what enters all of them."""
        if not self.info.attention:
            raise ModelError(f"{self.info.name} scales its attention in a way that keys and queries do not tell.")
        steps = self._pass(pixels, max(layers))
        inputs = {index: (block, before) for index, block, before, _ in steps if index in layers}
        for layer in layers:
            block, x = inputs[layer]
            x = block.ln_1(x)
            query, key = (
                _project(block.attn, x, facet).unflatten(2, (self.info.heads, -1)).transpose(1, 2)
                for facet in QUERY_AND_KEY
            )
            yield (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)

    def _pass(self, pixels: Tensor, last: int) -> Iterator[tuple[int, Any, Tensor, Tensor]]:
        """Yield index and module of each block up to `last`, and the tokens (B, N, D) before and after it."""
        after = self._embed(pixels)
        for index, block in enumerate(self.tower.transformer.resblocks[: last + 1]):
            before, after = after, self._block(block, after)
            yield index, block, before, after

    def _embed(self, pixels: Tensor) -> Tensor:
        """Return what enters the first block, (B, 1 + h*w, D)."""
        maps = self.tower.conv1(pixels)
        tokens = maps.flatten(2).transpose(1, 2)
        first = self.tower.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        positions = _resize(self.tower.positional_embedding, self.tower.grid_size, (maps.shape[2], maps.shape[3]))
        return self.tower.ln_pre(torch.cat([first, tokens], dim=1) + positions.to(tokens.dtype))

    def _block(self, block: nn.Module, x: Tensor) -> Tensor:
        if getattr(self.tower.transformer, "batch_first", True):
            return block(x)
        return block(x.transpose(0, 1)).transpose(0, 1)


def _resize(positions: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return embeddings (1 + h*w, D) for a grid from those of the tower's own."""
    if grid == own:
        return positions
    maps = positions[1:].float().unflatten(0, own).permute(2, 0, 1)[None]
    maps = F.interpolate(maps, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], maps[0].flatten(1).T.to(positions.dtype)])


def _project(attention: Any, x: Tensor, facet: Facet) -> Tensor:
    """Return queries, keys or values (B, N, D) of a fused projection in that order, heads concatenated."""
    width, i = attention.in_proj_weight.shape[1], "qkv".index(facet[0])
    part = slice(i * width, (i + 1) * width)
    bias = attention.in_proj_bias
    return F.linear(x, attention.in_proj_weight[part], None if bias is None else bias[part])


def _is_plain(attention: Any) -> bool:
    """Return whether attention is the softmax of keys and queries over the root of their width."""
    normed = any(not isinstance(getattr(attention, name, nn.Identity()), nn.Identity) for name in ("ln_q", "ln_k"))
    return not normed and getattr(attention, "logit_scale", None) is None


def _library() -> ModuleType:
    try:
        import open_clip  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ModelError(
            f"open_clip/... needs the package open_clip ({error}); run `pip install 'densebench[open-clip]'`."
        ) from error
    return open_clip


def load(spec: ModelSpec) -> Backbone:
    """Build the image tower of `open_clip/ARCH:TAG` with its weights, a local file's, or random ones."""
    library = _library()
    arch, _, tag = spec.name.partition(":")
    if arch not in library.list_models():
        raise unknown_name("model", spec.text, [f"open_clip/{name}" for name in library.list_models()])
    _refuse(library.get_model_config(arch)["vision_cfg"], spec.text)
    tags = list(library.list_pretrained_tags_by_model(arch))
    local = spec.random or spec.weights is not None
    if tag not in tags and (tag or not local):
        have = ", ".join(f"open_clip/{arch}:{known}" for known in tags) or "none"
        raise UsageError(f"{spec.text!r} names no weights of {arch}; there are {have}.")
    trained = library.get_pretrained_cfg(arch, tag) if tag else {}
    if not local and (place := trained.get("hf_hub")):
        ask_hub(spec.text, "/".join(place.split("/")[:2]), "Give a local file with --weights FILE.", HUB_FILES)
    # open_clip itself only warns where a tag was trained with the activation of the architecture's other name
    more: dict[str, Any] = {"force_quick_gelu": True} if trained.get("quick_gelu") else {}
    more |= {"text_cfg": NO_TEXT} if local else {"pretrained": tag}
    with torch.random.fork_rng(devices=[]), _quiet(local):
        torch.manual_seed(spec.random_seed or 0)
        try:
            model = library.create_model(arch, device="cpu", precision="fp32", **more)
        except Exception as error:  # of the hub, or what a torn file raises, which has many types
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"the weights of {spec.text} could not be fetched ({reason}). Give a local file with --weights FILE."
            ) from error
    if spec.weights is not None:
        found = enter(read(spec.weights), spec.entry, spec.weights.name)
        fit(model.visual, _tower_state(found), spec.text, spec.weights.name)
    seen = {**(getattr(model.visual, "preprocess_cfg", None) or {})}
    seen |= {key: trained[key] for key in ("mean", "std", "interpolation") if trained.get(key)}
    mean, std = (seen.get(key) or getattr(model.visual, f"image_{key}", None) for key in ("mean", "std"))
    if mean is None or std is None:
        raise ModelError(
            f"{spec.text} does not say which mean and deviation it was trained with; open_clip is too old."
        )
    size: Any = seen.get("size") or getattr(model.visual, "image_size", 224)
    return OpenClipBackbone(
        model.visual,
        spec.text,
        mean=tuple(mean),
        std=tuple(std),
        interpolation=seen.get("interpolation") or "bicubic",
        native_size=int(size if isinstance(size, int) else size[0]),
        licence="that of the weights; see the page of their tag",
        citation="Cherti et al., Reproducible scaling laws for contrastive language-image learning, CVPR 2023 "
        "(open_clip); the weights' own paper besides",
    )


def _refuse(vision: Mapping[str, Any], name: str) -> None:
    """Raise ModelError for an image tower that is no plain ViT of open_clip's own, before anything is fetched."""
    elsewhere = vision.get("timm_model_name")
    if elsewhere:
        raise ModelError(
            f"the image tower of {name} is timm's {elsewhere}. Ask for timm/{elsewhere}, with the tag of its weights "
            f"there (`densebench list models 'timm/{elsewhere}*'`)."
        )
    if isinstance(vision.get("layers"), (list, tuple)):
        raise ModelError(f"the image tower of {name} is a ResNet; this adapter reads open_clip's ViTs.")
    if vision.get("attentional_pool"):
        raise ModelError(f"{name} pools by attention before its last norm; its tokens have no final norm to apply.")


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Keep open_clip from warning of random weights where it was not asked for others."""
    before = logging.root.manager.disable
    if quiet:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _tower_state(found: Any) -> dict[str, Tensor]:
    """Return the image tower's weights of a whole CLIP checkpoint, or a tower's own."""
    state = found.get("state_dict", found) if isinstance(found, dict) else {}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    tower = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    return tower or state
