"""Adapter over timm: every plain ViT with patch tokens and a free input size.

The data config (mean, std, interpolation, native size) and the number of prefix tokens are read from the model
itself. Keys, queries and values are projected again from the attention's input (`timm_attention`).

The final norm is timm's `norm`. Nets that norm the mean over patches instead (`fc_norm`) have none: their tokens are
raw, here as in timm. EVA and EVA-02 are the exception: their own code puts patch tokens through that norm
(`return_patch_tokens` of `modeling_finetune.py`, baaivision/EVA), and in their masked pretraining it ends every token
(`modeling_pretrain.py`, where it is called `norm`; timm loads it as `fc_norm`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densebench.core.errors import ModelError
from densebench.core.registry import unknown_name
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.adapters.timm_attention import attend, attention_modules, is_plain, project, readable_facets
from densebench.model_zoo.backbone import Backbone, BackboneInfo, OnePassBackbone, Read


class TimmBackbone(OnePassBackbone):
    """A timm VisionTransformer, Eva (DINOv3, EVA-02) or NaFlexVit (C-RADIO) behind the backbone contract."""

    def __init__(self, net: Any, name: str, **info: Any) -> None:
        super().__init__()
        embeds: Any = getattr(net, "embeds", net)  # of NaFlexVit, which has patches and class token in one module
        for needed in ("blocks", "num_prefix_tokens", "forward_intermediates"):
            if not hasattr(net, needed):
                raise ModelError(
                    f"{name} has no `{needed}`: it is not a plain ViT with patch tokens. "
                    "Run `densebench list models 'timm/*vit*'` for those that are."
                )
        import timm.data

        self.net: Any = net  # timm's attributes are not typed
        config = timm.data.resolve_model_data_config(net)
        attentions = attention_modules(net)
        self.final, told = _final_norm(net)
        declared: dict[str, Any] = {
            "name": name,
            "patch": int(embeds.patch_size[0] if embeds is not net else net.patch_embed.feat_ratio()),
            "width": int(net.embed_dim),
            "depth": len(net.blocks),
            "heads": int(attentions[0].num_heads) if attentions else 1,
            "prefix": int(net.num_prefix_tokens),
            "has_class_token": getattr(embeds, "cls_token", None) is not None,
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
            "interpolation": config["interpolation"],
            "native_size": int(config["input_size"][-1]),
            "facets": readable_facets(attentions, int(net.embed_dim)),
            "any_layer": True,
            "attention": bool(attentions) and all(is_plain(module) for module in attentions),
            "licence": str(net.pretrained_cfg.get("license", "")),
            "citation": str(net.pretrained_cfg.get("origin_url", "")),
        }
        self.info = BackboneInfo(**{**declared, **info, "notes": {"final norm": told, **info.get("notes", {})}})

    def weights_digest(self) -> str:
        """Return the digest of the weights; another where `fc_norm` is applied to tokens, which timm does not."""
        digest = super().weights_digest()
        return hashlib.sha256(f"{digest};norm=fc_norm".encode()).hexdigest() if self.final == "fc_norm" else digest

    def tokens_many(self, pixels: Tensor, reads: Sequence[Read]) -> list[Tensor]:
        """Return block outputs and projections of all reads from exactly one forward pass."""
        outputs, inputs = self._forward(
            pixels,
            sorted({read.layer for read in reads if read.facet == "token"}),
            sorted({read.layer for read in reads if read.facet != "token"}),
        )
        last = self.info.depth - 1
        found: dict[Read, Tensor] = {}
        for read in reads:
            if read in found:
                continue
            if read.facet != "token":
                found[read] = project(self.net.blocks[read.layer].attn, inputs[read.layer][0], read.facet)
            else:
                tokens = outputs[read.layer]
                found[read] = getattr(self.net, self.final)(tokens) if read.norm and read.layer == last else tokens
        return [found[read] for read in reads]

    def attentions(self, images: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the attention of each layer; one forward pass gives what enters all of them."""
        if not self.info.attention:
            block = self.net.blocks[0]
            kind = type(getattr(block, "attn", block)).__name__
            raise ModelError(
                f"{self.info.name} has attention of a kind ({kind}) that its keys and queries do not tell. "
                "Wrap it in an adapter with a method `attention` of its own."
            )
        indices = [layer % self.info.depth for layer in layers]
        _, inputs = self._forward(self.normalise(images), [], sorted(set(indices)))
        for index in indices:
            yield attend(self.net.blocks[index].attn, *inputs[index])

    def _forward(
        self, pixels: Tensor, outputs: list[int], inputs: list[int]
    ) -> tuple[dict[int, Tensor], dict[int, tuple[Tensor, Tensor | None]]]:
        """Run the net once, up to the last layer asked for.

        Returns the outputs (B, N, D) of some blocks, and what enters the attention of some: its input (B, N, D) and
        the angles by which keys and queries are rotated, None where they are not.
        """
        seen: dict[int, tuple[Tensor, Tensor | None]] = {}

        def keep(index: int, module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> None:
            seen[index] = args[0] if args else kwargs["x"], kwargs.get("rope")

        blocks, prefix = self.net.blocks, self.info.prefix
        indices = sorted({*outputs, max([*outputs, *inputs])})
        handles = [blocks[i].attn.register_forward_pre_hook(partial(keep, i), with_kwargs=True) for i in inputs]
        try:
            found = self.net.forward_intermediates(
                pixels,
                indices=indices,
                norm=False,
                stop_early=True,
                output_fmt="NLC",
                return_prefix_tokens=prefix > 0,
                intermediates_only=True,
            )
        finally:
            for handle in handles:
                handle.remove()
        tokens = [torch.cat([first, patches], dim=1) for patches, first in found] if prefix else found
        return dict(zip(indices, tokens, strict=True)), seen


def _final_norm(net: Any) -> tuple[str, str]:
    """Return the name of the norm that ends every token, and what to say of it; see the module's docstring."""
    kinds = {name: type(getattr(net, name, nn.Identity())).__name__ for name in ("norm", "fc_norm")}
    if kinds["norm"] != "Identity":
        return "norm", f"norm ({kinds['norm']})"
    if kinds["fc_norm"] == "Identity":
        return "norm", "none"
    if str(net.pretrained_cfg.get("architecture", "")).startswith("eva"):
        return "fc_norm", f"fc_norm ({kinds['fc_norm']}), as in its authors' code; timm itself gives tokens without"
    return "norm", f"none; fc_norm ({kinds['fc_norm']}) belongs to the mean over patches"


class FixedSizeError(ModelError):
    """A net that does not take `dynamic_img_size`: no plain ViT, perhaps a CNN."""


def check_known(spec: ModelSpec) -> None:
    """Raise UsageError, with the nearest, for a network or a tag that timm has not."""
    import timm

    name = spec.name.partition(":")[0]
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        known = timm.list_models(pretrained=False) + timm.list_pretrained()
        raise unknown_name("model", spec.text, [f"timm/{each}" for each in known])
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # how timm says that the tag is none of the network's
        tags = [f"timm/{each}" for each in timm.list_pretrained(f"{architecture}.*")]
        raise unknown_name("model", spec.text, [f"timm/{architecture}", *tags]) from None


def load(spec: ModelSpec, kwargs: Mapping[str, Any] | None = None, **info: Any) -> Backbone:
    """Build `timm/NAME` with hub weights, a local file, or random weights; nets without patch tokens are stages.

    `kwargs` are arguments of the architecture, `info` replaces what timm says of it.
    """

    from densebench.model_zoo.adapters import cnn

    name, colon, _ = spec.name.partition(":")
    check_known(spec)
    if colon:
        return cnn.load(spec)
    try:
        net = made(spec, partial(_build, name, **(kwargs or {})))
    except FixedSizeError:
        return cnn.load(spec)
    if not hasattr(net, "blocks"):  # Swin takes any size, and has stages
        return cnn.load(spec)
    return TimmBackbone(net, spec.text, notes=fill(net, spec), **info)


def create(architecture: str, seed: int = 0, **kwargs: Any) -> nn.Module:
    """Return a timm model without classifier, random weights drawn from `seed`, any input size allowed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(architecture, **kwargs)


def made(spec: ModelSpec, build: Callable[..., nn.Module]) -> nn.Module:
    """Return the net of `build(pretrained=...)`, with the hub's weights unless random ones or a file's are asked for.

    Raises ModelError where the hub's cannot be had.
    """
    from densebench.model_zoo.files.fetch import ask_for_timm

    from_hub = not spec.random and spec.weights is None
    if from_hub:
        ask_for_timm(spec.text, spec.name.partition(":")[0])
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.random_seed or 0)
            return build(pretrained=from_hub)
    except (OSError, RuntimeError) as error:  # hub errors are OSErrors; timm raises RuntimeError without weights
        if not from_hub:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the weights of {spec.text} could not be fetched ({reason}). Give a local file with --weights FILE, "
            f"or ask for random weights with '{spec.text}?random'."
        ) from error


def fill(net: nn.Module, spec: ModelSpec) -> dict[str, Any]:
    """Load the file that --weights names, if any, and return what is to be noted of it: the keys left out.

    And, as `loading`, sentences for the user: which of several networks was taken, whose preprocessing it gets.
    Raises ModelError as `find_network` and `checkpoint.fit` do.
    """
    from densebench.model_zoo.files.checkpoint import by_timm, fit, read
    from densebench.model_zoo.files.wrappers import find_network, sentence

    if spec.weights is None:
        return {}
    where = spec.weights.name
    found = read(spec.weights)
    network, others = find_network(found, spec.entry, net.state_dict(), where)
    said: list[str] = []
    state, left_out = by_timm(found if network is None else network.inner, net)
    if network is not None:
        whole = (state, left_out) if spec.entry or others else by_timm(found, net)
        if state.keys() != net.state_dict().keys() == whole[0].keys():  # a layout that timm knows by its prefix
            state, left_out = whole
        else:
            left_out = network.outer + left_out
            said += filter(None, [sentence(network, others, left_out, where)])
    fit(net, state, spec.text, where)
    name = spec.name.partition(":")[0]
    if spec.text.startswith("timm/") and "." not in name:
        said.append(_borrowed(net, f"timm/{name}", where))
    return {"left out": left_out, "loading": tuple(said)}


def _borrowed(net: Any, asked: str, where: str) -> str:
    """Return what to say where preprocessing is that of timm's default tag, and the file may be trained with another.

    Files of one architecture have the same names and shapes, whatever they were trained with: nothing in them tells.
    """
    import timm.data

    config = timm.data.resolve_model_data_config(net)
    mean, std = (", ".join(f"{value:g}" for value in config[key]) for key in ("mean", "std"))
    tag = net.pretrained_cfg.get("tag") or "no tag"
    return (
        f"{where}: mean {mean}, deviation {std} and {config['interpolation']} resampling are those of {asked} "
        f"({tag}), not read from the file. Where it was trained with others, name the tag that has them "
        f"({asked}.TAG; `densebench list models '{asked}.*'`) or a name of the catalogue."
    )


def _build(name: str, **kwargs: Any) -> nn.Module:
    import timm

    free = {} if name.startswith("naflexvit") else {"dynamic_img_size": True}  # which takes any size as it is
    try:
        return timm.create_model(name, num_classes=0, **{**free, **kwargs})
    except TypeError as error:
        raise FixedSizeError(
            f"timm/{name} does not take free input sizes ({error}): it is not a plain ViT. "
            "Wrap it in an adapter of your own (docs/adapters.md) to evaluate it at its native size."
        ) from error
