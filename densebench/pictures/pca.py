"""Feature maps as colours: the first three principal components of patches as red, green and blue.

Components and range are those of all chosen images of one model, so that a colour means the same in each of them. It
means nothing across models: each has components of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, enlarge
from densebench.ops.clustering import StreamingMoments, leading_eigenvectors
from densebench.pictures.view import Kind, Model, View

CUT = 0.01
"""Share of the patches beyond each end of a component's range."""


def pca_rgb(maps: Tensor) -> Picture:
    """Return feature maps (N, D, h, w) as colours (N, h, w, 3) of their first three components.

    The sign of a component is that of its greatest entry, its range is without CUT at either end. A component that does
    not vary, as of a single patch, is grey.
    """
    rows = maps.movedim(1, -1).flatten(0, -2).double()
    moments = StreamingMoments(rows.shape[1])
    moments.update(rows)
    components = leading_eigenvectors(moments.covariance, min(3, rows.shape[1]))
    values = (rows - moments.mean) @ components.T
    low, high = torch.quantile(_sample(values), torch.tensor([CUT, 1 - CUT], dtype=torch.float64), dim=0)
    span = high - low
    still = span <= 1e-9 * moments.covariance.diagonal().sum().sqrt().clamp(min=1e-30)
    part = torch.where(still, 0.5, (values - low) / span.masked_fill(still, 1)).clamp(0, 1)
    out = torch.full((len(rows), 3), 0.5, dtype=torch.float64)
    out[:, : part.shape[1]] = part
    n, _, height, width = maps.shape
    return (255 * out).round().to(torch.uint8).view(n, height, width, 3).numpy()


def _sample(values: Tensor, most: int = 1_000_000) -> Tensor:
    """Return evenly spaced rows: `torch.quantile` takes so many values at once."""
    return values[:: -(-len(values) // most)]


class Pca(Kind[Picture]):
    """Feature maps beside their images."""

    name = "pca"

    def show(self, view: View, model: Model) -> Picture:
        """Return the colours (N, h, w, 3) of the chosen images."""
        return pca_rgb(model.maps(view.chosen))

    def draw(self, view: View, shown: Mapping[str, Picture]) -> Mapping[str, bytes]:
        """Return the images in the first column, a column per model beside them."""
        rows: dict[str, list[Picture | None]] = {}
        for i, (index, id_) in enumerate(zip(view.images, view.ids, strict=True)):
            image = view.image(index)
            rows[id_] = [image, *(enlarge(maps[i], image.shape[:2]) for maps in shown.values())]
        return {self.name: figures.picture_grid(rows, ["image", *shown])}


KIND = Pca()
