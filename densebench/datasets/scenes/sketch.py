"""Drawing in metres: a dice of cheap random numbers and a sketch that collects polygons and keypoints.

A sketch lives in an object's own frame: u to the right, v up from the ground, w away from the viewer. Flat shapes are
written as complex numbers `u + 1j * v`, which makes turning and scaling a multiplication.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

CIRCLE = tuple(cmath.rect(1.0, 2 * math.pi * k / 16) for k in range(16))
_CAP = tuple(cmath.rect(1.0, math.pi * k / 4) for k in range(5))  # half a circle, from +1 over 1j to -1


def _stream(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(1024).tolist()


class Dice:
    """Uniform random numbers, drawn in blocks: a call costs a fraction of a microsecond."""

    __slots__ = ("_next",)

    def __init__(self, rng: np.random.Generator) -> None:
        self._next = _stream(rng).__next__

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self._next()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._next() < probability

    def index(self, count: int) -> int:
        """Uniform in 0 .. count - 1."""
        return int(self._next() * count)

    def log(self, low: float, high: float) -> float:
        """Uniform in the logarithm, for scales."""
        return low * math.exp(math.log(high / low) * self._next())

    def turn(self, degrees: float) -> complex:
        """A unit rotation by up to `degrees` either way."""
        return cmath.rect(1.0, math.radians((2 * self._next() - 1) * degrees))

    def weighted(self, weights: Sequence[float]) -> int:
        """Index drawn in proportion to `weights`."""
        mark = self._next() * sum(weights)
        for index, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return index
        return len(weights) - 1


def direction(degrees: float) -> complex:
    """Unit vector at an angle, anticlockwise from +u."""
    return cmath.rect(1.0, math.radians(degrees))


class Sketch:
    """The polygons of one object in painter's order, plus its keypoints.

    `faces` holds (start, stop, part, tone, level, key): a slice of the points, the part's index in its class, a
    brightness factor, a drawing level and, within it, the face whose distance decides the order (solids only).
    """

    __slots__ = ("_yaw", "away", "faces", "keys", "level", "points", "solid")

    def __init__(self, yaw: float = 0.0) -> None:
        self.points: list[complex] = []
        self.away: list[float] = []
        self.faces: list[tuple[int, int, int, float, int, int]] = []
        self.keys: list[tuple[complex, float, int]] = []
        self.solid = False
        self.level = 0
        self._yaw = cmath.rect(1.0, math.radians(yaw))

    def poly(self, part: int, points: Sequence[complex], tone: float = 1.0, away: float = 0.0) -> None:
        """A flat polygon facing the viewer."""
        start = len(self.points)
        self.points.extend(points)
        stop = len(self.points)
        self.away.extend([away] * (stop - start))
        self.faces.append((start, stop, part, tone, self.level, len(self.faces)))

    def disc(
        self,
        part: int,
        centre: complex,
        wide: float,
        high: float | None = None,
        turn: complex = 1 + 0j,
        tone: float = 1.0,
        away: float = 0.0,
    ) -> None:
        """An ellipse with half axes `wide` and `high`."""
        if high is None:
            self.poly(part, [centre + wide * z for z in CIRCLE], tone, away)
        else:
            across, up = turn * wide, turn * high * 1j
            self.poly(part, [centre + across * z.real + up * z.imag for z in CIRCLE], tone, away)

    def ring(self, part: int, centre: complex, radius: float, inner: float, tone: float = 1.0) -> None:
        """An annulus (a keyhole polygon)."""
        outer = [centre + radius * z for z in CIRCLE] + [centre + radius]
        hole = [centre + inner * z for z in reversed(CIRCLE)]
        self.poly(part, [*outer, centre + inner, *hole], tone)

    def tube(
        self, part: int, path: Sequence[complex], radii: Sequence[float], tone: float = 1.0, away: float = 0.0
    ) -> None:
        """A limb along `path` with a radius at every joint and round ends."""
        last = len(path) - 1
        steps = [b - a for a, b in pairwise(path)]
        steps = [s / (abs(s) or 1.0) for s in steps]
        left: list[complex] = []
        right: list[complex] = []
        for k in range(1, last):
            bend = steps[k - 1] + steps[k]
            side = bend / (abs(bend) or 1.0) * (1j * radii[k])
            left.append(path[k] + side)
            right.append(path[k] - side)
        head, tail = steps[-1] * (-1j * radii[-1]), steps[0] * (1j * radii[0])
        cap = [path[-1] + head * z for z in _CAP]
        back = [path[0] + tail * z for z in _CAP]
        left.reverse()
        self.poly(part, [*right, *cap, *left, *back], tone, away)

    def extent(self) -> tuple[float, float]:
        """Height of the middle above the ground, and one number for the size, in metres."""
        up, across = [p.imag for p in self.points], [p.real for p in self.points]
        low, high = min(up), max(up)
        tall, wide = high - low, max(across) - min(across)
        return (low + high) / 2, max(0.7 * tall, 0.6 * wide, 1.1 * math.sqrt(tall * wide))

    def turned(self, u: float, w: float) -> tuple[float, float]:
        """(u, w) of a solid's ground plan after its yaw."""
        z = complex(u, w) * self._yaw
        return z.real, z.imag

    def board(
        self, part: int, corners: Sequence[tuple[float, float, float]], tone: float = 1.0, attach: bool = False
    ) -> None:
        """A planar polygon of (u, v, w) corners in the solid's own frame; `attach` draws it right after the last."""
        self.solid = True
        key = self.faces[-1][5] if attach else len(self.faces)
        start = len(self.points)
        for u, v, w in corners:
            z = complex(u, w) * self._yaw
            self.points.append(complex(z.real, v))
            self.away.append(z.imag)
        self.faces.append((start, len(self.points), part, tone, self.level, key))

    def box(
        self,
        part: int,
        half_u: float,
        v: tuple[float, float],
        half_w: float,
        u: float = 0.0,
        w: float = 0.0,
        tone: float = 1.0,
    ) -> None:
        """Six boards of an upright box centred at (u, w)."""
        low, high = v
        a, b, c, d = u - half_u, u + half_u, w - half_w, w + half_w
        self.board(part, ((a, low, c), (b, low, c), (b, low, d), (a, low, d)), tone * 0.7)
        self.board(part, ((a, low, d), (b, low, d), (b, high, d), (a, high, d)), tone)
        self.board(part, ((a, low, c), (a, low, d), (a, high, d), (a, high, c)), tone)
        self.board(part, ((b, low, c), (b, low, d), (b, high, d), (b, high, c)), tone)
        self.board(part, ((a, low, c), (b, low, c), (b, high, c), (a, high, c)), tone)
        self.board(part, ((a, high, c), (b, high, c), (b, high, d), (a, high, d)), tone)

    def post(
        self,
        part: int,
        u: float,
        w: float,
        v: tuple[float, float],
        radius: float,
        tone: float = 1.0,
        spread: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """An upright bar that always faces the viewer; its foot is moved by `spread` in plan."""
        self.solid = True
        low, high = v
        x1, z1 = self.turned(u, w)
        x0, z0 = self.turned(u + spread[0], w + spread[1])
        start = len(self.points)
        self.points += [
            complex(x0 - radius, low),
            complex(x0 + radius, low),
            complex(x1 + radius, high),
            complex(x1 - radius, high),
        ]
        self.away += [z0, z0, z1, z1]
        self.faces.append((start, start + 4, part, tone, self.level, len(self.faces)))

    def key(self, part: int, point: complex, away: float = 0.0) -> None:
        """The next keypoint of the class, on `part`."""
        self.keys.append((point, away, part))

    def key3(self, part: int, u: float, v: float, w: float) -> None:
        """The next keypoint of a solid, given in its own frame."""
        x, z = self.turned(u, w)
        self.keys.append((complex(x, v), z, part))
