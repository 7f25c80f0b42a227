"""Where scenes take place: room, street, field and shore, all of them stuff.

Every function draws onto the stage from far to near and returns a `Backdrop`: what the layout must know to stand
things on it. Small shapes that tell one stuff from another (clouds, waves, blades, lane marks) count as that stuff.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from densebench.datasets.scenes.labels import CLASS_ID
from densebench.datasets.scenes.sketch import CIRCLE, Dice, direction
from densebench.datasets.scenes.stage import BACKDROP, GROUND, MAX_DEPTH, NEAR, SKY, Stage
from densebench.datasets.scenes.surfaces import material


class Backdrop:
    """What the layout must know of the surroundings: ground class, its material, limits of depth, the water's edge."""

    def __init__(self, ground: str, stuff: int) -> None:
        self.ground, self.stuff = ground, stuff
        self.wall: tuple[float, float, float] | None = None  # corner X, Z and slope of the left wall
        self.road: tuple[float, float, float, int] | None = None  # X at Z = 0, slope, width, material
        self.edge: tuple[float, bool, int] | None = None  # shore line Z, is the water near?, water material
        self.walls: Callable[[], None] | None = None  # draws what stands behind the things but hides their shadows

    def on_water(self, z: float) -> bool:
        """Is the ground at depth Z water?"""
        return self.edge is not None and (z < self.edge[0]) == self.edge[1]

    def under(self, x: float, z: float) -> tuple[str, int]:
        """Class and material of the ground at (X, Z)."""
        if self.edge is not None and self.on_water(z):
            return "water", self.edge[2]
        if self.road is not None and abs(x - self.road[0] - self.road[1] * z) < 0.5 * self.road[2]:
            return "road", self.road[3]
        return self.ground, self.stuff

    def room_depth(self, x: float) -> float:
        """How deep the room is at X."""
        if self.wall is None:
            return MAX_DEPTH
        corner, depth, slope = self.wall
        return depth + (x - corner) * slope if x < corner else depth - (x - corner) / slope


def fresh(stage: Stage, d: Dice) -> int:
    """The index of a new random material."""
    return stage.add_material(material(d))


_ALL = (-4 - 4j, 4 - 4j, 4 + 4j, -4 + 4j)


def _base(stage: Stage, stuff: int, cls: int, plane: int) -> None:
    """The whole picture (or everything under the horizon) of one stuff."""
    top = complex(0, stage.camera.horizon)
    stage.sheet(
        cls, stuff, _ALL if plane != GROUND else (top - 4, top + 4, top + (4 + 4j), top + (-4 + 4j)), 1.0, plane
    )


def room(stage: Stage, d: Dice, z: float, x: float) -> Backdrop:
    """A corner of two walls over a floor with boards or a rug."""
    floor = fresh(stage, d)
    _base(stage, floor, CLASS_ID["floor"], GROUND)
    back = Backdrop("floor", floor)
    camera = stage.camera
    slope = math.tan(math.radians(d(12, 78)))
    depth = min(z * d(1.15, 1.9) + 0.6, 8.0)
    corner = camera.x_at(d(-0.9, 0.9), depth)
    back.wall = (corner, depth, slope)
    lack = z + 0.35 - back.room_depth(x)
    if lack > 0:
        depth += lack
        back.wall = (corner, depth, slope)
    if d.chance(0.5):  # floor boards
        angle, gap = direction(d(0, 180)), d(0.35, 0.8)
        dark = d(0.7, 0.9) if d.chance(0.5) else d(1.15, 1.3)
        for k in range(-7, 8):
            a = complex(0, z) + angle * complex(-9, k * gap)
            b, side = a + 18 * angle, angle * 0.018j
            stage.ground(
                CLASS_ID["floor"], floor, [(p.real, p.imag) for p in (a - side, b - side, b + side, a + side)], dark
            )
    if d.chance(0.35):  # a rug
        rug, wide, deep = fresh(stage, d), d(0.7, 1.5), d(0.5, 1.0)
        turn = d.turn(60)
        corners = [z_ * turn for z_ in (CIRCLE if d.chance(0.5) else (-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j))]
        stage.ground(CLASS_ID["floor"], rug, [(x + wide * p.real, z + deep * p.imag) for p in corners])
    back.walls = lambda: _walls(stage, d, corner, depth, slope)
    return back


