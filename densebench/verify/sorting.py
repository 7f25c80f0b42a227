"""Group c: differentiable sorting networks, and the NeCo loss on one pair of crops and on a batch.

Source of the vectors: diffsort ``DiffSortNet``; NeCo ``src/neco.py``. Network, distribution and similarity stand in
the names of files only, see `settings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.ops.neco import Ordering, neco_loss, neco_pair_loss, soft_orders
from densebench.ops.roi import PairBoxes, align_pairs, crop_pairs
from densebench.ops.sorting import soft_sort
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind, holds
from densebench.verify.settings import candidates, closest

LEAST_FLOOR = 5e-324
"""The least double: a floor that no probability lies below. It lifts the refusal of logistic settings, nothing else."""
FLOOR = 1e-30


def sorting(v: Golden) -> Iterator[GoldenCheck]:
    """Sorted values and soft permutations, at every steepness that the file holds."""
    steepness = {match[1]: float(match[1]) for match in v.matches(r"(?:sorted|perm)_s([\d.]+)")}

    def attempt(**settings: str) -> list[GoldenCheck]:
        findings = []
        for tag, value in steepness.items():
            art = v.number("art_lambda")
            found = soft_sort(v["x"], **settings, steepness=value, art_lambda=art)  # type: ignore[arg-type]
            findings += [
                v.close(f"sorted_s{tag}", found.values, 1e-10),
                v.close(f"perm_s{tag}", found.matrix, 1e-10),
            ]
        return findings

    yield from closest((s, attempt(**s)) for s in candidates(v.name, "network", "distribution"))


def pair_loss(v: Golden) -> Iterator[GoldenCheck]:
    """Soft orders of student and teacher, the loss and its gradient in float64 and float32.

    Where the reference ends in NaN (``finite`` or ``finite_f32`` is 0) its orders are compared, and our code must
    refuse the settings, and with a floor under the probabilities give a finite loss.
    """

    def attempt(**settings: str) -> list[GoldenCheck]:
        ordering = Ordering(
            **settings,  # type: ignore[arg-type]
            steepness=v.number("steepness_student"),
            teacher_steepness=v.number("steepness_teacher"),
            art_lambda=v.number("art_lambda"),
            floor=LEAST_FLOOR,
        )
        found = list(_orders(v, ordering))
        for tag, dtype, tolerance in (("f64", torch.float64, 1e-8), ("f32", torch.float32, 1e-4)):
            found += _loss(v, ordering, tag, dtype, tolerance)
        return found

    yield from closest((s, attempt(**s)) for s in candidates(v.name, "network", "distribution", "similarity"))


def _orders(v: Golden, o: Ordering) -> Iterator[GoldenCheck]:
    for side, steepness, name in (("student", o.steepness, "p"), ("teacher", o.teacher_steepness, "q")):
        found = soft_orders(v[side], v["reference"], steepness, o.similarity, o.network, o.distribution, o.art_lambda)
        stored = v[name]  # float32, and the first image only when large
        yield v.close(name, found[: len(stored)], 1e-6)
        if name == "p":
            yield v.exact("roi", v["student"].shape[-1])
            shape = torch.tensor(found.shape)
            yield v.exact("p_shape", torch.cat([v["p_shape"][:1].cpu(), shape[1:]]))
            yield v.close("min_p", found.min(), 1e-6)


def _loss(v: Golden, ordering: Ordering, tag: str, dtype: torch.dtype, tolerance: float) -> Iterator[GoldenCheck]:
    student, teacher, reference = (v[name].to(dtype) for name in ("student", "teacher", "reference"))
    student.requires_grad_()
    finite = bool(v.integer("finite" if tag == "f64" else "finite_f32"))
    if not finite:
        yield holds(f"loss_{tag} is NaN", math.isnan(v.number(f"loss_{tag}")))
        yield holds(f"settings whose loss is NaN are refused ({tag})", _refuses(ordering))
        ordering = replace(ordering, floor=FLOOR)
    loss = neco_loss(student, teacher, reference, ordering)
    (gradient,) = torch.autograd.grad(loss, student)
    if finite:
        yield holds(f"the loss keeps the type of its tokens ({tag})", loss.dtype == dtype)
        yield v.close(f"loss_{tag}", loss, tolerance)
        yield v.close(f"grad_student_{tag}", gradient, tolerance)
    else:
        yield holds(
            f"a floor makes loss and gradient finite ({tag})", bool(loss.isfinite() & gradient.isfinite().all())
        )


def _refuses(ordering: Ordering) -> bool:
    try:
        replace(ordering, floor=0.0)
    except UsageError:
        return True
    return False


def batch_loss(v: Golden) -> Iterator[GoldenCheck]:
    """The loss of all pairs of crops of a batch, ROI align inside, with references from the batch or a queue."""
    n_images = v.integer("bs")
    n_global, n_local = v["nmb_crops"].tolist()
    tokens = {f"student_{side}_tokens": v[f"student_{side}_tokens"].requires_grad_() for side in ("global", "local")}

    def maps(flat: Tensor, side: int) -> Tensor:  # (crops, B, D, h, w) of tokens, crop after crop
        return flat.view(-1, n_images, side, side, flat.shape[-1]).permute(0, 1, 4, 2, 3)

    pairs = crop_pairs(n_global, n_global + n_local)
    gc, every = v["gc_boxes"] / v.integer("patch"), v["all_boxes"] / v.integer("patch")
    boxes = PairBoxes(torch.stack([gc[:, g, c] for g, c in pairs]), torch.stack([every[:, c, g] for g, c in pairs]))
    wide, near = v.integer("grid_global"), v.integer("grid_local")
    seen, predicted = align_pairs(
        maps(v["teacher_tokens"], wide),
        maps(tokens["student_global_tokens"], wide),
        maps(tokens["student_local_tokens"], near) if n_local else None,
        boxes,
        v.integer("roi_kernel"),
    )
    loss = neco_pair_loss(
        predicted,
        seen,
        [g for g, _ in pairs],
        Ordering(steepness=v.number("steepness"), teacher_steepness=v.number("steepness")),
        queue=v["queue"] if v["queue"].numel() else None,
        filled=v.integer("entries_in_queue"),
        permutations=v["reference_permutations"],
    )
    yield v.close("loss", loss, 1e-5)
    gradients = torch.autograd.grad(loss, list(tokens.values()), allow_unused=True)
    for side, gradient in zip(("global", "local"), gradients, strict=True):
        if gradient is not None:
            yield v.close(f"grad_student_{side}", gradient, 1e-4)


KINDS = (
    GoldenKind("c_diffsort", "soft sorting", sorting, "x art_lambda sorted_s* perm_s*"),
    GoldenKind(
        "c_neco_loss",
        "NeCo loss",
        pair_loss,
        "student teacher reference steepness_student steepness_teacher art_lambda roi finite finite_f32 loss_f64 "
        "grad_student_f64 min_p p_shape p q loss_f32 grad_student_f32",
    ),
    GoldenKind(
        "c_neco_full",
        "NeCo loss of a batch",
        batch_loss,
        "teacher_tokens student_global_tokens student_local_tokens gc_boxes all_boxes bs grid_global grid_local "
        "nmb_crops patch roi_kernel steepness reference_permutations queue entries_in_queue loss grad_student_global "
        "grad_student_local",
    ),
)
