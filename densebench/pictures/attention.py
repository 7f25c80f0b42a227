"""Attention over the layers: matrices of all patches, and where one patch looks.

As figure 8 of the positional study (POS): matrices in black and white, maps of single queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densebench.core.environment import available_memory
from densebench.core.errors import UsageError
from densebench.features.attention import check_attention
from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, enlarge, framed, scale_of
from densebench.pictures.view import Kind, Model, View, box_of, patch_at, point_of

PERCENTILE = 95.0
"""Above it a matrix is white (POS figure 8a)."""


class Attention(NamedTuple):
    """What one model attends to, by layer from 0."""

    matrices: dict[int, NDArray[np.floating]]
    """(P, P), rows = queries, mean of heads and images; 1 where attention is even."""
    maps: dict[int, list[NDArray[np.floating]]]
    """(h, w) per image, of the patch asked about."""
    patches: list[tuple[int, int]]


def patch_attention(attention: Tensor, prefix: int) -> Tensor:
    """Return the mean over heads (P, P) of attention (heads, N, N) among the P = N - prefix patches.

    Each query's attention to patches adds up to P, so that 1 is even; one that attends to none is 0 everywhere.
    """
    mean = attention.double().mean(0)[prefix:, prefix:]
    return mean * (len(mean) / mean.sum(1, keepdim=True).clamp(min=1e-30))


def binarize(matrix: NDArray[np.floating], percentile: float = PERCENTILE) -> Picture:
    """Return a matrix (P, P) in black and white (P, P, 3): white above the percentile of its entries."""
    white = matrix > np.percentile(matrix, percentile)
    return np.repeat((255 * white).astype(np.uint8)[..., None], 3, axis=2)


def _check_memory(n_matrices: int, n_patches: int) -> None:
    """Raise UsageError for so many matrices of so many patches in float64 that they do not fit."""
    needed, free = 8 * n_matrices * n_patches**2, available_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"attention of {n_patches} patches needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free. "
            "Give a smaller --input-size, or one --layer."
        )


class AttentionMaps(Kind[Attention]):
    """A row per layer."""

    name = "attention"

    def show(self, view: View, model: Model) -> Attention:
        """Return matrices and maps of the layers; raises ModelError for a model whose attention cannot be read."""
        source = model.source
        check_attention(source.backbone)
        spec = replace(model.spec, keys=(), attention=model.layers)
        grid, n = spec.grid(source.info), len(view.images)
        _check_memory(len(model.layers) + source.info.heads, grid[0] * grid[1])
        patches = [patch_at(point_of(view, self.name, index, grid), grid) for index in view.images]
        sums = {layer: torch.zeros(grid[0] * grid[1], grid[0] * grid[1], dtype=torch.float64) for layer in model.layers}
        maps: dict[int, list[NDArray[np.floating]]] = {layer: [] for layer in model.layers}
        for i, batch in enumerate(source.stream(view.chosen, spec, batch_size=1, title="attention")):
            row, column = patches[i]
            for layer, attention in zip(model.layers, batch.attention, strict=True):
                found = patch_attention(attention[0], source.info.prefix).cpu()
                sums[layer] += found / n
                maps[layer].append(found[row * grid[1] + column].view(*grid).numpy())
        return Attention({layer: matrix.numpy() for layer, matrix in sums.items()}, maps, patches)

    def draw(self, view: View, shown: Mapping[str, Attention]) -> Mapping[str, bytes]:
        """Return the matrix and a map per image and model, a row per layer, maps on one scale."""
        images = [view.image(index) for index in view.images]
        every = [m for found in shown.values() for maps in found.maps.values() for m in maps]
        scale = scale_of("attention (1: even)", every, cut=1.0, colors="magma")
        columns, top = [], list[Picture | None]()
        for name, found in shown.items():
            columns += [f"{name}\nmatrix", *(f"{name}\n{id_}" for id_ in view.ids)]
            grid = next(iter(found.maps.values()))[0].shape
            boxes = [box_of(patch, grid, image.shape[:2]) for patch, image in zip(found.patches, images, strict=True)]
            top += [None, *(framed(image, box) for image, box in zip(images, boxes, strict=True))]
        rows: dict[str, list[Picture | None]] = {"patch of": top}
        for layer in sorted({layer for found in shown.values() for layer in found.maps}):
            row: list[Picture | None] = []
            for found in shown.values():
                if layer not in found.maps:
                    row += [None] * (1 + len(images))
                    continue
                row.append(binarize(found.matrices[layer]))
                for image, values in zip(images, found.maps[layer], strict=True):
                    row.append(enlarge(scale.paint(values), image.shape[:2]))
            rows[f"layer {layer + 1}"] = row
        return {self.name: figures.picture_grid(rows, columns, scale=scale)}


KIND = AttentionMaps()
