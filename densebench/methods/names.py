"""The names of methods: a new one is a file here, its settings in `configs`, and a line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from densebench.core.registry import Registry

if TYPE_CHECKING:
    from densebench.methods.method import Method

Segmenter = Callable[[NDArray[np.float32], NDArray[np.uint8]], NDArray[np.integer[Any]]]
"""From features (h, w, D) and the image (H, W, 3) that they are of, to segment numbers (h, w); pure."""

METHODS: Registry[type[Method]] = Registry("method", group="densebench.methods")
for _name, _class, _summary in (
    ("paka", "Paka", "patch-level kernel alignment by CKA, clean teacher"),
    ("neco", "Neco", "patch ordering by differentiable sorting"),
    ("dip", "Dip", "in-context segmentation tasks from pseudo-labels"),
    ("hog", "Hog", "regression of gradient histograms, as in MaskFeat (Wei et al. 2022)"),
    ("dino", "Dino", "self-distillation of image-level prototypes (Caron et al. 2021)"),
):
    _room = "densebench.methods"
    METHODS.add(_name, f"{_room}.{_name}:{_class}", _summary, config=f"{_room}.configs.{_name}:{_class}Config")

SEGMENTERS: Registry[Segmenter] = Registry("segmenter", group="densebench.segmenters")
SEGMENTERS.add("features", "densebench.ops.segments:merge_patches", "merges alike neighbours in the patch grid")
