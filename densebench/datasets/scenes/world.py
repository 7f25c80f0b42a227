"""Scene kinds and layout: which things stand where, on which ground, seen by which camera.

Four kinds of scene give context (room, street, field, shore); a tenth of the things ignores it. Everything that could
give a class away without looking at shapes is drawn from distributions shared by all classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from densebench.datasets.scenes import creatures, grounds, indoors, outdoors
from densebench.datasets.scenes.labels import CLASS_ID, CLASSES, FIRST_THING, PART_ID, PARTS_OF
from densebench.datasets.scenes.sketch import CIRCLE, Dice, Sketch, direction
from densebench.datasets.scenes.stage import Camera, Stage

BUILDERS: dict[str, Callable[[Dice], Sketch]] = {
    **{f.__name__: f for f in (outdoors.house, outdoors.tree, outdoors.car, outdoors.boat, outdoors.bicycle)},
    **{f.__name__: f for f in (creatures.person, creatures.horse, creatures.dog, creatures.elephant, creatures.bird)},
    **{f.__name__: f for f in (indoors.table, indoors.chair, indoors.lamp, indoors.bottle, indoors.plant)},
}
"""Draws one thing of every class."""

_FIRST_PART = {name: PART_ID[f"{name}/{parts[0]}"] for name, parts in PARTS_OF.items()}
_MIRRORED = {"car", "boat", "bicycle", "person", "horse", "dog", "elephant", "bird"}

KINDS = ("room", "street", "field", "shore")
KIND_WEIGHTS = (0.33, 0.23, 0.20, 0.24)
CASTS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "room": (
        ("table", "chair", "lamp", "bottle", "plant", "person", "dog", "bird"),
        (3.0, 3.0, 2.4, 2.4, 2.4, 1.2, 0.8, 0.4),
    ),
    "street": (
        ("house", "car", "tree", "bicycle", "person", "dog", "lamp", "bird"),
        (2.6, 3.0, 1.6, 2.6, 1.6, 1.0, 0.5, 0.4),
    ),
    "field": (
        ("horse", "elephant", "tree", "house", "dog", "bird", "person", "bicycle"),
        (2.8, 2.8, 1.8, 1.2, 1.4, 1.2, 0.6, 0.6),
    ),
    "shore": (
        ("boat", "bird", "tree", "person", "dog", "house", "elephant", "horse"),
        (4.2, 2.0, 1.2, 0.8, 0.6, 0.6, 0.5, 0.5),
    ),
}


class _Placed(NamedTuple):
    z: float
    x: float
    lift: float  # of the foot above the ground
    name: str
    sketch: Sketch


def compose(d: Dice, aspect: float) -> Stage:
    """Lay out one scene; `aspect` is width / height of the picture.

    A first thing is framed by the camera (its size and place in the picture are drawn, the horizon follows), the
    others are put where there is room.
    """
    kind = KINDS[d.weighted(KIND_WEIGHTS)]
    indoor = kind == "room"
    half_x = 0.5 * max(1.0, aspect)
    focal = d.log(0.9, 2.2)
    height = d(0.6, 1.9) if indoor else d(0.6, 2.4)
    name = _pick(d, kind)
    sketch = BUILDERS[name](d)
    middle, big = sketch.extent()
    far = 6.5 if indoor else 15.0
    z = min(max(focal * big / d(0.32, 0.9), 0.9), far)
    horizon = d(-0.34, 0.34) - focal * (height - middle) / z
    horizon = min(max(horizon, -1.1), 0.75)
    roll = d.turn(40) if d.chance(0.3) else d.turn(15)
    stage = Stage(Camera(focal, height, horizon, roll))
    x = stage.camera.x_at(d(-0.66, 0.66) * half_x, z)
    if kind == "shore":
        back = grounds.shore(stage, d, z, name == "boat")
    else:
        back = {"room": grounds.room, "street": grounds.street, "field": grounds.field}[kind](stage, d, z, x)
    x, z = _settle(d, back, name, x, z, far)
    placed = _populate(stage.camera, d, kind, back, _Placed(z, x, 0.0, name, sketch), half_x, far)
    sun, dark = complex(d(-0.8, 0.8), d(-0.3, 0.3)), d(0.5, 0.8)
    for one in placed:
        if not one.lift and one.name != "boat":
            _shadow(stage, back, one, sun, dark)
    if back.walls is not None:
        back.walls()
    for instance, one in enumerate(placed, start=1):
        _stand(stage, d, one, instance)
    return stage


def _pick(d: Dice, kind: str) -> str:
    if d.chance(0.1):
        return CLASSES[FIRST_THING + d.index(len(CLASSES) - FIRST_THING)]
    names, weights = CASTS[kind]
    return names[d.weighted(weights)]


def _settle(d: Dice, back: grounds.Backdrop, name: str, x: float, z: float, far: float) -> tuple[float, float]:
    """Move a thing to where it belongs: boats on the water, the rest ashore, cars on the road, nothing behind walls.

    Z = 0 says that there is no place for it.
    """
    if back.edge is not None and name != "bird" and (name == "boat") != back.on_water(z):
        line, near, _ = back.edge
        moved = max(0.9, line * d(0.5, 0.85)) if (name == "boat") == near else min(line * d(1.15, 1.6), far)
        x, z = x * moved / z, moved
    if back.road is not None and name in ("car", "bicycle") and d.chance(0.5):
        start, slope, width, _ = back.road
        x = start + slope * z + d(-0.25, 0.25) * width
    if back.wall is not None:
        for _ in range(2):
            room = back.room_depth(x) - 0.3
            if z > room > 0.7:
                x, z = x * room / z, room
        if z > back.room_depth(x) - 0.2:
            return x, 0.0
    return x, z


def _populate(
    camera: Camera, d: Dice, kind: str, back: grounds.Backdrop, first: _Placed, half_x: float, far: float
) -> list[_Placed]:
    """Choose the other things and place them where there is space; far to near."""
    placed: list[_Placed] = []
    taken: list[tuple[float, float]] = []

    def place(one: _Placed) -> None:
        across = [p.real for p in one.sketch.points]
        scale = camera.focal / one.z
        taken.append(((one.x + 0.8 * min(across)) * scale, (one.x + 0.8 * max(across)) * scale))
        placed.append(one)
        if one.name == "table" and d.chance(0.6):
            extra = ("bottle", "plant", "lamp")[d.weighted((4, 1, 1))]
            top = max(p.imag for p in one.sketch.points)
            placed.append(_Placed(one.z - 0.01, one.x + d(-0.25, 0.25), top, extra, BUILDERS[extra](d)))

    if first.z:
        place(first)
    names = [_pick(d, kind) for _ in range(2 + d.index(5))]
    for name in [*names, *("background" for _ in range(d.index(3)))]:
        sketch = outdoors.clutter(d) if name == "background" else BUILDERS[name](d)
        middle, big = sketch.extent()
        best, x, z = math.inf, 0.0, 0.0
        for _ in range(4):
            z_try = min(max(camera.focal * big / d.log(0.18, 0.7), 0.9), far)
            x_try, z_try = _settle(d, back, name, camera.x_at(d(-0.9, 0.9) * half_x, z_try), z_try, far)
            if z_try < 0.7:
                continue
            scale = camera.focal / z_try
            y, at, half = camera.horizon + scale * (camera.height - middle), scale * x_try, 0.35 * scale * big
            cost = sum(max(0.0, min(at + half, b) - max(at - half, a)) for a, b in taken)
            cost += 5 * max(0.0, abs(y) - 0.36) + 4 * max(0.0, abs(at) - 0.92 * half_x)
            cost += 2 * max(0.0, scale * big - 0.85)
            if cost < best:
                best, x, z = cost, x_try, z_try
        if best < 0.5:
            place(_Placed(z, x, 0.0, name, sketch))
    placed.sort(key=lambda one: -one.z)
    return placed


def _shadow(stage: Stage, back: grounds.Backdrop, one: _Placed, sun: complex, dark: float) -> None:
    """A dark ellipse on the ground, of the ground's class and material."""
    wide = max(abs(p.real) for p in one.sketch.points) * 0.8
    ground, stuff = back.under(one.x, one.z)
    at = complex(one.x, one.z) + sun * wide * 0.5
    plan = [(at.real + wide * p.real, at.imag + (0.12 + 0.25 * wide) * p.imag) for p in CIRCLE]
    stage.ground(CLASS_ID[ground], stuff, plan, dark)


def _stand(stage: Stage, d: Dice, one: _Placed, instance: int) -> None:
    """Draw one thing with materials, pose and side of its own."""
    name, sketch = one.name, one.sketch
    thing = name != "background"
    main = grounds.fresh(stage, d)
    parts = len(PARTS_OF[name]) if thing else 1
    stuffs = [main if d.chance(0.4) else grounds.fresh(stage, d) for _ in range(parts)]
    yaw = 1 + 0j if sketch.solid else direction(d(-40, 40))
    turn = 1 + 0j if sketch.solid else d.turn(5)
    mirror = name in _MIRRORED and d.chance(0.5)
    stage.thing(
        sketch,
        (one.x, stage.camera.height - one.lift, one.z),
        turn,
        yaw,
        mirror,
        CLASS_ID[name],
        _FIRST_PART.get(name, 0),
        instance if thing else 0,
        stuffs,
        d(0.8, 1.1),
    )


def seeded(version: int, seed: int, split: int, index: int, aspect: float) -> tuple[Stage, Dice]:
    """The stage of one image and the dice that made it (to be used for light and lens)."""
    keys = np.random.SeedSequence([version, seed, split, index])
    d = Dice(np.random.Generator(np.random.PCG64(keys)))
    return compose(d, aspect), d
