"""NeCo: a student patch should rank reference patches by similarity as its teacher patch does.

For each patch its similarities to n reference patches are sorted by a differentiable network, once for student and
once for teacher; the loss is the cross-entropy between the two soft permutations.

Source: "Near, far: Patch-ordering enhances vision foundation models' scene understanding", section 3 and appendix A.1;
numbers as in NeCo ``src/neco.py`` (``compute_knn_perm_mat``, ``compute_knn_subloss``, ``knn_loss``). Where the two
disagree, the defaults are those of the code: Cauchy comparisons, similarities in ascending order, and the teacher's
order as the target of the student's only (the paper adds the reverse).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.errors import UsageError
from densebench.ops.precision import full_precision
from densebench.ops.sorting import Distribution, Network, check_sorting, soft_sort

Similarity: TypeAlias = Literal["cosine", "euclidean"]


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """How patches are ranked and two rankings compared; UsageError for settings that end in NaN."""

    similarity: Similarity = "cosine"
    """Of a patch and a reference; ``"euclidean"`` is their distance."""
    steepness: float = 100.0
    """Of the student's comparisons."""
    teacher_steepness: float = 100.0
    network: Network = "bitonic"
    distribution: Distribution = "cauchy"
    art_lambda: float = 0.25
    two_sided: bool = False
    """Add the cross-entropy of the teacher's order under the student's, as in the paper."""
    floor: float = 0.0
    """Probabilities below it count as it inside the logarithm, and pass no gradient. 0 leaves them alone."""

    def __post_init__(self) -> None:
        check_ordering(self)


def check_ordering(ordering: Ordering) -> None:
    """Raise UsageError for an unknown name, a number out of range, and settings whose loss is NaN.

    The Cauchy function approaches 0 and 1 slowly; the logistic ones round to exactly 0 and 1 in float32 once their
    argument passes 25 log 2 = 17.3, and 0 log 0 is NaN. Cosines differ by 2 at most, hence 100 in the paper's
    ``logistic_phi`` (argument up to 168) is refused and 10 (16.8) is not; distances have no such bound.
    """
    if ordering.similarity not in get_args(Similarity):
        known = ", ".join(get_args(Similarity))
        raise UsageError(f"unknown similarity {ordering.similarity!r}; expected one of {known}.")
    if not 0 <= ordering.floor < 1:
        raise UsageError(f"floor={ordering.floor}: expected a probability in [0, 1).")
    for steepness in (ordering.steepness, ordering.teacher_steepness):
        try:
            check_sorting(ordering.network, ordering.distribution, steepness, ordering.art_lambda)
        except ValueError as error:
            raise UsageError(f"{error}.") from error
    if ordering.distribution == "cauchy" or ordering.floor > 0:
        return
    logged = [ordering.steepness, *([ordering.teacher_steepness] if ordering.two_sided else [])]
    power = 1 - ordering.art_lambda if ordering.distribution == "logistic_phi" else 1
    highest = 25 * math.log(2) / 2**power if ordering.similarity == "cosine" else 0.0
    if max(logged) > highest:
        gentler = f"a steepness of {math.floor(10 * highest) / 10:g} or less, " if highest else ""
        raise UsageError(
            f"distribution={ordering.distribution} with steepness={max(logged):g} and similarity={ordering.similarity} "
            "rounds probabilities to 0, whose logarithm makes the loss NaN; choose distribution=cauchy (what the "
            f"published code runs), {gentler}or a floor such as floor=1e-12."
        )


@full_precision
def soft_orders(
    maps: Tensor,
    reference: Tensor,
    steepness: float = 100.0,
    similarity: Similarity = "cosine",
    network: Network = "bitonic",
    distribution: Distribution = "cauchy",
    art_lambda: float = 0.25,
) -> Tensor:
    """Return the soft rank of each reference for each patch, (B, n, n, h, w) in [0, 1].

    Entry [b, k, j, y, x] is the probability that, for patch (y, x) of image b, reference j is the k-th in ascending
    order of similarity (or of distance). Sums over k and over j are 1.

    Args:
        maps: (B, D, h, w) patches.
        reference: (B, D, h', w') references of each image, n = h' w' in row-major order.
        steepness: of the comparisons.
        similarity: ``"cosine"`` or ``"euclidean"``.
        network: see :func:`~densebench.ops.sorting.soft_sort`, as are the following.
        distribution: of the comparisons.
        art_lambda: of ``"logistic_phi"``.
    """
    patches, others = maps.flatten(2).mT, reference.flatten(2).mT  # (B, hw, D), (B, n, D)
    if similarity == "cosine":
        alike = F.normalize(patches, dim=-1) @ F.normalize(others, dim=-1).mT
    else:
        alike = torch.cdist(patches, others)
    matrix = soft_sort(alike.flatten(0, 1), network, distribution, steepness, art_lambda).matrix  # (B hw, j, k)
    return matrix.unflatten(0, (len(maps), *maps.shape[2:])).permute(0, 4, 3, 1, 2)


