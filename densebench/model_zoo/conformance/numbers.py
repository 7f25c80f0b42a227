"""Checks of numbers: normalisation, repeats, batches, finite values, precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from densebench.model_zoo.backbone import FeatureKey
from densebench.model_zoo.conformance.probe import (
    SAME,
    Failed,
    NotApplicable,
    Noted,
    Probe,
    differ,
    difference,
    layer_inputs,
)

HALF_MAX = 65504.0


def normalisation(probe: Probe) -> str:
    """The first layer gets 0 for the mean colour and 1 for one deviation more: normalised exactly once."""
    info = probe.info
    if info.mean == (0.0,) * 3 and info.std == (1.0,) * 3:
        raise NotApplicable("mean 0 and deviation 1 leave the pixels to the adapter")
    found = _first_layer(probe, lambda images: probe.backbone.dense(images))
    calls = [f"{found} gets pixels that are normalised once"]
    if probe.backbone.has_attention:
        normalise, hook = probe.backbone.normalise, probe.backbone.attention
        _first_layer(probe, lambda images: list(hook(normalise(images), [probe.last])), " of `attention`")
    for module in probe.backbone.modules():
        stated = _stated(module)
        ours = type(probe.backbone).__module__.startswith("densebench.")  # takes them from there, or from a card
        if stated and not ours and max(abs(a - b) for a, b in zip(stated, (*info.mean, *info.std), strict=True)) > 1e-3:
            raise Noted(
                f"{calls[0]}, with mean {info.mean} and deviation {info.std}, where {type(module).__name__} itself "
                f"states {stated[:3]} and {stated[3:]}",
                "Declare mean and std as the weights were trained with, unless these weights were trained otherwise.",
            )
    return calls[0]


def _stated(module: Any) -> tuple[float, ...]:
    """Return the mean and deviation that a network of timm or open_clip carries with it, () where none."""
    config = getattr(module, "pretrained_cfg", None) or {}
    mean = config.get("mean") if isinstance(config, dict) else None
    mean, std = (mean, config.get("std")) if mean else (getattr(module, f"image_{k}", None) for k in ("mean", "std"))
    return (*map(float, mean), *map(float, std)) if mean is not None and std is not None else ()


def _first_layer(probe: Probe, call: Callable[[Tensor], Any], where: str = "") -> str:
    """Return the name of the first layer with weights that the image reaches; raise Failed where its input is off."""
    colors = probe.images(1).new_tensor(
        [probe.info.mean, [m + s for m, s in zip(probe.info.mean, probe.info.std, strict=True)]]
    )
    height, width = probe.size
    zeros, ones = (
        layer_inputs(probe.backbone, partial(call, c.view(1, 3, 1, 1).repeat(1, 1, height, width))) for c in colors
    )
    reached = [
        (name, zero, one)
        for (name, zero), (_, one) in zip(zeros, ones, strict=False)
        if zero.shape == one.shape and differ(one, zero, 1e-6)
    ]
    if not reached:
        raise NotApplicable("no layer with weights is called with the image, so that it could be looked at")
    name, zero, one = reached[0]
    # the larger part: a channel of a mask beside three of colour, or a padded border, is no mistake
    right = [float(((x - want).abs() < 1e-2).float().mean()) > 0.7 for x, want in ((zero, 0.0), (one, 1.0))]
    if not all(right):
        raise Failed(
            f"{name}{where} gets {float(zero.median()):.3g} for the mean colour and {float(one.median()):.3g} for one "
            "deviation more; expected 0 and 1",
            "`pixels` are normalised already: leave out the adapter's own normalisation, or declare mean 0 and std 1.",
        )
    return name


def determinism(probe: Probe) -> str:
    """The same images give the same features again."""
    images = probe.images()
    off = difference(probe.features(images), probe.features(images))
    if not off <= 1e-5:
        raise Failed(f"features differ by {off:.1e} of their norm", "Look for dropout, random crops or random noise.")
    return f"differ by {off:.0e}"


def batch(probe: Probe) -> str:
    """An image has the same features alone, in a batch, and at another place of it."""
    images = probe.images()
    together = probe.features(images)
    alone = torch.cat([probe.features(image[None]) for image in images])
    off = max(difference(together, alone), difference(probe.features(images.flip(0)).flip(0), alone))
    if not off <= SAME:
        raise Failed(
            f"features differ by {off:.1e} of their norm",
            "Look for batch statistics (BatchNorm in training mode), means over dimension 0, or padding by batch.",
        )
    return f"differ by {off:.0e}"


def untouched(probe: Probe) -> str:
    """What comes in is not written to: it belongs to whoever asks."""
    pixels = probe.backbone.normalise(probe.images(2))
    before = pixels.clone()
    calls: dict[str, Callable[[], Any]] = {"tokens": lambda: probe.backbone.tokens(pixels, [FeatureKey(probe.last)])}
    if probe.backbone.has_attention:
        calls["attention"] = lambda: list(probe.backbone.attention(pixels, [probe.last]))
    for name, call in calls.items():
        with torch.inference_mode():
            call()
        if differ(pixels, before, 0):
            raise Failed(f"`{name}` changed its input", "Use x = x * 2 rather than x *= 2 or x.mul_(2) on the input.")
    return " and ".join(calls) + " leave it alone"


def finite(probe: Probe) -> str:
    """Features are finite, for noise and for images that are all black or all white."""
    images = torch.cat([probe.images(2), torch.zeros_like(probe.images(1)), torch.ones_like(probe.images(1))])
    kinds = ["noise", "noise", "black", "white"]
    maps = probe.maps(images)
    bad = {
        (key, kinds[i])
        for key, found in zip(probe.keys, maps, strict=True)
        for i in range(len(kinds))
        if not found[i].isfinite().all()
    }
    if bad:
        (layer, facet, _), kind = min(bad)
        raise Failed(
            f"NaN or infinity in {len(bad)} places; the first is {facet} of layer {layer} on a {kind} image",
            "Look for divisions by a deviation or norm that can be 0, and for weights that are not loaded.",
        )
    largest = max(float(found.abs().max()) for found in maps)
    return f"up to {largest:.3g} in {len(maps)} maps"


def half_precision(probe: Probe) -> str:
    """Features survive rounding to float16, in which they are cached and read."""
    maps = [*probe.maps(probe.images(2)), probe.features(probe.images(1, probe.native))]
    largest = max(float(found.abs().max()) for found in maps)
    if largest > HALF_MAX:
        raise Noted(
            f"largest feature {largest:.3g}, float16 ends at {HALF_MAX:.0f}", "Run with --feature-dtype float32."
        )
    off = max(difference(found.half(), found) for found in maps)
    if not off <= 2.0**-10:  # from there `features/source.py` refuses them
        raise Noted(f"rounding moves features by {off:.1e} of their norm", "Run with --feature-dtype float32.")
    return f"largest feature {largest:.3g}, rounding moves them by {off:.0e}"


def autocast(probe: Probe) -> str:
    """Features are floats, and in bfloat16 autocast nearly what they are in float32."""
    images = probe.images()
    kind = probe.backbone.device.type
    with torch.inference_mode():
        plain = probe.backbone.dense(images).maps[0]
        with torch.autocast(kind, torch.bfloat16):
            rough = probe.backbone.dense(images).maps[0]
    if plain.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise Failed(f"features are {plain.dtype}", "Return float32.")
    cosine = float(torch.cosine_similarity(rough.float(), plain.float(), dim=1).mean())
    if not cosine >= 0.95:
        raise Noted(
            f"mean cosine {cosine:.3f} with float32", "Run with --precision float32; look for sums over many values."
        )
    return f"{plain.dtype}; mean cosine {cosine:.4f} with float32"
