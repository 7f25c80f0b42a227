"""Checks of what can be asked for: layers, the final norm, facets, several reads at once."""

from __future__ import annotations

import torch

from densebench.model_zoo.backbone import FeatureKey
from densebench.model_zoo.conformance.probe import Failed, NotApplicable, Noted, Probe, differ, layer_inputs

EQUAL = 1e-7
"""Up to which features count as the very same: blocks may start with a scale of 1e-5 and change next to nothing."""


def layers(probe: Probe) -> str:
    """Every layer answers, differs from the one before, and is the same alone and among others."""
    if not probe.info.any_layer or probe.info.depth == 1:
        raise NotApplicable("one layer is declared" if probe.info.depth == 1 else "the last layer only is declared")
    images = probe.images(2)
    every = list(range(probe.info.depth))
    with torch.inference_mode():
        maps = probe.backbone.dense(images, every).maps
        turned = probe.backbone.dense(images, every[::-1]).maps[::-1]
    same = [i for i in every[1:] if not differ(maps[i], maps[i - 1], EQUAL)]
    if same:
        raise Failed(
            f"layers {', '.join(map(str, same))} equal the one before",
            "`tokens` must return the layers that are asked for, in that order.",
        )
    moved = [i for i in every if differ(turned[i], maps[i]) or differ(probe.features(images, i), maps[i])]
    if moved:
        raise Failed(
            f"layers {', '.join(map(str, moved))} depend on which others are asked for, or on their order",
            "Return layers in the order asked for; look for work in place on a layer that is returned too.",
        )
    return f"{len(maps)} layers, each its own"


def final_norm(probe: Probe) -> str:
    """norm=False leaves out the final norm of the last layer and changes no other layer."""
    if not probe.info.any_layer:
        raise NotApplicable("the last layer after its norm is all that is declared")
    images = probe.images(2)
    if probe.last and differ(probe.features(images, 0, norm=False), probe.features(images, 0)):
        raise Failed("norm changes layer 0 too", "Apply the final norm to the last layer only; others are always raw.")
    if differ(probe.features(images, norm=False), probe.features(images), EQUAL):
        return "norm changes the last layer only"
    ran = layer_inputs(probe.backbone, lambda: probe.backbone.dense(images), most=10**6)
    kind = type(probe.backbone.get_submodule(ran[-1][0])).__name__ if ran else ""
    if "layernorm" in kind.lower() or "rmsnorm" in kind.lower():
        raise Failed(
            f"norm=False changes nothing, yet the network ends in {ran[-1][0]} ({kind})",
            "Leave the final norm out where `norm` is False.",
        )
    told = probe.info.notes.get("final norm")
    why = f" (final norm: {told})" if told else ""
    raise Noted(f"norm=False changes nothing{why}", "That is right for a network without a final norm only.")


def facets(probe: Probe) -> str:
    """Every declared facet answers, of every layer, and no two are the same."""
    names = probe.info.facets
    if len(names) == 1:
        raise NotApplicable("tokens only are declared")
    images = probe.images(2)
    reads = [FeatureKey(layer, facet) for facet in names for layer in probe.ends]
    with torch.inference_mode():
        found = {r: probe.backbone.dense(images, (r.layer,), r.facet).maps[0] for r in reads}
    for i, a in enumerate(reads):
        for b in reads[:i]:
            if not differ(found[a], found[b], EQUAL):
                raise Failed(
                    f"{a.facet} of layer {a.layer} equals {b.facet} of layer {b.layer}",
                    "`tokens` must return the facet and the layer asked for; declare only facets that it has.",
                )
    return f"{', '.join(names)} of layers {', '.join(map(str, probe.ends))}"


def one_pass(probe: Probe) -> str:
    """Many layers and facets read at once are what they are one by one."""
    images = probe.images(2)
    reads = [*probe.reads, FeatureKey(probe.last, "token", False)] if probe.info.any_layer else probe.reads
    with torch.inference_mode():
        together = probe.backbone.dense_many(images, reads)
        alone = [probe.backbone.dense(images, (r.layer,), r.facet, r.norm).maps[0] for r in reads]
    wrong = [r for r, a, b in zip(reads, together, alone, strict=True) if differ(a, b)]
    if wrong:
        raise Failed(
            f"{len(wrong)} of {len(reads)} reads differ, the first is {wrong[0].facet} of layer {wrong[0].layer}",
            "`tokens_many` must return what `tokens` does, in the order of its reads.",
        )
    return f"{len(reads)} reads"
