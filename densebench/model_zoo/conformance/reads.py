"""Checks of what can be asked for: layers, the final norm, facets, several keys at once."""

from __future__ import annotations

from densebench.model_zoo.backbone import FeatureKey
from densebench.model_zoo.conformance.probe import Failed, NotApplicable, Noted, Probe, differ, layer_inputs

EQUAL = 1e-7
"""Up to which features count as the very same: blocks may start with a scale of 1e-5 and change next to nothing."""


def layers(probe: Probe) -> str:
    """Every layer answers, differs from the one before, and is the same alone and among others."""
    if not probe.info.any_layer or probe.info.depth == 1:
        raise NotApplicable("one layer is declared" if probe.info.depth == 1 else "the last layer only is declared")
    images = probe.images(2)
    every = [FeatureKey(layer) for layer in range(probe.info.depth)]
    maps, turned = probe.maps(images, every), probe.maps(images, every[::-1])[::-1]
    same = [i for i in range(1, len(every)) if not differ(maps[i], maps[i - 1], EQUAL)]
    if same:
        raise Failed(
            f"layers {', '.join(map(str, same))} equal the one before",
            "`tokens` must return the layers that are asked for, in the order of its keys.",
        )
    moved = [
        i for i, key in enumerate(every) if any(differ(x, maps[i]) for x in (turned[i], probe.features(images, key)))
    ]
    if moved:
        raise Failed(
            f"layers {', '.join(map(str, moved))} depend on which others are asked for, or on their order",
            "Return layers in the order asked for; look for work in place on a layer that is returned too.",
        )
    return f"{len(maps)} layers, each its own"


def final_norm(probe: Probe) -> str:
    """norm=False leaves out the final norm of the last layer."""
    if not probe.info.any_layer:
        raise NotApplicable("the last layer after its norm is all that is declared")
    images = probe.images(2)
    if differ(probe.features(images, FeatureKey(norm=False)), probe.features(images), EQUAL):
        return "norm changes the last layer"
    ran = layer_inputs(probe.backbone, lambda: probe.backbone.dense(images), most=10**6)
    kind = type(probe.backbone.get_submodule(ran[-1][0])).__name__ if ran else ""
    if "layernorm" in kind.lower() or "rmsnorm" in kind.lower():
        raise Failed(
            f"norm=False changes nothing, yet the network ends in {ran[-1][0]} ({kind})",
            "Leave the final norm out where `norm` of a key is False.",
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
    keys = [FeatureKey(layer, facet) for facet in names for layer in probe.ends]
    found = {key: probe.features(images, key) for key in keys}
    for i, a in enumerate(keys):
        for b in keys[:i]:
            if not differ(found[a], found[b], EQUAL):
                raise Failed(
                    f"{a.facet} of layer {a.layer} equals {b.facet} of layer {b.layer}",
                    "`tokens` must return the facet and the layer asked for; declare only facets that it has.",
                )
    return f"{', '.join(names)} of layers {', '.join(map(str, probe.ends))}"


def one_pass(probe: Probe) -> str:
    """Many layers and facets read at once are what they are one by one."""
    images = probe.images(2)
    keys = [*probe.keys, FeatureKey(probe.last, "token", False)] if probe.info.any_layer else probe.keys
    together, alone = probe.maps(images, keys), [probe.features(images, key) for key in keys]
    wrong = [key for key, a, b in zip(keys, together, alone, strict=True) if differ(a, b)]
    if wrong:
        raise Failed(
            f"{len(wrong)} of {len(keys)} keys differ, the first is {wrong[0].facet} of layer {wrong[0].layer}",
            "`tokens` must return one tensor per key, in their order, whichever others are asked for.",
        )
    return f"{len(keys)} keys"
