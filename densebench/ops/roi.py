"""What two crops of one image both show, as token maps that correspond cell by cell.

Each global crop is paired with every other crop. Their intersection is a box in either view, and ROI align reads
the tokens inside it on a fixed grid, so that cell (y, x) of one side and of the other see the same place.

Source: NeCo ``src/neco_transforms.py`` (``calculate_bboxes``) and ``src/neco.py`` (``knn_loss``), after Leopart; the
sampling itself is ``torchvision.ops.roi_align``.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import roi_align

from densebench.ops.precision import widen

Size = tuple[int, int]
"""Height and width."""


class PairBoxes(NamedTuple):
    """The intersection of each pair of crops, once per view; P pairs in the order of :func:`crop_pairs`."""

    teacher: Tensor
    """(P, B, 4) x1, y1, x2, y2 in the view of the pair's global crop."""
    student: Tensor
    """(P, B, 4) the same place in the view of the pair's other crop."""


@cache
def crop_pairs(n_global: int, n_views: int) -> tuple[tuple[int, int], ...]:
    """Return (g, v) for each global crop g and each other crop v of ``n_views``, global ones first: P pairs."""
    return tuple((g, v) for g in range(n_global) for v in range(n_views) if v != g)


def pair_boxes(boxes: Tensor, n_global: int, global_size: Size, local_size: Size | None = None) -> PairBoxes:
    """Return the intersections of all pairs of crops, in units of the views' ``size``.

    Sizes in tokens (37 x 37 for 518 pixels at patch 14) give boxes in tokens, as :func:`align_pairs` reads them; sizes
    in pixels give pixels of the resized views. Nothing here depends on whether a view was mirrored.

    Args:
        boxes: (V, B, 4) x1, y1, x2, y2 of each crop in its image, in any unit, global crops first.
        n_global: number of global crops G.
        global_size: height and width of a global view.
        local_size: height and width of a local view; not needed without local crops.

    Raises:
        ValueError: two crops of a pair do not intersect: draw crops until they do.
    """
    n_views = len(boxes)
    if n_views > n_global and local_size is None:
        raise ValueError(f"{n_views - n_global} of {n_views} crops are local: give their size")
    sizes = [global_size] * n_global + [local_size or global_size] * (n_views - n_global)
    sides = boxes.new_tensor([(width, height) for height, width in sizes])  # (V, 2)
    pairs = crop_pairs(n_global, n_views)
    first, second = boxes.new_tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
    corner = torch.maximum(boxes[first, :, :2], boxes[second, :, :2])  # (P, B, 2)
    opposite = torch.minimum(boxes[first, :, 2:], boxes[second, :, 2:])
    empty = (opposite <= corner).any(-1)
    if bool(empty.any()):
        pair, image = (int(i) for i in empty.nonzero()[0])
        raise ValueError(f"crops {pairs[pair][0]} and {pairs[pair][1]} of image {image} of the batch do not intersect")

    def within(view: Tensor) -> Tensor:
        origin, extent = boxes[view, :, :2], boxes[view, :, 2:] - boxes[view, :, :2]
        return torch.cat([(point - origin) / extent * sides[view, None] for point in (corner, opposite)], dim=-1)

    return PairBoxes(within(first), within(second))


def align_pairs(
    teacher: Tensor,
    student_globals: Tensor,
    student_locals: Tensor | None,
    boxes: PairBoxes,
    kernel: int = 7,
    flips: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the teacher's and the student's tokens of each pair, both (P, B, D, kernel, kernel), float32 at least.

    The teacher sees the pair's global crop, the student the other crop. Cells that lie between tokens are bilinear,
    averaged over as many samples as the box has tokens (``aligned=True``, adaptive sampling).

    Args:
        teacher: (G, B, D, h, w) token maps of the global crops.
        student_globals: (G, B, D, h, w).
        student_locals: (L, B, D, h', w'), or ``None`` without local crops.
        boxes: of P = G (G + L - 1) pairs, in tokens, in the order of :func:`crop_pairs`.
        kernel: cells per side.
        flips: (G + L, B) bool, the views that were mirrored left to right after they were cut. Their maps are
            mirrored back, so that cells correspond; boxes are those of the unmirrored view in any case.

    Raises:
        ValueError: the number of boxes is not that of the pairs.
    """
    n_global = len(teacher)
    n_local = 0 if student_locals is None else len(student_locals)
    pairs = crop_pairs(n_global, n_global + n_local)
    if len(boxes.teacher) != len(pairs):
        raise ValueError(f"{n_global} global and {n_local} local crops make {len(pairs)} pairs, not {len(boxes[0])}")
    if flips is not None:
        teacher, student_globals = unmirror(teacher, flips[:n_global]), unmirror(student_globals, flips[:n_global])
        student_locals = None if student_locals is None else unmirror(student_locals, flips[n_global:])

    seen_by_teacher = _align(teacher, [g for g, _ in pairs], boxes.teacher, kernel)
    of_globals = [p for p, (_, v) in enumerate(pairs) if v < n_global]
    if student_locals is None:
        return seen_by_teacher, _align(student_globals, [pairs[p][1] for p in of_globals], boxes.student, kernel)
    of_locals = [p for p, (_, v) in enumerate(pairs) if v >= n_global]
    parts = (
        _align(student_globals, [pairs[p][1] for p in of_globals], boxes.student[of_globals], kernel),
        _align(student_locals, [pairs[p][1] - n_global for p in of_locals], boxes.student[of_locals], kernel),
    )
    back = sorted(range(len(pairs)), key=[*of_globals, *of_locals].__getitem__)
    return seen_by_teacher, torch.cat(parts)[back]


def unmirror(maps: Tensor, flips: Tensor) -> Tensor:
    """Return maps (..., D, h, w) with those mirrored left to right that ``flips`` (...) names."""
    return torch.where(flips[..., None, None, None], maps.flip(-1), maps)


def _align(maps: Tensor, views: list[int], boxes: Tensor, kernel: int) -> Tensor:
    """Return (P, B, D, kernel, kernel) of maps (V, B, D, h, w): pair p reads ``boxes[p]`` (B, 4) in ``views[p]``."""
    n_images = maps.shape[1]
    view = torch.tensor(views, device=maps.device).unsqueeze(1)
    rows = view * n_images + torch.arange(n_images, device=maps.device)  # (P, B), of the maps as one batch
    flat = widen(maps).flatten(0, 1)
    regions = torch.cat([rows.unsqueeze(-1).to(flat.dtype), boxes.to(flat)], dim=-1)
    return roi_align(flat, regions.flatten(0, 1), kernel, aligned=True).unflatten(0, rows.shape)
