"""Semantic correspondence: where a keypoint of one image is found in another, and how often that is right (PCK).

Coordinates are (x, y) in pixels with the centre of the top left pixel at (0, 0), so an image of width W spans
[-0.5, W - 0.5] and a change of size maps p to (p + 0.5) * new / old - 0.5 (half-pixel centres). That is the rule of
PIL, of ``F.interpolate(align_corners=False)`` and of patch grids, whose cells are the pixels of a small image.

Source of the matching: "Unsupervised Semantic Segmentation Facilitates Model Understanding", A.7 (features upsampled
bilinearly to pixels, argmax of the cosine, PCK per point); DIFT ``eval_spair.py`` has the same in code and adds the
mean over pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from densebench.ops import ties
from densebench.ops.jackknife import GROUPS, group_of
from densebench.ops.resize import resize_maps

FEW = 256
"""Pixels per query that are scored again one by one; with more in question the whole map is, in float64."""


def rescale(points: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return points (..., 2), x then y, of an image of size `old` (H, W) as points of the same image at size `new`."""
    factor = points.new_tensor([new[1] / old[1], new[0] / old[0]])
    return (points + 0.5) * factor - 0.5


def descriptors(features: Tensor, points: Tensor) -> Tensor:
    """Return the features (K, D) at points (K, 2) of a map (D, h, w), bilinear, the border repeated outwards.

    Points are in cells of the map; at the pixel centres of an upsampled map this is what upsampling puts there.
    """
    height, width = features.shape[-2:]
    x, y = points[:, 0].clamp(0, width - 1), points[:, 1].clamp(0, height - 1)
    x0, y0 = x.long(), y.long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    right, down = x - x0, y - y0
    top = features[:, y0, x0] * (1 - right) + features[:, y0, x1] * right
    bottom = features[:, y1, x0] * (1 - right) + features[:, y1, x1] * right
    return (top * (1 - down) + bottom * down).T