@full_precision
def neco_loss(student: Tensor, teacher: Tensor, reference: Tensor, ordering: Ordering) -> Tensor:
    """Return the NeCo loss, a scalar >= 0, of aligned patches: gradient reaches the student's patches only.

    As coded: -q log p is summed over the ranks k and averaged over images, references and patches, so it is 1/n of
    the paper's double sum, per patch. ``ordering.two_sided`` adds -p log q in the same units.

    Args:
        student: (B, D, h, w) patches at the same places as the teacher's, for instance from
            :func:`~densebench.ops.roi.align_pairs`.
        teacher: (B, D, h, w).
        reference: (B, D, h', w') n = h' w' references of each image, for student and teacher alike.
        ordering: how to rank.
    """
    o = ordering
    reference = reference.detach()
    p = soft_orders(student, reference, o.steepness, o.similarity, o.network, o.distribution, o.art_lambda)
    with torch.no_grad():
        q = soft_orders(teacher, reference, o.teacher_steepness, o.similarity, o.network, o.distribution, o.art_lambda)
    loss = _cross_entropy(q, p, o.floor)
    return loss + _cross_entropy(p, q, o.floor) if o.two_sided else loss


def neco_pair_loss(
    student: Tensor,
    teacher: Tensor,
    sources: Sequence[int],
    ordering: Ordering,
    *,
    queue: Tensor | None = None,
    filled: int = 0,
    permutations: Tensor | None = None,
) -> Tensor:
    """Return the NeCo loss of a batch of multi-crop views, a scalar: the mean over pairs of crops.

    Args:
        student: (P, B, D, k, k) aligned patches from :func:`~densebench.ops.roi.align_pairs`; each has k^2 references.
        teacher: (P, B, D, k, k).
        sources: the global crop of each pair.
        ordering: how to rank.
        queue: (G, Q, D) teacher tokens of earlier steps per global crop, the newest first; see :func:`references`.
        filled: rows of the queue to draw from; at 0 the batch is drawn from.
        permutations: (P, M) row numbers per pair, see :func:`references`; drawn at random if ``None``.
    """
    losses = []
    for p, g in enumerate(sources):
        source = queue[g] if queue is not None and filled else None
        drawn = references(teacher[p], source, filled, None if permutations is None else permutations[p])
        losses.append(neco_loss(student[p], teacher[p], drawn, ordering))
    return torch.stack(losses).mean()


def references(
    teacher: Tensor, queue: Tensor | None = None, filled: int = 0, permutation: Tensor | None = None
) -> Tensor:
    """Return references (B, D, h, w), one per patch of the teacher's aligned patches (B, D, h, w), detached.

    Without a queue the patches of the batch change places at random. With one, its rows are drawn instead: row
    numbers are the start of a permutation of the whole queue, modulo ``filled`` (so that rows repeat while it fills).

    Args:
        teacher: (B, D, h, w).
        queue: (Q, D) earlier tokens, Q >= B h w, the newest first.
        filled: rows of the queue in use, in [1, Q].
        permutation: (B h w,) of the batch's patches or (Q,) of the queue's rows; drawn from torch's generator if
            ``None``.

    Raises:
        ValueError: the queue is shorter than the number of references, or ``filled`` is out of range.
    """
    n_images, width, *cells = teacher.shape
    n = n_images * math.prod(cells)
    rows = teacher.permute(0, 2, 3, 1).reshape(n, width) if queue is None else queue
    if len(rows) < n:
        raise ValueError(f"a queue of {len(rows)} tokens is too short for {n} references")
    if queue is not None and not 1 <= filled <= len(queue):
        raise ValueError(f"filled lies in [1, {len(queue)}], got {filled}")
    order = torch.randperm(len(rows), device=rows.device) if permutation is None else permutation.to(rows.device)
    chosen = order[:n].long() if queue is None else order[:n].long() % filled
    return rows.detach()[chosen].view(n_images, *cells, width).permute(0, 3, 1, 2)


def _cross_entropy(target: Tensor, prediction: Tensor, floor: float) -> Tensor:
    """Return the mean over images, references and patches of -target log prediction, summed over ranks (dim 1)."""
    log = (prediction.clamp(min=floor) if floor else prediction).log()
    return -(target * log).sum(1).mean()
