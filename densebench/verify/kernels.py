"""Group d: kernel alignment losses and their gradients, against the formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from densebench.ops.kernels import KERNELS, gram, hsic, mmd_poly2, mmd_rbf
from densebench.verify.golden import Golden, GoldenCheck, GoldenKind


def kernel_losses(v: Golden) -> Iterator[GoldenCheck]:
    """Eight losses, one value per batch item, and the gradient of each with respect to the student."""
    student, teacher, sigma = v["student"].requires_grad_(), v["teacher"], v.number("rbf_sigma")
    losses = {
        "cka_loss": KERNELS["cka"](student, teacher),
        "gram_loss": KERNELS["gram"](student, teacher),
        "gram_loss_cosine_mean": gram(student, teacher, cosine=True, reduction="mean"),
        "hsic_loss": KERNELS["hsic"](student, teacher),
        "hsic_loss_cosine": hsic(student, teacher, cosine=True),
        "mmd_linear": KERNELS["mmd_linear"](student, teacher),
        "mmd_rbf": mmd_rbf(student, teacher, sigma=sigma),
        "mmd_poly2": mmd_poly2(student, teacher),
    }
    for name, loss in losses.items():
        yield v.close(name, loss, 1e-10)
        yield v.close(f"{name}_grad", torch.autograd.grad(loss.sum(), student, retain_graph=True)[0], 1e-10)
    if math.isclose(sigma, math.sqrt(student.shape[-1])):  # what a method gets that names the loss and no width
        yield v.close("mmd_rbf", KERNELS["mmd_rbf"](student, teacher), 1e-10, "default width")


KINDS = (
    GoldenKind(
        "d_kernel",
        "kernel losses",
        kernel_losses,
        "student teacher rbf_sigma cka_loss cka_loss_grad gram_loss gram_loss_grad gram_loss_cosine_mean "
        "gram_loss_cosine_mean_grad hsic_loss hsic_loss_grad hsic_loss_cosine hsic_loss_cosine_grad mmd_linear "
        "mmd_linear_grad mmd_rbf mmd_rbf_grad mmd_poly2 mmd_poly2_grad",
    ),
)
