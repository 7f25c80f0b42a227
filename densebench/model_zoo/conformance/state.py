"""Checks of the module: eval mode, gradients, registered weights, copies, what a pass takes."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from densebench.model_zoo.backbone import Backbone
from densebench.model_zoo.conformance.probe import Failed, NotApplicable, Noted, PeakTensors, Probe, differ


def eval_mode(probe: Probe) -> str:
    """Dropout, drop path and batch statistics are off, before and after a forward pass."""
    probe.backbone.eval()
    probe.features(probe.images(1))
    names = [name or "the adapter" for name, module in probe.backbone.named_modules() if module.training]
    if names:
        raise Failed(
            f"{len(names)} modules are in training mode after eval(): {', '.join(names[:3])}",
            "Do not call train() in the adapter, and let train(mode) reach every part.",
        )
    return "every module is in eval mode"


def gradients(probe: Probe) -> str:
    """Gradients reach the images and the weights, as fine-tuning needs."""
    images = probe.images(1).requires_grad_()
    parameters = dict(probe.backbone.named_parameters())
    frozen = [p for p in parameters.values() if not p.requires_grad]
    try:
        for p in frozen:
            p.requires_grad_()
        features = probe.backbone.dense(images).maps[0]
        if not features.requires_grad:
            raise Noted("none: the features are cut off from images and weights", "Leave out no_grad and detach().")
        # any direction: the mean and the square of a LayerNorm's output are constant
        direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features.device)
        wanted = [images, *parameters.values()]
        image, *others = torch.autograd.grad((features.float() * direction).sum(), wanted, allow_unused=True)
    finally:
        for p in frozen:
            p.requires_grad_(False)
    reached = sum(grad is not None for grad in others)
    if image is None or not image.isfinite().all() or not image.any() or (parameters and not reached):
        raise Noted(
            f"images {'get none' if image is None else 'get them'}, {reached} of {len(others)} weights do",
            "Leave out no_grad, detach() and work in numpy where the backbone shall be fine-tuned.",
        )
    return f"the images and {reached} of {len(others)} weights get them"


def weights(probe: Probe) -> str:
    """All weights are registered, so that the digest covers them and the cache never takes one model for another."""
    registered = set(probe.backbone.modules())
    for module in registered:
        for name, value in vars(module).items():
            parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            if name != "_modules" and any(isinstance(part, nn.Module) and part not in registered for part in parts):
                raise Failed(
                    "state_dict() does not hold the modules in "
                    f"{type(module).__name__}.{name}, a {type(value).__name__}",
                    "Keep modules as attributes or in nn.ModuleList; the digest and .to(device) miss these.",
                )
    state = probe.backbone.state_dict()
    if not state:
        raise Noted(
            "no weights are registered; what it answers to two images stands for them in the digest",
            "Keep the network as an attribute (self.net = ...), or its weights as buffers.",
        )
    flags = {p: p.requires_grad for p in probe.backbone.parameters()}
    try:
        probe.backbone.requires_grad_(False)
        hidden = probe.backbone.dense(probe.images(1)).maps[0].requires_grad
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)
    if hidden:
        raise Failed(
            "features depend on weights that state_dict() does not hold",
            "Keep modules as attributes or in nn.ModuleList; a plain list or dict hides them.",
        )
    return f"{sum(p.numel() for p in flags) / 1e6:.2f} M parameters, digest {probe.backbone.weights_digest()[:12]}"


def construction(probe: Probe) -> str:
    """Built again it is the same model, and none of its weights are drawn at random."""
    if probe.rebuild is None:
        raise NotApplicable("it is given as an object; check-model builds it again")
    others = _others(probe.backbone, probe.rebuild(0))
    if others:
        raise Failed(
            f"built again under the same random state, it has other {others}: another model in every run",
            "Load weights, or draw them from torch's, NumPy's or Python's own random state, which is fixed by then.",
        )
    drawn = _others(probe.backbone, probe.rebuild(1))
    if drawn:
        raise Noted(
            f"drawn at random: {drawn}; the same in every run, as the random state is fixed when it is built",
            "Load weights (pretrained=True, load_state_dict) unless a random network is meant.",
        )
    return f"built three times, under two random states: digest {probe.backbone.weights_digest()[:12]}"


def _others(one: Backbone, other: Backbone) -> str:
    """Return which weights two builds of an adapter do not share, in words; "" for none."""
    ours, theirs = one.state_dict(), other.state_dict()
    names = [
        name
        for name, tensor in ours.items()
        if name not in theirs or not torch.equal(tensor.cpu(), theirs[name].cpu().to(tensor.dtype))
    ]
    if names:
        return f"weights {', '.join(names[:3])}" + (f" and {len(names) - 3} more of {len(ours)}" if names[3:] else "")
    return "" if one.weights_digest() == other.weights_digest() else "weights that state_dict() does not hold"


def copies(probe: Probe) -> str:
    """A deep copy and a reloaded state give the same features, and no forward pass changes the digest."""
    images = probe.images(1)
    digest, expected = probe.backbone.weights_digest(), probe.features(images)
    probe.features(probe.images(1, probe.native))
    if probe.backbone.weights_digest() != digest:
        raise Failed(
            "the digest changes with a forward pass",
            "Keep what a pass computes out of the state: BatchNorm in eval mode, buffers with persistent=False.",
        )
    twin = copy.deepcopy(probe.backbone)
    if twin.weights_digest() != digest or differ(probe.features(images, backbone=twin), expected):
        raise Failed("a deep copy gives other features or another digest", "Let everything be copied; no closures.")
    state = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            if tensor.is_floating_point():
                tensor.zero_()
    if state and not differ(probe.features(images, backbone=twin), expected, 1e-6):
        raise Failed("features stay when all weights are 0", "Register the weights that are used; see `weights`.")
    twin.load_state_dict(state)
    if differ(probe.features(images, backbone=twin), expected):
        raise Failed("features are others after load_state_dict", "Derive nothing from weights in __init__.")
    return f"digest {digest[:12]} stays"


def cost(probe: Probe) -> str:
    """What one image of native size takes is stated: seconds, and memory beside the weights."""
    image = probe.images(1, probe.native)
    device = image.device
    with PeakTensors([*probe.backbone.parameters(), *probe.backbone.buffers(), image]) as memory:
        probe.features(image)
    start = time.perf_counter()
    probe.features(image)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    size = "x".join(map(str, probe.native))
    return f"{seconds:.2g} s and {memory.peak / 1e6:.1f} MB of tensors for one image of {size} on {device.type}"
