"""What things are made of: a bank of grey textures, random materials and sensor noise.

Materials know nothing of classes: every surface of every class draws from the same distribution, so that neither colour
nor texture says what a thing is.
"""

from __future__ import annotations

import colorsys
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from densebench.datasets.scenes.sketch import Dice

TILE = 512  # texels per side of a texture
SPAN = 384  # texels across the longer side of an image
LEVELS = 64  # grey levels of a texture
_BANK_SEED = 20_261_121
_KINDS = ("plain", "noise", "stripes", "checks", "dots", "bricks", "wood", "blotches", "ramp", "speckle")
_COPIES = 6

PAINTS = (
    (0.00, 0.60, 0.75), (0.08, 0.65, 0.85), (0.15, 0.55, 0.90), (0.28, 0.50, 0.65), (0.40, 0.45, 0.55),
    (0.50, 0.50, 0.75), (0.58, 0.55, 0.80), (0.66, 0.50, 0.60), (0.78, 0.40, 0.70), (0.90, 0.45, 0.80),
    (0.00, 0.00, 0.90), (0.00, 0.00, 0.60), (0.00, 0.00, 0.35), (0.07, 0.50, 0.45),
)  # fmt: skip
"""Hue, saturation and value, 0 to 1, of all colours there are: red to pink, white, grey, dark and brown."""


class Material(NamedTuple):
    """Two colours (0 to 255) mixed by a texture of the bank, shifted by up to `TILE - SPAN` texels."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    texture: int
    shift: int  # flat offset into the texture


def _value_noise(rng: np.random.Generator, cell: float) -> NDArray[np.float64]:
    """Bilinear value noise in [0, 1], one knot per `cell` texels."""
    knots = rng.random((int(TILE / cell) + 3,) * 2)
    at = np.arange(TILE) / cell
    low = at.astype(int)
    share = at - low
    rows = knots[low] * (1 - share)[:, None] + knots[low + 1] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share


def _wave(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Triangle wave of period 1 in [0, 1]."""
    return np.abs(2 * (x - np.floor(x + 0.5)))


def _texture(kind: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """One texture (TILE, TILE), 0 to 1."""
    angle = math.pi * rng.random()
    period = 14.0 * (4.0 ** rng.random())
    y, x = np.mgrid[:TILE, :TILE].astype(float)
    u = (x * math.cos(angle) + y * math.sin(angle)) / period
    v = (y * math.cos(angle) - x * math.sin(angle)) / period
    if kind == "noise":
        cell = 8.0 * (6.0 ** rng.random())
        return 0.65 * _value_noise(rng, cell) + 0.35 * _value_noise(rng, cell / 2.3)
    if kind == "stripes":
        duty = 0.25 + 0.5 * rng.random()
        return np.clip((_wave(u) - duty) * period * 0.6 + 0.5, 0, 1)
    if kind == "checks":
        return ((np.floor(u) + np.floor(v)) % 2).astype(float)
    if kind == "dots":
        radius = 0.35 + 0.35 * rng.random()
        return np.clip((radius - np.hypot(_wave(u), _wave(v))) * period * 0.4 + 0.5, 0, 1)
    if kind == "bricks":
        row = np.floor(v * 1.6)
        gap = np.maximum(_wave(v * 1.6), _wave(u * 0.8 + 0.5 * (row % 2)) * 1.02)
        tint = _value_noise(rng, period * 0.7)
        return np.where(gap > 0.84, 0.0, 0.55 + 0.45 * tint)
    if kind == "wood":
        bend = _value_noise(rng, 90.0) * 5.0
        return _wave(u + bend) * 0.8 + 0.2 * _value_noise(rng, 10.0)
    if kind == "blotches":
        return np.clip((_value_noise(rng, period * 1.2) - 0.5) * 9 + 0.5, 0, 1)
    if kind == "ramp":
        return _wave(u * period / (150 + 300 * rng.random()))
    if kind == "speckle":
        return np.clip((_value_noise(rng, 4.0 + 4 * rng.random()) - 0.25) * 1.6, 0, 1)
    return np.zeros((TILE, TILE))


@lru_cache(maxsize=1)
def texture_bank() -> NDArray[np.uint8]:
    """All textures, flat: (n * TILE * TILE,) grey levels 0 to LEVELS - 1; built once per process."""
    rng = np.random.Generator(np.random.PCG64(_BANK_SEED))
    tiles = [_texture(kind, rng) for kind in _KINDS for _ in range(_COPIES)]
    return np.rint(np.stack(tiles) * (LEVELS - 1)).astype(np.uint8).ravel()


@lru_cache(maxsize=1)
def sensor_noise() -> NDArray[np.int16]:
    """Bell-shaped noise, about -110 to 110 with a deviation near 37, as a flat strip of 2**20 values."""
    rng = np.random.Generator(np.random.PCG64(_BANK_SEED + 1))
    return (np.floor(rng.random((3, 2**20)) * 128).sum(0) - 190.5).astype(np.int16)


def color(d: Dice) -> tuple[float, float, float]:
    """A paint of `PAINTS`, slightly varied, as RGB 0 to 255.

    Few paints for all classes: were every colour unique, clusters of colours would tell the single objects of a small
    validation set apart, and overclustering would reward them.
    """
    hue, saturation, value = PAINTS[d.index(len(PAINTS))]
    hue, saturation, value = (hue + d(-0.02, 0.02)) % 1, saturation * d(0.85, 1.15), value * d(0.92, 1.08)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def material(d: Dice) -> Material:
    """A random material: a colour, a darker or lighter variant of it, and a texture."""
    low = color(d)
    gain = d(0.72, 0.92) if d.chance(0.5) else d(1.08, 1.3)
    texture = 0 if d.chance(0.4) else d.index(len(_KINDS) * _COPIES)
    shift = d.index(TILE - SPAN) * TILE + d.index(TILE - SPAN)
    return Material(low, (gain * low[0], gain * low[1], gain * low[2]), texture, shift)
