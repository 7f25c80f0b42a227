"""The camera and the stage: polygons in space, in painter's order, with what the renderer needs to know of each.

Camera frame: X to the right, Y down, Z away, in metres, the eye at the origin; the ground is the plane Y = eye height.
Picture frame: x to the right and y down from the image centre in units of the shorter side, before the camera's roll.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densebench.datasets.scenes.sketch import Sketch
from densebench.datasets.scenes.surfaces import Material

MAX_DEPTH = 20.0  # metres; farther ground and the hills stay at this depth
NEAR = 0.35  # metres; nothing is drawn closer
FIT, GROUND, SKY, BACKDROP = 0, 1, 2, 3  # where a face's depth plane comes from


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole whose film is shifted (horizon) and turned (roll)."""

    focal: float  # in units of the shorter side
    height: float  # of the eye above the ground, metres
    horizon: float  # y of the horizon in the picture frame
    roll: complex  # unit rotation of the picture

    def x_at(self, x: float, z: float) -> float:
        """World X seen at picture x and depth z."""
        return x * z / self.focal

    def picture(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Picture coordinates (n, 2), without roll, of camera-frame points (n, 3)."""
        out = points[:, :2] * (self.focal / points[:, 2:])
        out[:, 1] += self.horizon
        return out


def clip_near(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """The part of a polygon with Z >= NEAR."""
    out: list[tuple[float, float, float]] = []
    for a, b in zip(points, [*points[1:], points[0]], strict=True):
        if a[2] >= NEAR:
            out.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            t = (NEAR - a[2]) / (b[2] - a[2])
            out.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR))
    return out


@dataclass(slots=True)
class Thing:
    """One placed object: class, the slice of its keypoints and the part of each."""

    cls: int
    instance: int
    keys: slice
    key_parts: tuple[int, ...]


class Stage:
    """Collects faces; painter's order is the order of adding."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.materials: list[Material] = []
        self.points: list[NDArray[np.float64]] = []
        self.count = 0
        # start, stop, class, part (global), instance, material, tone, plane, tiled on the ground
        self.faces: list[tuple[int, int, int, int, int, int, float, int, int]] = []
        self.things: list[Thing] = []

    def add_material(self, made: Material) -> int:
        """The index of a material in this scene."""
        self.materials.append(made)
        return len(self.materials) - 1

    def space(
        self, cls: int, stuff: int, points: Sequence[tuple[float, float, float]], tone: float = 1.0, plane: int = FIT
    ) -> None:
        """A polygon of stuff given by (X, Y, Z) corners; corners behind the eye are cut away."""
        if min(p[2] for p in points) < NEAR:
            points = clip_near(points)
            if len(points) < 3:
                return
        self._add(np.array(points, dtype=np.float64), cls, stuff, tone, plane)

    def ground(self, cls: int, stuff: int, plan: Sequence[tuple[float, float]], tone: float = 1.0) -> None:
        """A polygon of stuff lying on the ground, given by (X, Z) corners."""
        height = self.camera.height
        self.space(cls, stuff, [(x, height, z) for x, z in plan], tone, GROUND)

    def sheet(self, cls: int, stuff: int, points: Sequence[complex], tone: float = 1.0, plane: int = SKY) -> None:
        """A polygon of stuff given in the picture frame."""
        camera = self.camera
        flat = [((p.real) / camera.focal, (p.imag - camera.horizon) / camera.focal, 1.0) for p in points]
        self._add(np.array(flat), cls, stuff, tone, plane)

    def _add(self, points: NDArray[np.float64], cls: int, stuff: int, tone: float, plane: int) -> None:
        self.points.append(points)
        stop = self.count + len(points)
        self.faces.append((self.count, stop, cls, 0, 0, stuff, tone, plane, int(plane == GROUND)))
        self.count = stop

    def thing(
        self,
        sketch: Sketch,
        at: tuple[float, float, float],
        turn: complex,
        yaw: complex,
        mirror: bool,
        cls: int,
        first_part: int,
        instance: int,
        stuffs: Sequence[int],
        shade: float,
    ) -> None:
        """Place a sketch: lean by `turn`, mirror, swing by `yaw`, and stand it at `at` = (X, Y of its foot, Z)."""
        keys = sketch.keys
        flat = np.array(sketch.points + [k[0] for k in keys])
        away = np.array(sketch.away + [k[1] for k in keys])
        flat *= turn
        u = -flat.real if mirror else flat.real
        points = np.empty((len(flat), 3))
        if sketch.solid or yaw == 1:
            points[:, 0], points[:, 2] = u, away
        else:
            points[:, 0], points[:, 2] = u * yaw.real - away * yaw.imag, u * yaw.imag + away * yaw.real
        points[:, 1] = -flat.imag
        points += at
        np.maximum(points[:, 2], NEAR, out=points[:, 2])
        faces = sketch.faces
        tones = [face[3] * shade for face in faces]
        order: Sequence[int] = range(len(faces))
        if sketch.solid:
            order, tones = _sort_solid(points, faces, tones)
        base = self.count
        for k in order:
            start, stop, part = faces[k][:3]
            part_id = first_part + part if first_part else 0
            self.faces.append((base + start, base + stop, cls, part_id, instance, stuffs[part], tones[k], FIT, 0))
        self.points.append(points)
        shapes = len(sketch.points)
        if keys:
            parts = tuple(first_part + k[2] for k in keys)
            self.things.append(Thing(cls, instance, slice(base + shapes, base + shapes + len(keys)), parts))
        self.count += len(points)


def _sort_solid(
    points: NDArray[np.float64], faces: Sequence[tuple[int, int, int, float, int, int]], tones: list[float]
) -> tuple[list[int], list[float]]:
    """Painter's order of a solid's boards (level, then far to near) and tones shaded by how they face the light."""
    starts = np.array([face[0] for face in faces])
    stops = np.array([face[1] for face in faces])
    sums = np.add.reduceat(points[: stops[-1]], starts, axis=0)
    far = ((sums / (stops - starts)[:, None]) ** 2).sum(1).tolist()
    normal = np.cross(points[starts + 1] - points[starts], points[starts + 2] - points[starts + 1])
    size = np.sqrt((normal * normal).sum(1)) + 1e-12
    lit = (0.74 + 0.34 * np.abs(normal[:, 1]) / size + 0.2 * np.abs(normal[:, 0]) / size).tolist()
    order = sorted(range(len(faces)), key=lambda k: (faces[k][4], -far[faces[k][5]]))
    return order, [tone * light for tone, light in zip(tones, lit, strict=True)]
