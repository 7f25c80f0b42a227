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

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops.ordering import Ordering, Similarity
from densebench.ops.precision import full_precision
from densebench.ops.sorting import Distribution, Network, soft_sort


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
