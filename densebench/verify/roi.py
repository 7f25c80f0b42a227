"""Group e: boxes of pairs of crops, and tokens aligned inside them.

Source of the vectors: NeCo ``src/neco_transforms.py`` and the calls of ``torchvision.ops.roi_align`` in ``knn_loss``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torchvision.ops import roi_align

from densebench.ops.roi import PairBoxes, align_pairs, crop_pairs, pair_boxes
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind, holds


def crops(v: Golden) -> Iterator[GoldenCheck]:
    """Intersections in pixels of either view, then the teacher's and the student's tokens inside them.

    A global view paired with itself is no pair: its box is the whole view, and its aligned tokens are left 0.
    """
    boxes, (n_global, n_local) = v["crop_boxes_abs"].transpose(0, 1), v["nmb_crops"].tolist()
    yield holds("nmb_crops counts the boxes", n_global + n_local == len(boxes))
    wide, near = v["size_crops"].tolist()
    pairs = crop_pairs(n_global, len(boxes))
    found = pair_boxes(boxes, n_global, (wide, wide), (near, near))
    gc, every = torch.zeros_like(v["gc_boxes"]), torch.zeros_like(v["all_boxes"])
    for g in range(n_global):
        gc[:, g, g, 2:] = every[:, g, g, 2:] = wide
    for p, (g, c) in enumerate(pairs):
        gc[:, g, c], every[:, c, g] = found.teacher[p].to(gc), found.student[p].to(every)
    yield v.near("gc_boxes", gc, 1e-4)
    yield v.near("all_boxes", every, 1e-4)

    maps, locals_ = v["global_maps"], v["local_maps"]
    in_tokens = PairBoxes(*(side / v.integer("patch") for side in found))
    sides = align_pairs(maps, maps, locals_ if len(locals_) else None, in_tokens, v.integer("roi_kernel"))
    for name, aligned in zip(("teacher_aligned", "student_aligned"), sides, strict=True):
        full = torch.zeros_like(v[name])
        for p, (g, c) in enumerate(pairs):
            full[g, c] = aligned[p]
        yield v.close(name, full, 1e-4)


def plain_align(v: Golden) -> Iterator[GoldenCheck]:
    """Single calls of torchvision, with every set of options that the file holds."""
    for match in v.matches(r"out_aligned([01])_sr(-?\d+)_k(\d+)"):
        aligned, sampling, kernel = map(int, match.groups())
        scale = v.number("spatial_scale")
        found = roi_align(v["feature"], v["boxes"], kernel, scale, sampling, bool(aligned))
        yield v.close(match[0], found, 1e-9)


KINDS = (
    GoldenKind(
        "e_roi",
        "crops and aligned tokens",
        crops,
        "crop_boxes_abs size_crops nmb_crops patch gc_boxes all_boxes global_maps local_maps roi_kernel "
        "teacher_aligned student_aligned",
    ),
    GoldenKind("e_roi_align_plain", "ROI align", plain_align, "feature boxes spatial_scale out_aligned*"),
)
