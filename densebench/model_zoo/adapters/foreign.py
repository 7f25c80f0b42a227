"""What makes an adapter of other people the same model in every run: how it is built, and what its digest covers.

Its weights may lie where torch does not see them (NumPy, ONNX, JAX), and its code may draw them. So it is built under a
fixed random state, and what it answers to two images enters its digest beside registered weights and code.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densebench.core.package import PACKAGE
from densebench.core.paths import file_digest
from densebench.model_zoo.backbone import Backbone, BackboneInfo, FeatureKey

GRID = (4, 6)
"""Patches of an image that an adapter is looked at with: few, so that large models are quick; not square, so that a
transposed grid shows."""
SUMS = 16
"""Sums with random signs that stand for a map of features."""
STEP = 2e-3
"""What they are rounded to, as a share of the features' size. Other weights that move features by a thousandth show in
nearly every case; float32 on another processor (1e-6) changes the digest in 1 of 100."""


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Fix the random states of Python, NumPy and torch within the block; after it they are what they were."""
    python, numpy = random.getstate(), np.random.get_state()  # what adapters draw from
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def images(n: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Return images (n, 3, H, W) in [0, 1]: blotches of colour under fine noise, the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    blotches = nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return 0.6 * blotches + 0.4 * torch.rand(n, 3, *size, generator=generator)


def file_of(backbone: Backbone) -> Path | None:
    """Return the file that defines an adapter's class; None where it has none, as in a notebook or a zip."""
    file = getattr(sys.modules.get(type(backbone).__module__), "__file__", None)
    return Path(file) if file and os.path.isfile(file) else None


def is_ours(backbone: Backbone) -> bool:
    """Tell whether this package defines an adapter's class: all its weights are registered then."""
    file = file_of(backbone)
    return file is not None and PACKAGE in file.parents


def identified(backbone: Backbone) -> Backbone:
    """Return the backbone with code and answers in its weights digest, where the class is not this package's.

    One without registered weights that answers nothing is another model at every call: nothing is shared then.
    """
    if is_ours(backbone) or not isinstance(getattr(backbone, "info", None), BackboneInfo):
        return backbone
    file = file_of(backbone)
    found = answers(backbone) or ("" if backbone.state_dict() else secrets.token_hex(16))
    return with_digest_of(backbone, f"{type(backbone).__name__},{file and file_digest(file)};answers={found}")


def with_digest_of(backbone: Backbone, what: str) -> Backbone:
    """Return the backbone, its digest that of its weights and of `what` else it is; copies of it keep that."""
    kind: Any = type(backbone)

    def weights_digest(self: Backbone) -> str:
        return hashlib.sha256(f"{kind.weights_digest(self)};code={what}".encode()).hexdigest()

    backbone.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, "weights_digest": weights_digest})
    return backbone


def answers(backbone: Backbone) -> str:
    """Return a digest of the features of two images, at any layer and facet declared; "" where there are none.

    It stays the same up to the rounding of float32, see `STEP`: it stands in records, which travel between machines.
    """
    info = backbone.info
    keys = [FeatureKey(), *(FeatureKey(facet=facet) for facet in info.facets if facet != "token")]
    keys += [FeatureKey(0)] if info.any_layer else []
    side = max(1, info.native_size // max(1, info.patch)) * info.patch
    for size in ((GRID[0] * info.patch, GRID[1] * info.patch), (side, side)):
        try:
            with seeded(), torch.inference_mode():
                maps = backbone.dense(images(2, size).to(backbone.device), keys).maps
                return hashlib.sha256(repr([_rounded_sums(each) for each in maps]).encode()).hexdigest()
        except (Exception, SystemExit):  # whatever an adapter raises, it raises it again where that is spoken of
            continue
    return ""


def _rounded_sums(features: Tensor) -> list[float]:
    """Return the size of features, a power of 2, and `SUMS` signed sums of them, rounded to `STEP` of it."""
    flat = features.double().flatten().cpu().numpy()
    signs = np.random.RandomState(0).randint(0, 2, (SUMS, flat.size), dtype=np.int8)  # frozen by NumPy for good
    size = math.sqrt(float((flat**2).mean()))
    scale = 2.0 ** round(math.log2(size)) if 0 < size < math.inf else 1.0
    sums = [float(flat[row == 1].sum() - flat[row == 0].sum()) / math.sqrt(flat.size) for row in signs]
    return [scale, *(float(np.round(each / scale / STEP)) for each in sums)]
