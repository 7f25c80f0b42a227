"""Adapter over Hugging Face transformers: `hf/REPO@REVISION`, ViTs that AutoModel builds. No remote code, ever.

`pip install 'densebench[hf]'`. Block outputs and projections are read by hooks, because what `hidden_states` holds of
the last block, before or after the final norm, differs between models and versions. Keys and queries are those before
rotary embeddings (DINOv3); attention is what they give after them, as the library's eager attention computes it. Mean,
deviation and native size come from the repository's image processor, the number of prefix tokens from a table of model
types below.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from densebench.core.download import offline
from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo.adapters.image_processor import SETTINGS, preprocessing, refuse_oblong
from densebench.model_zoo.backbone import QUERY_AND_KEY, Backbone, BackboneInfo, Facet, FeatureKey
from densebench.model_zoo.families import ModelSpec
from densebench.model_zoo.files.fetch import ask_hub

CLASS_TOKENS = {
    "vit": 1, "vit_msn": 1, "deit": 2, "dinov2": 1, "dinov2_with_registers": 1, "dinov3_vit": 1, "ijepa": 0,
    "clip_vision_model": 1, "siglip_vision_model": 0,
}  # fmt: skip
"""Class and distillation tokens of each model type; `num_register_tokens` of its config come on top."""

WITH_TEXT = ("clip", "siglip")
"""Model types whose image tower is `vision_model`, described by `vision_config`."""

OWN_NORM = {"clip_vision_model": "post_layernorm"}
"""The final norm of model types whose forward pass gives tokens without it."""

PROJECTIONS: dict[Facet, tuple[str, ...]] = {
    "query": ("query", "q_proj"),
    "key": ("key", "k_proj"),
    "value": ("value", "v_proj"),
}


class HfBackbone(Backbone):
    """A ViT of transformers behind the backbone contract."""

    def __init__(self, model: Any, name: str, **info: Any) -> None:
        super().__init__()
        while hasattr(model, "vision_model"):  # twice in older versions
            model = model.vision_model
        config = model.config
        self.model: Any = model
        self.blocks = _blocks(model, int(config.num_hidden_layers), name)
        found = [facet for facet in PROJECTIONS if all(_projection(block, facet) is not None for block in self.blocks)]
        first = CLASS_TOKENS[config.model_type]
        self.info = BackboneInfo(
            name=name,
            patch=int(config.patch_size),
            width=int(config.hidden_size),
            depth=int(config.num_hidden_layers),
            heads=int(config.num_attention_heads),
            prefix=first + int(getattr(config, "num_register_tokens", 0) or 0),
            has_class_token=first > 0,
            facets=("token", *found),
            any_layer=True,
            attention=all(facet in found for facet in QUERY_AND_KEY),
            **info,
        )
        accepted = inspect.signature(model.forward).parameters
        self._more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        """Return block outputs and projections of all keys from one forward pass."""
        last, found = self._forward(pixels, {(key.layer, key.facet) for key in keys})
        own = OWN_NORM.get(self.model.config.model_type)
        if own and any(key.norm for key in keys):
            last = self.model.get_submodule(own)(last)
        return [last if key.norm else found[key.layer, key.facet] for key in keys]

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the attention of each layer; one forward pass gives the queries and keys of all of them."""
        if not self.info.attention:
            raise ModelError(f"{self.info.name} has no queries and keys that this adapter finds, hence no attention.")
        _, found = self._forward(pixels, {(layer, facet) for layer in layers for facet in QUERY_AND_KEY})
        rope = getattr(self.model, "rope_embeddings", None)
        places = rope(pixels) if rope is not None else None
        for layer in layers:
            query, key = (
                found[layer, facet].unflatten(2, (self.info.heads, -1)).transpose(1, 2) for facet in QUERY_AND_KEY
            )
            if places is not None:
                query, key = (_rotate(part, *places) for part in (query, key))
            yield (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(dim=-1)

    def _forward(
        self, pixels: Tensor, wanted: Collection[tuple[int, Facet]]
    ) -> tuple[Tensor, dict[tuple[int, Facet], Tensor]]:
        """Run the model once; return what it calls its last hidden state, and what was wanted, (B, N, D) each."""
        found: dict[tuple[int, Facet], Tensor] = {}

        def keep(key: tuple[int, Facet], module: nn.Module, inputs: Any, output: Any) -> None:
            tokens = output[0] if isinstance(output, tuple) else output
            found[key] = tokens.reshape(len(pixels), -1, self.info.width)

        with ExitStack() as hooks:
            for index, facet in wanted:
                module = self.blocks[index] if facet == "token" else _projection(self.blocks[index], facet)
                if module is not None:
                    hooks.enter_context(module.register_forward_hook(partial(keep, (index, facet))))
            return self.model(pixel_values=pixels, **self._more).last_hidden_state, found


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return queries or keys (B, heads, N, d) whose last tokens, the patches, are turned by angles (h*w, d).

    Channels c and c + d/2 are a pair.
    """
    first, patches = x[:, :, : -len(sines)], x[:, :, -len(sines) :]
    left, right = patches.chunk(2, dim=-1)
    return torch.cat([first, patches * cosines + torch.cat([-right, left], dim=-1) * sines], dim=2)


def _blocks(model: nn.Module, depth: int, name: str) -> list[nn.Module]:
    """Return the blocks of a model: the one list of modules that is as long as its config says it is deep."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(lists) != 1:
        raise ModelError(f"{name} has {len(lists)} lists of {depth} modules; expected one, its blocks.")
    return list(lists[0])


def _projection(block: nn.Module, facet: Facet) -> nn.Module | None:
    found = [m for name, m in block.named_modules() if name.rpartition(".")[2] in PROJECTIONS[facet]]
    return found[0] if len(found) == 1 else None


def _library() -> ModuleType:
    try:
        import transformers  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ModelError(
            f"hf/... needs the package transformers ({error}); run `pip install 'densebench[hf]'`."
        ) from error
    return transformers


def load(spec: ModelSpec) -> Backbone:
    """Build `hf/REPO@REVISION`, or a local folder `hf/./FOLDER`, with its weights or random ones."""
    if spec.weights is not None:
        raise UsageError(
            f"{spec.text!r} takes no --weights; give the folder that `save_pretrained` wrote: hf/./FOLDER."
        )
    library = _library()
    repository, _, revision = (spec.name, "", "") if os.path.isdir(spec.name) else spec.name.partition("@")
    if repository.startswith((".", "/", "~")):
        if not os.path.isdir(Path(repository).expanduser()):
            raise ModelError(f"there is no folder {repository}; {spec.text} asks for the one `save_pretrained` wrote.")
        repository = str(Path(repository).expanduser())
    if not os.path.isdir(repository):
        ask_hub(spec.text, repository, "A local folder is hf/./FOLDER.", ("config.json",), revision or None)
    where: dict[str, Any] = {"trust_remote_code": False, "local_files_only": offline()}
    where |= {"revision": revision} if revision else {}
    try:
        config = library.AutoConfig.from_pretrained(repository, **where)
        _refuse(config, spec.text)
        processor = library.AutoImageProcessor.from_pretrained(repository, **where)
        declared = preprocessing(
            {key: _plain(getattr(processor, key)) for key in SETTINGS if hasattr(processor, key)}, spec.text
        )
        said = declared.pop("loading")
        if spec.random:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(spec.random_seed or 0)
                model = library.AutoModel.from_config(config, trust_remote_code=False)
        else:
            model, report = library.AutoModel.from_pretrained(
                repository, output_loading_info=True, ignore_mismatched_sizes=True, **where
            )
            _check_report(report, spec.text)
    except ModelError:
        raise
    except Exception as error:  # what a torn or misshapen file raises has many types, some without a public name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{spec.text} could not be loaded ({reason}). Code that comes with a repository is never run."
        ) from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # drawn at random where the weights have none; nothing here reads it
    local = os.path.isdir(repository)
    found = getattr(model.config, "_commit_hash", None)
    return HfBackbone(
        model.float(),
        spec.text,
        **declared,
        licence="see the card of its repository",
        citation="" if local else f"https://huggingface.co/{repository}",
        notes={"revision": "local folder" if local else found or revision or "newest", "loading": said},
    )