def _walls(stage: Stage, d: Dice, corner: float, depth: float, slope: float) -> None:
    """Two walls that meet at a corner, with a skirting board, pictures and windows."""
    camera = stage.camera
    wall = fresh(stage, d)
    same = d.chance(0.6)
    norm = math.hypot(1.0, slope)
    skirt = d(0.06, 0.16) if d.chance(0.6) else 0.0
    for step in ((-1 / norm, -slope / norm), (slope / norm, -1 / norm)):
        stuff = wall if same else fresh(stage, d)
        tone = d(0.72, 1.05)
        run = 30.0 if step[1] > -0.02 else min(30.0, (depth - NEAR) / -step[1])

        def panel(
            a: float, b: float, low: float, high: float, step: tuple[float, float] = step
        ) -> list[tuple[float, float, float]]:
            near, away = (corner + step[0] * a, depth + step[1] * a), (corner + step[0] * b, depth + step[1] * b)
            return [
                (near[0], camera.height - low, near[1]),
                (away[0], camera.height - low, away[1]),
                (away[0], camera.height - high, away[1]),
                (near[0], camera.height - high, near[1]),
            ]

        stage.space(CLASS_ID["wall"], stuff, panel(0, run, 0, 14), tone)
        if skirt:
            stage.space(CLASS_ID["wall"], stuff, panel(0, run, 0, skirt), tone * d(0.7, 1.3))
        at = d(0.2, 1.0)
        while at < 6 and d.chance(0.75):  # pictures and windows hang on the wall and count as wall
            wide, low, high = d(0.35, 0.9), d(0.8, 1.4), d(0.4, 0.9)
            frame, inner = d(0.6, 1.4), fresh(stage, d)
            stage.space(CLASS_ID["wall"], stuff, panel(at, at + wide, low, low + high), tone * frame)
            stage.space(
                CLASS_ID["wall"], inner, panel(at + 0.06, at + wide - 0.06, low + 0.06, low + high - 0.06), tone
            )
            at += wide + d(0.3, 1.2)


def _sky(stage: Stage, d: Dice, hilly: float) -> None:
    """Sky with clouds or a sun, and perhaps ridges of hills."""
    sky = fresh(stage, d)
    _base(stage, sky, CLASS_ID["sky"], SKY)
    horizon = stage.camera.horizon
    for _ in range(d.index(5)):
        spot, size, tone = complex(d(-0.8, 0.8), horizon - d(0.1, 1.0)), d(0.04, 0.12), d(1.1, 1.35)
        for k in range(3):
            centre = spot + size * complex(1.1 * (k - 1) + d(-0.2, 0.2), d(-0.25, 0.1))
            wide = size * d(0.8, 1.3)
            stage.sheet(
                CLASS_ID["sky"], sky, [centre + complex(wide * p.real, 0.6 * size * p.imag) for p in CIRCLE], tone
            )
    if d.chance(0.3):
        centre, size, stuff = complex(d(-0.6, 0.6), horizon - d(0.15, 0.8)), d(0.04, 0.09), fresh(stage, d)
        stage.sheet(CLASS_ID["sky"], stuff, [centre + size * p for p in CIRCLE], 1.2)
    if d.chance(hilly):
        for layer in range(1 + d.index(2)):
            stuff = fresh(stage, d)
            rise, steps = d(0.1, 0.5) * (1.0 - 0.45 * layer), 6 + d.index(6)
            points = [
                complex(-1.6 + 3.2 * k / steps + d(-0.1, 0.1), horizon - rise * d(0.1, 1.0)) for k in range(steps + 1)
            ]
            stage.sheet(
                CLASS_ID["hill"],
                stuff,
                [
                    complex(-4, horizon + 0.02),
                    complex(-4, horizon - 0.05),
                    *points,
                    complex(4, horizon - 0.05),
                    complex(4, horizon + 0.02),
                ],
                1.0,
                BACKDROP,
            )


def _tufts(stage: Stage, d: Dice, stuff: int, shore: tuple[float, float] = (0.0, 99.0)) -> None:
    """Blades of grass, standing on the ground; they count as grass."""
    camera = stage.camera
    spots = []
    for _ in range(8 + d.index(10)):
        y = camera.horizon + d.log(0.06, 1.2)
        z = camera.focal * camera.height / (y - camera.horizon)
        if shore[0] < z < min(shore[1], 16.0):
            spots.append((z, camera.x_at(d(-0.75, 0.75), z)))
    for z, x in sorted(spots, reverse=True):
        tall, tone = d(0.12, 0.34), d(0.62, 0.85) if d.chance(0.5) else d(1.15, 1.35)
        foot = camera.height
        points = [(x - 0.12, foot, z)]
        for k in range(3):
            points.append((x + 0.11 * (k - 1) + d(-0.05, 0.05), foot - tall * d(0.7, 1.0), z))
            points.append((x + 0.08 * (k - 0.5) + 0.03, foot - (tall * 0.15 if k < 2 else 0.0), z))
        stage.space(CLASS_ID["grass"], stuff, points, tone)


