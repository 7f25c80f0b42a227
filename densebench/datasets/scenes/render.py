"""Pixels: rasterise a stage once into face numbers, then look everything else up.

The polygons are drawn in painter's order into an image of face numbers (Pillow). Masks, parts, instances are table
look-ups; depth is exact, because the inverse depth of a plane is linear in the picture; colour is a table over
(face, texture level) times a light that is linear in the picture for every face.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from densebench.datasets.scenes.labels import IGNORE
from densebench.datasets.scenes.sketch import Dice
from densebench.datasets.scenes.stage import BACKDROP, GROUND, MAX_DEPTH, SKY, Stage
from densebench.datasets.scenes.surfaces import LEVELS, SPAN, TILE, sensor_noise, texture_bank
from densebench.datasets.scenes.world import seeded

RENDERER_VERSION = 3
"""Goes into every seed: raise it when pixels change on purpose."""

SPLITS = ("train", "val", "unlabelled")
WANTS = ("image", "mask", "depth", "parts", "instances", "keypoints")
FLOOR_TEXELS = 150.0  # texels per metre of textures on the ground
_FAR_TEXTURE = 3.0  # metres; ground textures fade beyond


@dataclass(frozen=True, slots=True, eq=False)
class ObjectKeypoints:
    """Keypoints of one object, in the order of `labels.KEYPOINTS[class]`."""

    cls: int
    instance: int
    xy: NDArray[np.float32]  # (K, 2) pixels, centre of the top left pixel = (0, 0); may lie outside the image
    visible: NDArray[np.bool_]  # (K,) inside the image and not covered
    bbox: tuple[int, int, int, int]  # x0, y0, x1, y1 of the visible pixels, upper bounds excluded


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One rendered image and its ground truth; what was not wanted is None."""

    index: int
    split: str
    image: NDArray[np.uint8] | None = None  # (H, W, 3) RGB
    mask: NDArray[np.uint8] | None = None  # (H, W) class ids, 255 = ignore
    depth: NDArray[np.float32] | None = None  # (H, W) metres along the optical axis, 0 = none (sky)
    parts: NDArray[np.uint8] | None = None  # (H, W) global part ids, 0 = none
    instances: NDArray[np.uint8] | None = None  # (H, W) 1 .. n, 0 = stuff or background
    keypoints: list[ObjectKeypoints] = field(default_factory=list)


