"""Losses that ask two sets of patch tokens for the same similarities, not for the same features.

All take student and teacher tokens (..., N, D), one row per patch, and return one loss per batch element, (...).
They compute in float32 at least, float64 for float64 tokens, also under autocast. No argument is detached, and no row
is normalised unless ``cosine`` asks for it. Ks = S S' and Kt = T T' are the linear Gram matrices (N, N); H = I - 11'/N
centres.

Source: "Patch-level Kernel Alignment for Dense Self-Supervised Learning", 3.2 and 3.3 (CKA and Gram; HSIC and MMD are
named in table 5a but not defined, so their kernels and scale are a choice: linear or RBF, biased). CKA is that of
Kornblith et al. 2019, HSIC of Gretton et al. 2005, MMD of Gretton et al. 2012.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops.precision import full_precision


@full_precision
def cka(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - <HKsH, HKtH> / (|HKsH| |HKtH|), (...) in [0, 1]: linear CKA as a loss.

    The widths D of student (..., N, D) and teacher (..., N, D') may differ. Neither orthogonal maps nor scaling of
    all tokens, nor an offset common to all, change it. Tokens that are all equal have no direction to compare: the
    loss is 1 and its gradient 0.
    """
    s, t = _centre(student), _centre(teacher)
    n, d, e = s.shape[-2], s.shape[-1], t.shape[-1]
    cross, own_s, own_t = _inner_products(s, t, by_grams=n * (d + e) <= d * d + d * e + e * e)
    # The root of 0 has no gradient, and 0 / 0 is NaN; where a side is 0, so is `cross`, and any divisor will do.
    norms = torch.where(own_s > 0, own_s, 1.0).sqrt() * torch.where(own_t > 0, own_t, 1.0).sqrt()
    return 1 - cross / norms


@full_precision
def gram(
    student: Tensor, teacher: Tensor, *, cosine: bool = False, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """Return |Ks - Kt|^2, (...) >= 0: the squared Frobenius norm of the difference of the Gram matrices.

    Args:
        student: (..., N, D).
        teacher: (..., N, D'); the widths may differ.
        cosine: normalise each token first, so that the Gram matrices hold cosines.
        reduction: ``"mean"`` divides by N^2.
    """
    s, t = _unit_rows(student, teacher) if cosine else (student, teacher)
    difference = s @ s.mT - t @ t.mT  # the D x D form would cancel where the two nearly agree
    return difference.square().sum((-2, -1)) if reduction == "sum" else difference.square().mean((-2, -1))


@full_precision
def hsic(student: Tensor, teacher: Tensor, *, cosine: bool = False) -> Tensor:
    """Return -<HKsH, HKtH> / (N - 1)^2, (...) <= 0: the biased Hilbert-Schmidt independence criterion, negated.

    Needs N >= 2. Unlike CKA it has no lower bound: it falls with the square of the student's scale, unless ``cosine``
    normalises each token.
    """
    s, t = _unit_rows(student, teacher) if cosine else (student, teacher)
    s, t = _centre(s), _centre(t)
    n, d, e = s.shape[-2], s.shape[-1], t.shape[-1]
    product = (s @ s.mT) * (t @ t.mT) if n * (d + e) <= d * e else (s.mT @ t).square()  # as in _inner_products
    return -product.sum((-2, -1)) / (n - 1) ** 2


@full_precision
def mmd_linear(student: Tensor, teacher: Tensor) -> Tensor:
    """Return |mean of S - mean of T|^2, (...) >= 0: squared maximum mean discrepancy, linear kernel."""
    return (student.mean(-2) - teacher.mean(-2)).square().sum(-1)


@full_precision
def mmd_rbf(student: Tensor, teacher: Tensor, *, sigma: float | None = None) -> Tensor:
    """Return the squared maximum mean discrepancy, (...) >= 0, biased, of k(a, b) = exp(-|a - b|^2 / (2 sigma^2)).

    Args:
        student: (..., N, D).
        teacher: (..., M, D).
        sigma: width of the kernel in units of the features; ``None`` takes sqrt(D), about the distance of tokens
            whose entries vary by one. Unit-length tokens lie much closer: give about 1.
    """
    width = student.shape[-1] ** 0.5 if sigma is None else sigma

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(-2)
        return torch.exp((a @ b.mT - squares / 2) / width**2)

    return _discrepancy(kernel, student, teacher)


@full_precision
def mmd_poly2(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy, (...) >= 0, biased, of the kernel k(a, b) = (a.b / D)^2."""
    return _discrepancy(lambda a, b: (a @ b.mT / a.shape[-1]).square(), student, teacher)


KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cka": cka,
    "gram": gram,
    "hsic": hsic,
    "mmd_linear": mmd_linear,
    "mmd_rbf": mmd_rbf,
}
"""The losses a method can be asked for by name, each with its defaults."""


def _centre(tokens: Tensor) -> Tensor:
    return tokens - tokens.mean(-2, keepdim=True)


def _unit_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)


def _discrepancy(kernel: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    within = kernel(student, student).mean((-2, -1)) + kernel(teacher, teacher).mean((-2, -1))
    return within - 2 * kernel(student, teacher).mean((-2, -1))


def _inner_products(s: Tensor, t: Tensor, *, by_grams: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return <Ks, Kt>, <Ks, Ks> and <Kt, Kt>, each (...), of Ks = s s' and Kt = t t' for tokens (..., N, D).

    <s s', t t'> = |s' t|^2, so the N x N Gram matrices, which cost N^2 (D + D') multiplications, can be traded for
    D x D matrices of features, which cost N (D^2 + D D' + D'^2).
    """
    if by_grams:
        a, b = s @ s.mT, t @ t.mT
        products = (a * b, a * a, b * b)
    else:
        products = ((s.mT @ t).square(), (s.mT @ s).square(), (t.mT @ t).square())
    cross, own_s, own_t = (product.sum((-2, -1)) for product in products)
    return cross, own_s, own_t
