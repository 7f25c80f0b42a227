"""Group n: how COCO's categories merge. Source of the vectors: NeCo ``COCOSegmentation``, STEGO ``src/data.py``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from densebench.datasets.dataset import VOID
from densebench.datasets.sets.coco.classes import STUFF_15, STUFF_27, THINGS_12, merge_classes
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind

UNSEEN = -1
"""In a table of the reference: a category that its masks did not hold."""


def class_merges(v: Golden) -> Iterator[GoldenCheck]:
    """Masks of things and of stuff once merged, and the tables that merge them."""
    for name, merge in (("thing", THINGS_12), ("stuff", STUFF_15)):
        merged = merge_classes(v[f"{name}_raw"].cpu().numpy(), merge)
        yield v.exact(f"{name}_merged", torch.from_numpy(merged))
        stored, table = _tables(v, f"{name}_lut", merge.lookup())
        yield v.exact(f"{name}_lut", torch.where(stored == UNSEEN, stored, table))
    name = "cocostuff27_lut_from_0based_182"
    stored, table = _tables(v, name, STUFF_27.lookup(zero_based=True))
    yield v.exact(name, torch.where((stored == UNSEEN) & (table == VOID), stored, table))  # there it marks what is void


def _tables(v: Golden, name: str, lookup: object) -> tuple[Tensor, Tensor]:
    return v[name].cpu().long(), torch.as_tensor(lookup).long()


KINDS = (
    GoldenKind(
        "n_coco",
        "class merges of COCO",
        class_merges,
        "thing_raw thing_merged thing_lut stuff_raw stuff_merged stuff_lut cocostuff27_lut_from_0based_182",
    ),
)
