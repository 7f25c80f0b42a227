"""Networks of timm: found by name, built, and filled with weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from densebench.core.errors import ModelError
from densebench.core.registry import unknown_name
from densebench.model_zoo.families import ModelSpec


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


def create(architecture: str, seed: int = 0, **kwargs: Any) -> nn.Module:
    """Return a timm model without classifier, random weights drawn from `seed`, any input size allowed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_free(architecture, **kwargs)


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


def described(net: Any) -> dict[str, Any]:
    """Return what timm says of the preprocessing and the origin of a net's weights, as fields of `BackboneInfo`."""
    import timm.data

    config, weights = timm.data.resolve_model_data_config(net), net.pretrained_cfg
    return {
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": config["interpolation"],
        "native_size": int(config["input_size"][-1]),
        "licence": str(weights.get("license", "")),
        "citation": str(weights.get("origin_url", "")),
    }


def _borrowed(net: Any, asked: str, where: str) -> str:
    """Return what to say where preprocessing is that of timm's default tag, and the file may be trained with another.

    Files of one architecture have the same names and shapes, whatever they were trained with: nothing in them tells.
    """
    said = described(net)
    mean, std = (", ".join(f"{value:g}" for value in said[key]) for key in ("mean", "std"))
    tag = net.pretrained_cfg.get("tag") or "no tag"
    return (
        f"{where}: mean {mean}, deviation {std} and {said['interpolation']} resampling are those of {asked} "
        f"({tag}), not read from the file. Where it was trained with others, name the tag that has them "
        f"({asked}.TAG; `densebench list models '{asked}.*'`) or a name of the catalogue."
    )


def build_free(name: str, **kwargs: Any) -> nn.Module:
    """Return a timm model without classifier that takes any input size; raises FixedSizeError for one that cannot."""
    import timm

    free = {} if name.startswith("naflexvit") else {"dynamic_img_size": True}  # which takes any size as it is
    try:
        return timm.create_model(name, num_classes=0, **{**free, **kwargs})
    except TypeError as error:
        raise FixedSizeError(
            f"timm/{name} does not take free input sizes ({error}): it is not a plain ViT. "
            "Wrap it in an adapter of your own (docs/adapters.md) to evaluate it at its native size."
        ) from error