def match(queries: Tensor, features: Tensor, size: tuple[int, int], chunk: int = 16) -> Tensor:
    """Return the pixel (K, 2) int64, x then y, whose feature has the largest cosine with each query.

    Features are compared as if the map had been upsampled bilinearly to `size` and normalised there. The upsampled
    map (D, H, W) is never built: dot products with a query upsample as well as the features do, and the lengths
    follow from the dot products of neighbouring cells. Near ties go to the first pixel, row by row, by the rule of
    :mod:`densebench.ops.ties`: they are common, for the rim of an upsampled map repeats its outermost cells.

    Args:
        queries: (K, D), K >= 1, of any length.
        features: (D, h, w).
        size: (H, W) of the pixels to choose from; the map's own size compares cells.
        chunk: queries per step, which bounds the temporary (chunk, H, W).
    """
    lengths = upsampled_lengths(features, size)
    # Rounding moves a dot product by u n F and a squared length by u n F^2, F being the cells' upsampled lengths, and
    # places by u (h + w) cells: so a cosine by no more than u n (r + r^2 / 2), r = F / length >= 1, times the query's.
    stretch = resize_maps(features.norm(dim=0)[None, None], size)[0, 0] / lengths.clamp(min=1e-12)
    n_terms = len(features) + 4 * sum(features.shape[1:]) + 8
    off = ties.margin(1.5 * stretch.flatten().clamp(min=1).square(), n_terms, features.dtype) / 2
    off = off.to(features.dtype)
    found = []
    for some in queries.split(chunk):
        scores, norms = _cosines(some, features, lengths), some.norm(dim=1, keepdim=True)
        best = scores.argmax(1)
        sure = scores.gather(1, best[:, None]) - norms * off[best, None]
        at, pixel = (scores.addcmul_(norms, off) >= sure).nonzero(as_tuple=True)
        count = at.bincount(minlength=len(some))
        few = (count > 1) & (count <= FEW)
        if bool(few.any()):
            at, pixel = at[few[at]], pixel[few[at]]
            best[few] = _first_of(some, features, size, at, pixel)[few]
        crowded = (count > FEW).nonzero().squeeze(1)
        if len(crowded):
            wide = features.double()
            exact = _cosines(some[crowded].double(), wide, upsampled_lengths(wide, size))
            best[crowded] = ties.first_greatest(exact, norms[crowded])
        found.append(best)
    place = torch.cat(found)
    return torch.stack([place % size[1], place // size[1]], dim=1)


def _cosines(queries: Tensor, features: Tensor, lengths: Tensor) -> Tensor:
    """Return cosines times the query's length (K, H * W), of queries (K, D) and a map (D, h, w) at lengths (H, W)."""
    dots = torch.einsum("kd,dhw->khw", queries, features)
    return (resize_maps(dots[None], (lengths.shape[0], lengths.shape[1]))[0] / lengths.clamp(min=1e-12)).flatten(1)


def _first_of(
    queries: Tensor, features: Tensor, size: tuple[int, int], at: Tensor, pixel: Tensor, block: int = 1024
) -> Tensor:
    """Return the best pixel (K,) of each query by the rule, among pairs (P,) of a query `at` and a pixel."""
    scores = []
    for rows, places in zip(at.split(block), pixel.split(block), strict=True):
        points = torch.stack([places % size[1], places // size[1]], dim=1).double()
        cells = rescale(points, size, (features.shape[1], features.shape[2]))
        found = F.normalize(descriptors(features, cells), dim=1)
        q = queries[rows].double()
        scores.append(((q * found).sum(1) / ties.step_of(q.norm(dim=1))).round_())
    score = torch.cat(scores)
    top = score.new_full((len(queries),), -torch.inf).scatter_reduce(0, at, score, "amax")
    first = score == top[at]
    return pixel.new_zeros(len(queries)).scatter_reduce(0, at[first], pixel[first], "amin", include_self=False)


def upsampled_lengths(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the L2 norms (H, W) of a map (D, h, w) upsampled bilinearly to `size`, without building (D, H, W).

    A pixel is a weighted sum of four cells; its squared length is the sum of their ten dot products, weighted.
    """
    cells = F.pad(features[None], (0, 1, 0, 1), mode="replicate")[0]
    corners = (cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:])
    (rows, down), (columns, right) = (
        _taps(old, new, features) for old, new in zip(features.shape[-2:], size, strict=True)
    )
    up, left, down, right = 1 - down[:, None], 1 - right, down[:, None], right
    weights = (up * left, up * right, down * left, down * right)
    squared = features.new_zeros(size)
    for i, j in itertools.combinations_with_replacement(range(4), 2):
        dots = (corners[i] * corners[j]).sum(0)[rows][:, columns]
        squared += (1 if i == j else 2) * weights[i] * weights[j] * dots
    return squared.clamp(min=0).sqrt()


def _taps(old: int, new: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cell left of each new pixel centre, and the weight of the cell to its right in the type of `like`."""
    place = ((torch.arange(new, device=like.device, dtype=like.dtype) + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
    return place.long(), place - place.floor()


def correct(predicted: Tensor, truth: Tensor, extent: float, alphas: Sequence[float]) -> Tensor:
    """Return which predictions (K, 2) lie within alpha * extent of the truth (K, 2), (A, K) bool; the rim counts.

    `extent` is the longer side in pixels of the target's bounding box (or of its image): the larger, the easier.
    """
    distance = (predicted.double() - truth.double()).square().sum(-1).sqrt()
    return distance <= torch.tensor(alphas, dtype=torch.float64, device=distance.device)[:, None] * extent


class PCK:
    """Streams pairs of images into percentages of correct keypoints, by category, apart by groups of images.

    "Per point" pools the keypoints of all pairs; "per image" is the mean over pairs of each pair's share, so that a
    pair with one keypoint weighs as much as one with thirty. Memory does not depend on the number of pairs.

    Groups are of images, not of pairs, because pairs that share an image are not independent: where a group is left
    out, so is every pair with an image of it, source or target.
    """

    def __init__(self, n_categories: int, n_alphas: int, n_groups: int = GROUPS) -> None:
        self._sums = torch.zeros(n_categories, 2, n_alphas + 1, dtype=torch.float64)
        self._touched = torch.zeros(n_groups, *self._sums.shape, dtype=torch.float64)

    def update(self, category: int, source: int, target: int, hits: Tensor) -> None:
        """Add one pair: its category, the stable indices of its images, and `hits` (A, K) of :func:`correct`.

        Raises ValueError for a pair without a keypoint, which has no share of correct ones.
        """
        n_points = hits.shape[1]
        if not n_points:
            raise ValueError(f"the pair of images {source} and {target} has no keypoint in common")
        right = hits.cpu().double().sum(1)
        added = torch.stack([torch.cat([right, right.new_tensor([n_points])]), torch.cat([right, right.new_ones(1)])])
        added[1, :-1] /= n_points
        self._sums[category] += added
        for group in {group_of(image, len(self._touched)) for image in (source, target)}:
            self._touched[group, category] += added

    def overall(self) -> Tensor:
        """Return PCK (2, A) in [0, 1]: row 0 per point, row 1 per image."""
        return _shares(self._sums.sum(0))

    def by_category(self) -> Tensor:
        """Return PCK (C, 2, A) in [0, 1], NaN for a category without pairs."""
        return _shares(self._sums)

    def left_out(self) -> Tensor:
        """Return PCK (G, 2, A) without each group of images in turn that has a pair, NaN where no pair is left.

        Categories weigh as they do in all pairs: that a group has more images of a hard one is no chance of the
        draw. A category that has no pair left is left out.
        """
        rest = self._sums - self._touched[self._touched.flatten(1).any(1)]
        left = rest[..., -1:] > 0
        weights = self._sums[..., -1:] * left
        return (torch.where(left, _shares(rest), 0.0) * weights).sum(1) / weights.sum(1)

    def counted(self) -> Tensor:
        """Return the number of keypoints and of pairs per category, (C, 2) int64."""
        return self._sums[..., -1].long()


def _shares(sums: Tensor) -> Tensor:
    return sums[..., :-1] / sums[..., -1:]  # 0 / 0 is NaN: nothing to say, rather than 0


def draw_pairs(
    categories: Sequence[int],
    images: Sequence[int],
    visible: Sequence[NDArray[np.bool_]],
    n_pairs: int | None,
    seed: int,
) -> list[tuple[int, int]]:
    """Return ordered pairs (source, target) of objects of one category in two images that share a keypoint, sorted.

    All such pairs are equally likely, so a category weighs by the square of its objects. Nothing that grows with the
    square of the number of objects is held unless all pairs are asked for.

    Args:
        categories: of each object.
        images: the image of each object.
        visible: (K,) per object, which of its keypoints are seen; K is one number per category.
        n_pairs: at most so many; None takes all.
        seed: of numpy's default generator; equal seeds give equal pairs.
    """
    groups = [np.flatnonzero(np.asarray(categories) == c) for c in sorted(set(categories))]
    ends = np.cumsum([len(group) ** 2 for group in groups])
    total = int(ends[-1]) if len(ends) else 0
    asked = total if n_pairs is None else min(total, 2 * n_pairs)
    while True:  # some draws are of one image or share nothing: then more are drawn
        codes = np.random.default_rng(seed).choice(max(total, 1), asked, replace=False)
        usable = (
            (a, b)
            for a, b in _decode(codes, groups, ends)
            if images[a] != images[b] and (visible[a] & visible[b]).any()
        )
        found = list(itertools.islice(usable, n_pairs))
        if asked == total or len(found) == n_pairs:
            return sorted(found)
        asked = min(total, 2 * asked)


def _decode(
    codes: NDArray[np.int64], groups: list[NDArray[np.intp]], ends: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield the two objects behind each number in [0, sum of squared group sizes)."""
    for code in codes:
        g = int(np.searchsorted(ends, code, side="right"))
        source, target = divmod(int(code) - int(ends[g] - len(groups[g]) ** 2), len(groups[g]))
        yield int(groups[g][source]), int(groups[g][target])
