"""What a scene can contain: classes, parts, keypoints and the colours that show them.

Index 0 is `background`: unnamed clutter (boards, blocks, blobs) that really occurs in the images, as in VOC.
Masks use 255 for ignored pixels. Part ids are global over classes; 0 means "no part" (stuff and background).
"""

from __future__ import annotations

IGNORE = 255

CLASSES: tuple[str, ...] = (
    "background", "sky", "wall", "floor", "road", "grass", "water", "hill",
    "house", "tree", "car", "boat", "bicycle", "person", "horse", "dog", "elephant", "bird",
    "table", "chair", "lamp", "bottle", "plant",
)  # fmt: skip
"""Class names by mask value; 1 to 7 are stuff, 8 and up are things made of parts."""

FIRST_THING = 8
CLASS_ID: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}

PALETTE: tuple[tuple[int, int, int], ...] = (
    (58, 62, 74), (158, 205, 238), (222, 203, 178), (176, 141, 112), (132, 136, 148), (158, 201, 112),
    (74, 140, 199), (112, 148, 128),
    (205, 92, 76), (46, 125, 70), (240, 168, 48), (250, 240, 222), (120, 84, 190), (233, 92, 146),
    (140, 82, 48), (250, 208, 92), (214, 150, 214), (64, 196, 196), (190, 112, 58), (150, 40, 70),
    (252, 236, 120), (40, 150, 140), (120, 220, 150),
)  # fmt: skip
"""Display colour (R, G, B), 0 to 255, of every class."""

PARTS_OF: dict[str, tuple[str, ...]] = {
    "house": ("facade", "roof", "door", "window", "chimney"),
    "tree": ("trunk", "crown"),
    "car": ("body", "cabin", "window", "wheel"),
    "boat": ("hull", "mast", "sail"),
    "bicycle": ("wheel", "frame", "handlebar", "saddle"),
    "person": ("head", "torso", "arm", "leg"),
    "horse": ("head", "neck", "body", "leg", "tail"),
    "dog": ("head", "ear", "body", "leg", "tail"),
    "elephant": ("head", "ear", "trunk", "body", "leg", "tail"),
    "bird": ("head", "beak", "body", "wing", "tail", "leg"),
    "table": ("top", "leg"),
    "chair": ("seat", "back", "leg"),
    "lamp": ("shade", "pole", "base"),
    "bottle": ("body", "neck", "cap", "label"),
    "plant": ("pot", "stem", "leaf"),
}
"""Part names of every thing class, in the order of their global ids."""

PARTS: tuple[str, ...] = ("none", *(f"{cls}/{part}" for cls, parts in PARTS_OF.items() for part in parts))
"""Global part names by part id; 0 is "none"."""

PART_ID: dict[str, int] = {name: index for index, name in enumerate(PARTS)}

KEYPOINTS: dict[str, tuple[str, ...]] = {
    "house": ("door top", "door foot", "near ridge", "far ridge", "left foot", "right foot", "window"),
    "tree": ("foot", "trunk middle", "top", "left", "right"),
    "car": ("front wheel", "back wheel", "front bumper", "back bumper", "roof front", "roof back"),
    "boat": ("bow", "stern", "mast top", "mast foot", "sail corner"),
    "bicycle": ("front hub", "back hub", "saddle", "handlebar", "pedals", "fork head"),
    "person": ("crown", "neck", "near hand", "far hand", "hip", "near knee", "near foot", "far foot"),
    "horse": ("nose", "ear", "withers", "rump", "tail tip", "near fore hoof", "near hind hoof", "belly"),
    "dog": ("nose", "ear", "withers", "rump", "tail tip", "near fore paw", "near hind paw", "belly"),
    "elephant": ("trunk tip", "ear", "forehead", "rump", "tail tip", "near fore foot", "near hind foot", "belly"),
    "bird": ("beak tip", "crown", "breast", "wing tip", "tail tip", "rump"),
    "table": ("left corner", "near corner", "right corner", "far corner", "left foot", "near foot", "right foot"),
    "chair": ("back left", "back right", "seat front left", "seat front right", "foot front left",
              "foot front right"),
    "lamp": ("shade top", "shade left", "shade right", "pole middle", "base"),
    "bottle": ("cap", "neck foot", "left shoulder", "right shoulder", "foot left", "foot right"),
    "plant": ("rim left", "rim right", "pot foot", "stem foot", "top leaf"),
}  # fmt: skip
"""Ordered keypoint names of every thing class. Creatures and vehicles name near and far, front and back, so a mirrored
one keeps its names; left and right elsewhere are those of the object's own front seen by the viewer."""
