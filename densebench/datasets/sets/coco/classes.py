"""COCO's categories, and how the papers merge them: 12 things, 15 stuff, 27 of both, and the unmerged 80 and 171.

Category ids are COCO's: 1..90 are things (80 of them in use), 92..182 stuff, 183 whatever is not stuff. Sources:
things and their super-categories from cocodataset/panopticapi @ 7bb4655 ``panoptic_coco_categories.json``; stuff from
nightrome/cocostuff @ 876a7db ``labels.txt``; its super-categories from STEGO @ eb4d6b5 ``src/data.py``, spelled as in
panopticapi. The rule that gives the merged ids, names in alphabetical order, is NeCo's @ 3932160
``data/coco/coco_data_module.py``; the order of the 27 is STEGO's ``src/train_segmentation.py``.

Masks come in three numberings. Panoptic PNGs hold category ids, but only 53 stuff classes, some of them merged under
ids of their own: read things from them, never stuff. Stuff pixel maps hold category ids of stuff, 0 for things and 183
for other. COCO-Stuff's ``stuffthingmaps`` hold category ids minus one, 255 for unlabelled: they are ``zero_based``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densebench.datasets.dataset import VOID


def _members(text: str) -> dict[int, str]:
    """Read "27 backpack, 28 umbrella" as names by category id."""
    numbered = (entry.strip().split(" ", 1) for entry in text.split(","))
    return {int(number): name for number, name in numbered}


THINGS: Mapping[str, Mapping[int, str]] = MappingProxyType({
    "accessory": _members("27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase"),
    "animal": _members(
        "16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe"
    ),
    "appliance": _members("78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator"),
    "electronic": _members("72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell phone"),
    "food": _members(
        "52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake"
    ),
    "furniture": _members("62 chair, 63 couch, 64 potted plant, 65 bed, 67 dining table, 70 toilet"),
    "indoor": _members("84 book, 85 clock, 86 vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush"),
    "kitchen": _members("44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl"),
    "outdoor": _members("10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench"),
    "person": _members("1 person"),
    "sports": _members(
        "34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, "
        "41 skateboard, 42 surfboard, 43 tennis racket"
    ),
    "vehicle": _members("2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat"),
})  # fmt: skip
"""The 80 things by super-category, names by category id."""

STUFF: Mapping[str, Mapping[int, str]] = MappingProxyType({
    "building": _members("95 bridge, 96 building-other, 128 house, 151 roof, 158 skyscraper, 166 tent"),
    "ceiling": _members("102 ceiling-other, 103 ceiling-tile"),
    "floor": _members(
        "101 carpet, 114 floor-marble, 115 floor-other, 116 floor-stone, 117 floor-tile, 118 floor-wood"
    ),
    "food-stuff": _members("121 food-other, 122 fruit, 153 salad, 170 vegetable"),
    "furniture-stuff": _members(
        "98 cabinet, 107 counter, 108 cupboard, 110 desk-stuff, 112 door-stuff, 123 furniture-other, 130 light, "
        "133 mirror-stuff, 156 shelf, 161 stairs, 165 table"
    ),
    "ground": _members(
        "111 dirt, 125 gravel, 126 ground-other, 136 mud, 140 pavement, 144 platform, 145 playingfield, 147 railroad, "
        "149 road, 154 sand, 159 snow"
    ),
    "plant": _members(
        "94 branch, 97 bush, 119 flower, 124 grass, 129 leaves, 134 moss, 142 plant-other, 163 straw, 169 tree"
    ),
    "raw-material": _members("100 cardboard, 132 metal, 139 paper, 143 plastic"),
    "sky": _members("106 clouds, 157 sky-other"),
    "solid": _members("127 hill, 135 mountain, 150 rock, 160 solid-other, 162 stone, 182 wood"),
    "structural": _members("99 cage, 113 fence, 138 net, 146 railing, 164 structural-other"),
    "textile": _members(
        "92 banner, 93 blanket, 104 cloth, 105 clothes, 109 curtain, 131 mat, 137 napkin, 141 pillow, 152 rug, "
        "167 textile-other, 168 towel"
    ),
    "wall": _members(
        "171 wall-brick, 172 wall-concrete, 173 wall-other, 174 wall-panel, 175 wall-stone, 176 wall-tile, "
        "177 wall-wood"
    ),
    "water": _members("120 fog, 148 river, 155 sea, 178 water-other, 179 waterdrops"),
    "window": _members("180 window-blind, 181 window-other"),
})  # fmt: skip
"""The 91 stuff classes by super-category, names by category id: fog is water, stairs and lights are furniture."""

REMOVED: Mapping[str, tuple[int, ...]] = MappingProxyType({
    "accessory": (26, 29, 30), "appliance": (83,), "furniture": (66, 68, 69, 71), "indoor": (91,), "kitchen": (45,),
    "outdoor": (12,),
})  # fmt: skip
"""Ids of things that COCO never annotated, such as 26 hat; STEGO's table has them all the same."""