def _lane(stage: Stage, d: Dice, back: Backdrop, z: float, x: float) -> None:
    """A road on the ground with a dashed middle line, sometimes with kerbs."""
    stuff = fresh(stage, d)
    width = d(1.8, 4.2)
    slope = math.tan(math.radians(d(-58, 58)))
    start = x + d(-1.2, 1.2) - slope * z
    cls, ground = CLASS_ID["road"], stage.ground
    half = width / 2 * math.hypot(1.0, slope)
    if d.chance(0.25):  # across the picture instead of away from the viewer
        near = max(0.8, z - width * d(0.2, 0.8))
        tilt = d(-0.06, 0.06)
        ground(
            cls,
            stuff,
            [
                (-30, near - 30 * tilt),
                (30, near + 30 * tilt),
                (30, near + width + 30 * tilt),
                (-30, near + width - 30 * tilt),
            ],
        )
        mid = near + width / 2
        tone = d(1.25, 1.5) if d.chance(0.5) else d(0.55, 0.7)
        for k in range(-6, 7):
            a = k * 1.6 + 0.3
            ground(cls, stuff, [(a, mid - 0.08), (a + 0.8, mid - 0.08), (a + 0.8, mid + 0.08), (a, mid + 0.08)], tone)
        return

    def strip(offset: float, wide: float, z0: float, z1: float, tone: float) -> None:
        a, b = start + offset + slope * z0, start + offset + slope * z1
        ground(cls, stuff, [(a - wide, z0), (a + wide, z0), (b + wide, z1), (b - wide, z1)], tone)

    strip(0, half, 0.1, 60, 1.0)
    if d.chance(0.5):
        for side in (-half, half):
            strip(side, 0.07, 0.1, 60, d(1.15, 1.3))
    tone = d(1.25, 1.5) if d.chance(0.5) else d(0.55, 0.7)
    for k in range(9):
        strip(0, 0.07, 0.5 + 1.8 * k, 1.4 + 1.8 * k, tone)
    back.road = (start, slope, width, stuff)


def street(stage: Stage, d: Dice, z: float, x: float) -> Backdrop:
    """A road through grass that passes near (X, Z)."""
    _sky(stage, d, 0.35)
    grass = fresh(stage, d)
    _base(stage, grass, CLASS_ID["grass"], GROUND)
    back = Backdrop("grass", grass)
    _lane(stage, d, back, z, x)
    if d.chance(0.35):
        _tufts(stage, d, grass)
    return back


def field(stage: Stage, d: Dice, z: float, x: float) -> Backdrop:
    """Grass before hills, now and then with a road."""
    _sky(stage, d, 0.7)
    grass = fresh(stage, d)
    _base(stage, grass, CLASS_ID["grass"], GROUND)
    back = Backdrop("grass", grass)
    if d.chance(0.2):
        _lane(stage, d, back, z, x + d(-3, 3))
    _tufts(stage, d, grass)
    return back


def shore(stage: Stage, d: Dice, z: float, afloat: bool) -> Backdrop:
    """Water with waves, before or behind a bank of grass; depth `z` is on the water if `afloat`, else ashore."""
    _sky(stage, d, 0.55)
    camera = stage.camera
    near = d.chance(0.5)
    line = min(z * d(1.2, 2.2), 16.0) if near == afloat else max(0.8, z * d(0.45, 0.8))
    water, grass = fresh(stage, d), fresh(stage, d)
    far_cls, near_cls = ("grass", "water") if near else ("water", "grass")
    far_stuff, near_stuff = (grass, water) if near else (water, grass)
    _base(stage, far_stuff, CLASS_ID[far_cls], GROUND)
    y = camera.horizon + camera.focal * camera.height / line
    steps, rough = 14, 0.35 * (y - camera.horizon)
    tilt = d(-0.12, 0.12)
    bank = [
        complex(-1.6 + 3.2 * k / steps, y + rough * d(-0.3, 0.3) + tilt * (k / steps - 0.5)) for k in range(steps + 1)
    ]
    bank = [complex(p.real, max(p.imag, camera.horizon + 0.004)) for p in bank]
    under = [complex(4, bank[-1].imag), 4 + 5j, -4 + 5j, complex(-4, bank[0].imag)]
    if d.chance(0.6):
        lift = 0.08 * (y - camera.horizon) + 0.004
        stage.sheet(CLASS_ID["grass"], grass, [*(p - 1j * lift for p in bank), *under], d(0.6, 0.8), GROUND)
    stage.sheet(CLASS_ID[near_cls], near_stuff, [*bank, *under], 1.0, GROUND)
    low, high = (0.4, line * 0.9) if near else (line * 1.1, 16.0)
    spots = []
    for _ in range(16 + d.index(16)):
        zz = 1.0 / d(1.0 / high, 1.0 / low) if low < high else high
        spots.append((zz, camera.x_at(d(-0.75, 0.75), zz)))
    tones = (d(1.15, 1.4), d(0.62, 0.85))
    for zz, xx in spots:  # crescents of light and dark
        size = camera.x_at(d(0.03, 0.1), zz)
        deep = zz * zz / (camera.focal * camera.height) * 0.016
        points = [(xx + size * (k / 3 - 1), zz + deep * (2.2 - ((k - 3) / 3) ** 2 * 2.2)) for k in range(7)]
        points += [(xx + size * (1 - k / 3), zz + deep * (1.1 - ((k - 3) / 3) ** 2 * 2.0)) for k in range(1, 6)]
        stage.ground(CLASS_ID["water"], water, points, tones[d.index(2)])
    _tufts(stage, d, grass, (line * 1.15, 99.0) if near else (0.3, line * 0.9))
    back = Backdrop("grass", grass)
    back.edge = (line, near, water)
    return back
