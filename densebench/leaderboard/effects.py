"""How much single settings are known to move a score: what a list of differences is ordered by.

Every entry has its source. Where none is measured, nothing is said; the order then is by what the setting touches.
`docs/compare.md` shows the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Effect(NamedTuple):
    """What is known of one thing that two numbers can differ in."""

    words: str
    """What a reader calls it."""
    known: str = ""
    """The largest effect that is known, with its source; "" where none is."""


_HUMMINGBIRD = "docs/protocols/hummingbird.md"
_LINEAR = "docs/protocols/linear_segmentation.md"
_OVERCLUSTERING = "docs/protocols/overclustering.md"
_DIP = f"with all of preset dip 21.2 instead of 31.0 mIoU on 120 images of VOC ({_HUMMINGBIRD})"
_ABSENT = f"36.1 over the classes present instead of 31.0 mIoU on 120 images of VOC ({_HUMMINGBIRD})"
_STEPS = f"33.7 in batches of 16 instead of 28.4 mIoU in those of 128, of 260 images of VOC ({_LINEAR})"
_MASKS = f"28.6 at 448 pixels, 28.4 at 100, of one head on VOC ({_LINEAR})"
_SEARCH = "0.2 points of mIoU at a recall of 0.94, pico on scenes (docs/compare.md)"
_LAYER = "44.4 instead of 30.6 PCK in the best layer of a ViT-Ti on PF-WILLOW (docs/protocols/correspondence.md)"

EFFECTS: Mapping[str, Effect] = {
    # other things are measured
    "protocol": Effect("protocol"),
    "dataset": Effect("dataset"),
    "quantity": Effect("quantity"),
    "images": Effect("validation images"),
    "train": Effect("training images", "72.4 instead of 80.5 mIoU with 1/64 of VOC in memory (PaKA, table 1)"),
    "classes": Effect("number of classes"),
    "ignored": Effect("labels that are not evaluated"),
    "weights": Effect("weights"),
    # the largest first
    "clusters": Effect(
        "number of clusters", "12.2 at K = 21, 49.5 at K = 500 mIoU of one model on VOC (PaKA, table 3)"
    ),
    "extra_clusters": Effect("number of clusters"),
    "layer": Effect("layer", _LAYER),
    "layers": Effect("layers", _LAYER),
    "norm": Effect("final norm", "up to 15 points of mIoU, of DINOv3 (POS, A.11)"),
    "facet": Effect("facet", "44.4 of queries, 36.1 of values PCK on PF-WILLOW (docs/protocols/correspondence.md)"),
    "facets": Effect("facets"),
    "similarity": Effect("similarity of patches", _DIP),
    "temperature": Effect("temperature", _DIP),
    "memory_size": Effect("patches in memory", "70.2 with 102,400, 77.0 with 10,240,000 on VOC (HBIRD, README)"),
    "steps": Effect("optimiser steps", _STEPS),
    "batch": Effect("batch size of the training", _STEPS),
    "epochs": Effect("epochs of the training", _STEPS),
    "absent": Effect("rule for absent classes", _ABSENT),
    "ignore": Effect("labels that are not evaluated", "1 of 151 classes of ADE20K is 0 or counts (docs/datasets.md)"),
    "matching": Effect("matching of clusters and classes"),
    "seeds": Effect("seeds", f"a point or two at K = number of classes ({_OVERCLUSTERING})"),
    "subset_seeds": Effect("seeds of the memories"),
    "seed": Effect("seed"),
    "eval_size": Effect("mask size", _MASKS),
    "mask_size": Effect("mask size", _MASKS),
    "search": Effect("search", _SEARCH),
    "recall": Effect("recall of the search", _SEARCH),
    # what shapes the score, where no effect is measured
    "input_size": Effect("resolution"),
    "std": Effect("normalisation of images"),
    "mean": Effect("normalisation of images"),
    "augmentation_epochs": Effect("views of a memory image"),
    "neighbours": Effect("neighbours"),
    "learning_rate": Effect("learning rate"),
    "learning_rates": Effect("learning rates"),
    "preset": Effect("preset"),
    "version": Effect("version of the protocol", "raised where a change of code can change a score (CHANGELOG.md)"),
}
"""By field of a config, or part of a record, in order. Settings that are not here follow these."""
SMALL: Mapping[str, Effect] = {
    "kmeans": Effect("implementation of k-means", f"another optimum of much the same objective ({_OVERCLUSTERING})"),
    "memory_dtype": Effect("number type of the memory"),
    "feature_dtype": Effect("number type of features", "the last digits (docs/results.md)"),
    "precision": Effect("precision of the network", "the last digits (docs/results.md)"),
    "densebench": Effect("version of densebench", "none while the protocol's version is the same (CONTRIBUTING.md)"),
}
"""What is known to matter little: last, in order."""


def effect_of(field: str) -> Effect:
    """Return what is known of a field; of others its name, with no effect."""
    return EFFECTS.get(field) or SMALL.get(field) or Effect(field.replace("_", " "))


def place_of(field: str) -> tuple[int, str]:
    """Return where a field stands in a list, by its known effect: a key to sort by."""
    if field in EFFECTS:
        return list(EFFECTS).index(field), ""
    small = list(SMALL)
    return (len(EFFECTS) + 1 + small.index(field), "") if field in SMALL else (len(EFFECTS), field)