ORDER27 = (
    "electronic", "appliance", "food", "furniture", "indoor", "kitchen", "accessory", "animal", "outdoor", "person",
    "sports", "vehicle", "ceiling", "floor", "food-stuff", "furniture-stuff", "raw-material", "textile", "wall",
    "window", "building", "ground", "plant", "sky", "solid", "structural", "water",
)  # fmt: skip


@dataclass(frozen=True)
class ClassMerge:
    """A map from COCO's category ids to classes."""

    classes: tuple[str, ...]
    """Names by merged id."""
    members: Mapping[int, int]
    """Merged id by category id; all other categories are void."""

    def lookup(self, zero_based: bool = False) -> NDArray[np.uint8]:
        """Return the (256,) table from the values in a mask to merged ids, 255 = void."""
        table = np.full(256, VOID, dtype=np.uint8)
        for category, merged in self.members.items():
            table[category - zero_based] = merged
        return table


def merge_classes(ids: NDArray[Any], merge: ClassMerge, *, zero_based: bool = False) -> NDArray[np.uint8]:
    """Return a mask of merged classes of the same shape, 255 = void, from a mask of category ids.

    Args:
        ids: integers in 0..255, any shape.
        merge: one of :data:`THINGS_12`, :data:`STUFF_15`, :data:`STUFF_27`, :data:`THINGS_80`, :data:`STUFF_171`.
        zero_based: the mask holds category ids minus one, as ``stuffthingmaps`` do.

    Raises:
        ValueError: values that are no integers in 0..255, such as colours not yet decoded to ids.

    >>> merge_classes(np.array([1, 18, 0, 92]), THINGS_12)
    array([  9,   1, 255, 255], dtype=uint8)
    """
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"category ids are integers, got {ids.dtype}")
    if ids.size and not 0 <= ids.min() <= ids.max() <= 255:
        raise ValueError(f"category ids span {ids.min()}..{ids.max()}, expected 0..255")
    return merge.lookup(zero_based)[ids]


def _coarse(order: tuple[str, ...], *groups: Mapping[str, Mapping[int, str]], removed: bool = False) -> ClassMerge:
    """Return the merge of categories into their super-categories, numbered in the order given."""
    everything = {name: tuple(members) for group in groups for name, members in group.items()}
    extra = REMOVED if removed else {}
    return ClassMerge(
        order, {i: merged for merged, name in enumerate(order) for i in (*everything[name], *extra.get(name, ()))}
    )


def _fine(*groups: Mapping[str, Mapping[int, str]]) -> ClassMerge:
    """Return the categories unmerged, numbered from 0 without gaps in the order of their ids."""
    names = {i: name for group in groups for members in group.values() for i, name in members.items()}
    ids = sorted(names)
    return ClassMerge(tuple(names[i] for i in ids), {category: merged for merged, category in enumerate(ids)})


THINGS_12 = _coarse(tuple(sorted(THINGS)), THINGS)
"""COCO-things of NeCo, Leopart and PaKA; panoptic ids."""
STUFF_15 = _coarse(tuple(sorted(STUFF)), STUFF)
"""COCO-stuff of NeCo, Leopart and PaKA; ids of the stuff pixel maps."""
STUFF_27 = _coarse(ORDER27, THINGS, STUFF, removed=True)
"""COCO-Stuff-27 of STEGO and of the study of positional effects; the masks it is used with are zero-based."""
THINGS_80 = _fine(THINGS)
"""All things, as detection numbers them."""
STUFF_171 = _fine(THINGS, STUFF)
"""COCO-Stuff-164K of the Segmenter experiments: all things and stuff; the masks it is used with are zero-based."""