def render(
    index: int, split: str = "train", seed: int = 0, size: int | tuple[int, int] = 224, want: Collection[str] = WANTS
) -> Scene:
    """The scene `index` of a split at `size` (side, or (H, W)): a pure function of the arguments.

    Two sizes of one aspect ratio show the same scene. Only what is in `want` is computed.
    """
    if split not in SPLITS:
        raise ValueError(f"scenes: unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    unknown = set(want) - set(WANTS)
    if unknown:
        raise ValueError(f"scenes: cannot render {sorted(unknown)}, expected names among {', '.join(WANTS)}")
    height, width = (size, size) if isinstance(size, int) else size
    if index < 0 or min(height, width) < 8:
        raise ValueError(f"scenes: need index >= 0 and sides >= 8 pixels, got index {index}, size {(height, width)}")
    stage, dice = seeded(RENDERER_VERSION, seed, SPLITS.index(split), index, width / height)
    raster = _Raster(stage, height, width)
    image = raster.paint(dice) if "image" in want else None
    truth: dict[str, NDArray[np.uint8]] = {}
    if "mask" in want:
        truth["mask"] = raster.mask()
    if "parts" in want:
        truth["parts"] = raster.lookup(3)
    if "instances" in want or "keypoints" in want:
        truth["instances"] = raster.lookup(4)
    depth = raster.depth() if "depth" in want else None
    keypoints = raster.keypoints(truth["instances"]) if "keypoints" in want else []
    if "instances" not in want:
        truth.pop("instances", None)
    return Scene(index, split, image=image, depth=depth, keypoints=keypoints, **truth)


@lru_cache(maxsize=8)
def _grids(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """Picture x (1, W) and y (H, 1) of pixel centres in units of the shorter side, and texel offsets (H, W)."""
    unit = min(height, width)
    x = ((np.arange(width) + 0.5 - width / 2) / unit).astype(np.float32)[None]
    y = ((np.arange(height) + 0.5 - height / 2) / unit).astype(np.float32)[:, None]
    longest = max(height, width)
    rows = np.arange(height) * SPAN // longest
    columns = np.arange(width) * SPAN // longest
    return x, y, (rows[:, None] * TILE + columns).astype(np.intp)


class _Raster:
    """Face numbers (H, W) of a stage and the tables to look up."""

    def __init__(self, stage: Stage, height: int, width: int) -> None:
        self.stage, self.height, self.width = stage, height, width
        unit = min(height, width)
        self.space = np.concatenate(stage.points)
        flat = stage.camera.picture(self.space)
        self.flat = flat
        roll = stage.camera.roll
        turned = (flat[:, 0] + 1j * flat[:, 1]) * roll * unit + complex(width / 2 - 0.5, height / 2 - 0.5)
        self.pixels = np.stack([turned.real, turned.imag], 1)
        bound = 250.0 * max(height, width)  # far beyond what near geometry needs, within what Pillow takes
        corners = np.clip(self.pixels, -bound, bound).ravel().tolist()
        self.table = np.array(stage.faces)
        canvas = Image.new("I", (width, height))
        draw = ImageDraw.Draw(canvas)
        polygon = draw.polygon
        for number, face in enumerate(stage.faces):
            polygon(corners[2 * face[0] : 2 * face[1]], fill=number)
        self.ids = np.asarray(canvas).astype(np.intp)
        self._planes: tuple[NDArray[np.float32], ...] | None = None

    def lookup(self, column: int) -> NDArray[np.uint8]:
        """A column of the face table for every pixel."""
        found: NDArray[np.uint8] = self.table[:, column].astype(np.uint8).take(self.ids)
        return found

    def mask(self) -> NDArray[np.uint8]:
        """Classes; the line where two things touch is void, as VOC draws it."""
        mask, thing = self.lookup(2), self.lookup(4)
        for near, far in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
            a, b = thing[near], thing[far]
            mask[near][(a != b) & (a != 0) & (b != 0)] = IGNORE
        return mask

    def planes(self) -> tuple[NDArray[np.float32], ...]:
        """Inverse depth of every face as a * x + b * y + c over the rolled picture, plus its nearest and farthest."""
        if self._planes is not None:
            return self._planes
        camera, table, space = self.stage.camera, self.table, self.space
        start, stop = table[:, 0].astype(int), table[:, 1].astype(int)
        third = (stop - start) // 3
        p, q, r = space[start], space[start + third], space[start + 2 * third]
        normal = np.cross(q - p, r - p)
        offset = (normal * p).sum(1)
        middle = (p + q + r) / 3
        facing = np.abs((normal * middle).sum(1))
        edge_on = facing < 0.05 * np.sqrt((normal**2).sum(1) * (middle**2).sum(1)) + 1e-12
        plane = table[:, 7]
        normal[plane == GROUND] = (0.0, 1.0, 0.0)
        offset[plane == GROUND] = camera.height
        constant = edge_on & (plane != GROUND) | (plane >= SKY)
        normal[constant] = (0.0, 0.0, 1.0)
        offset[constant] = middle[constant, 2]
        offset[plane == BACKDROP] = MAX_DEPTH
        offset[plane == SKY] = np.inf
        normal /= offset[:, None]
        a, b = normal[:, 0] / camera.focal, normal[:, 1] / camera.focal
        c = normal[:, 2] - b * camera.horizon
        cos, sin = camera.roll.real, camera.roll.imag
        self._planes = tuple(v.astype(np.float32) for v in (a * cos - b * sin, a * sin + b * cos, c))
        return self._planes

    def inverse_depth(self) -> NDArray[np.float32]:
        x, y, _ = _grids(self.height, self.width)
        a, b, c = (v.take(self.ids) for v in self.planes())
        a *= x
        b *= y
        a += b
        a += c
        return a

    def depth(self) -> NDArray[np.float32]:
        """Metres along the optical axis, at most MAX_DEPTH; 0 where there is sky."""
        inverse = self.inverse_depth()
        np.maximum(inverse, np.float32(1 / MAX_DEPTH), out=inverse)
        np.minimum(inverse, np.float32(5.0), out=inverse)
        depth = np.reciprocal(inverse, out=inverse)
        depth *= (self.table[:, 7] != SKY).astype(np.float32).take(self.ids)
        return depth

    def keypoints(self, instances: NDArray[np.uint8]) -> list[ObjectKeypoints]:
        """Keypoints of all objects with a visible pixel."""
        reach = max(1, round(min(self.height, self.width) * 0.008))
        codes = (self.table[:, 3] + 256 * self.table[:, 4]).astype(np.int32)
        found = []
        for thing in self.stage.things:
            own = instances == thing.instance
            rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
            if not len(rows):
                continue
            xy = self.pixels[thing.keys]
            seen = np.zeros(len(xy), dtype=np.bool_)
            for k, (x, y) in enumerate(xy.tolist()):
                i, j = int(y + 0.5), int(x + 0.5)
                if -0.5 <= x < self.width - 0.5 and -0.5 <= y < self.height - 0.5:
                    near = self.ids[max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
                    seen[k] = (codes[near] == thing.key_parts[k] + 256 * thing.instance).any()
            bbox = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
            found.append(ObjectKeypoints(thing.cls, thing.instance, xy.astype(np.float32), seen, bbox))
        return found

    def paint(self, d: Dice) -> NDArray[np.uint8]:
        """RGB under a random light, exposure, colour cast, blur and sensor noise."""
        ids, table, (x, y, texels) = self.ids, self.table, _grids(self.height, self.width)
        stuff = table[:, 5].astype(int)
        materials = self.stage.materials
        low, high = np.array([m.low for m in materials]), np.array([m.high for m in materials])
        offset = np.array([m.texture * TILE * TILE + m.shift for m in materials], dtype=np.intp)[stuff]
        exposure = d(0.85, 1.2)
        cast = np.array([d(0.85, 1.1), d(0.9, 1.05), d(0.85, 1.1)]) * exposure
        lift = d(0, 24) if d.chance(0.4) else 0.0  # haze
        bank = texture_bank()
        levels = bank.take(offset.take(ids) + texels)
        self._tile_ground(levels, offset, bank)
        tone = table[:, 6:7] * cast
        ramp = np.linspace(0, 1, LEVELS)[None, :, None]
        first, step = low[stuff] * tone + lift, (high - low)[stuff] * tone
        shades = np.clip(first[:, None] + step[:, None] * ramp, 0, 255).astype(np.uint16)
        code = ids * LEVELS
        code += levels
        light = self._light(d, x, y)
        image = np.empty((self.height, self.width, 3), dtype=np.uint8)
        for channel in range(3):
            plane = shades[..., channel].ravel().take(code)
            plane *= light
            plane >>= 7
            image[..., channel] = np.minimum(plane, 255, out=plane)
        picture = Image.fromarray(image)
        blur = d(0.002, 0.0038) * min(self.height, self.width)
        noise = d(0, 5) if d.chance(0.6) else 0.0
        start = d.index(2**18)
        seen: NDArray[np.uint8] = np.asarray(picture.filter(ImageFilter.BoxBlur(blur)))
        if noise < 1.0:
            return seen.copy()
        count = seen.size
        strip = sensor_noise()
        grain = strip[start : start + count] if start + count <= len(strip) else np.resize(strip, count)
        grainy = ((grain * np.int16(noise)) >> 5).reshape(seen.shape)
        grainy += seen
        return np.clip(grainy, 0, 255).astype(np.uint8)

    def _tile_ground(self, levels: NDArray[np.uint8], offset: NDArray[np.intp], bank: NDArray[np.uint8]) -> None:
        """Lay ground textures in perspective and let them fade with distance."""
        spots = np.flatnonzero((self.table[:, 8] == 1).take(self.ids))
        if not len(spots):
            return
        camera = self.stage.camera
        x, y, _ = _grids(self.height, self.width)
        rows, columns = np.divmod(spots, self.width)
        px, py = x[0].take(columns), y[:, 0].take(rows)
        cos, sin = np.float32(camera.roll.real), np.float32(camera.roll.imag)
        flat_x, flat_y = px * cos + py * sin, py * cos - px * sin
        z = np.float32(camera.focal * camera.height) / np.maximum(
            flat_y - np.float32(camera.horizon), np.float32(0.004)
        )
        u = (flat_x * z * np.float32(FLOOR_TEXELS / camera.focal)).astype(np.int32) & (2 * TILE - 1)
        v = (z * np.float32(FLOOR_TEXELS)).astype(np.int32) & (2 * TILE - 1)
        np.minimum(u, 2 * TILE - 1 - u, out=u)  # tiles lie mirrored, so that no seam shows
        np.minimum(v, 2 * TILE - 1 - v, out=v)
        first = (offset // (TILE * TILE) * (TILE * TILE)).take(self.ids.ravel().take(spots))
        grey = bank.take(first + (v * TILE + u)).astype(np.float32)
        fade = np.minimum(np.float32(1.0), np.float32(_FAR_TEXTURE) / z)
        levels.ravel()[spots] = (24 + (grey - 24) * fade).astype(np.uint8)

    def _light(self, d: Dice, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Light of every pixel in 1/128: one gradient over the picture plus one over every face of a thing."""
        table = self.table
        start, stop = table[:, 0].astype(int), table[:, 1].astype(int)
        third = (stop - start) // 3
        pixels = self.flat * 1.0
        spread = pixels[start], pixels[start + third], pixels[start + 2 * third]
        middle = (spread[0] + spread[1] + spread[2]) / 3
        extent = np.abs(spread[0] - middle).sum(1) + np.abs(spread[1] - middle).sum(1) + 0.02
        way = d.turn(180)
        power = d(0.0, 0.3) * (table[:, 4] > 0) / extent
        roll = self.stage.camera.roll
        centre = (middle[:, 0] + 1j * middle[:, 1]) * roll
        whole = d.turn(180) * d(0.0, 0.35)
        gx, gy = power * way.real, power * way.imag
        gc = 1.0 - gx * centre.real - gy * centre.imag
        a = ((gx + whole.real) * 128).astype(np.float32).take(self.ids)
        b = ((gy + whole.imag) * 128).astype(np.float32).take(self.ids)
        a *= x
        b *= y
        a += b
        a += (gc * 128).astype(np.float32).take(self.ids)
        np.maximum(a, np.float32(60), out=a)
        np.minimum(a, np.float32(190), out=a)
        return a.astype(np.uint16)