def _refuse(config: Any, name: str) -> None:
    """Raise ModelError for a model type that is not known, before its weights are fetched."""
    tower = config.vision_config if config.model_type in WITH_TEXT else config
    if tower.model_type not in CLASS_TOKENS:
        raise ModelError(
            f"{name} is a {tower.model_type!r}; this adapter knows {', '.join(CLASS_TOKENS)}. Others may be there as "
            "timm/NAME or open_clip/ARCH:TAG, or take an adapter of your own (docs/adapters.md)."
        )
    refuse_oblong(tower, name)


def _plain(value: Any) -> Any:
    """Return a setting of a processor as numbers: sizes are objects of their own in newer versions."""
    if isinstance(value, (str, int, float, list, tuple, dict)) or value is None:
        return value
    return {key: side for key, side in dict(value).items() if side}


def _check_report(report: Mapping[str, Any], name: str) -> None:
    """Raise ModelError where weights are missing or misshapen: transformers would draw them at random."""
    missing = sorted(key for key in report.get("missing_keys", ()) if "pooler" not in key)
    misshapen = sorted(str(key if isinstance(key, str) else key[0]) for key in report.get("mismatched_keys", ()))
    if missing or misshapen:
        raise ModelError(
            f"{name} lacks {len(missing)} weights ({', '.join(missing[:3])}) and has {len(misshapen)} of another shape "
            f"({', '.join(misshapen[:3])}); its architecture is not the one that AutoModel builds."
        )
