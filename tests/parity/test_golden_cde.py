"""Soft sorting, the NeCo loss, kernel losses and ROI alignment."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from densebench.errors import UsageError
from densebench.ops.kernels import KERNELS, gram, hsic, mmd_poly2, mmd_rbf
from densebench.ops.neco import Ordering, neco_loss, neco_pair_loss, soft_orders
from densebench.ops.roi import PairBoxes, align_pairs, crop_pairs, pair_boxes
from densebench.ops.sorting import soft_sort

DISTRIBUTIONS = ("logistic_phi", "logistic", "cauchy")  # the first that a file name holds


@pytest.fixture
def named(request) -> dict[str, str]:
    """Return what only the file's name says."""
    name = request.node.callspec.id
    return {
        "network": "odd_even" if "odd_even" in name or "oddeven" in name else "bitonic",
        "distribution": next(d for d in DISTRIBUTIONS if d in name),
    }


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of, retain_graph=True)[0]


@pytest.mark.golden("c_diffsort_*")
@pytest.mark.parametrize("steepness", [10, 100])
def test_soft_sorting(vectors, close, named, steepness):
    found = soft_sort(vectors["x"], **named, steepness=steepness, art_lambda=float(vectors["art_lambda"]))
    close(found.values, vectors[f"sorted_s{steepness}"], 1e-10)
    close(found.matrix, vectors[f"perm_s{steepness}"], 1e-10)


@pytest.fixture
def ordering(request, vectors, named) -> Ordering:
    """Return the settings of a file; a floor below all of the reference's probabilities changes no number."""
    return Ordering(
        **named,
        similarity="euclidean" if "euclidean" in request.node.callspec.id else "cosine",
        steepness=int(vectors["steepness_student"]),
        teacher_steepness=int(vectors["steepness_teacher"]),
        art_lambda=float(vectors["art_lambda"]),
        floor=0 if named["distribution"] == "cauchy" else 1e-30,
    )


@pytest.mark.golden("c_neco_loss_*")
def test_neco_orders(vectors, close, ordering):
    o = ordering
    for side, steepness, expected in (("student", o.steepness, "p"), ("teacher", o.teacher_steepness, "q")):
        found = soft_orders(
            vectors[side], vectors["reference"], steepness, o.similarity, o.network, o.distribution, o.art_lambda
        )
        assert found.shape == (len(vectors[side]), *vectors["p_shape"][1:])
        stored = vectors[expected]  # float32, and the first image only when large
        close(found[: len(stored)], stored, 1e-6)


@pytest.mark.golden("c_neco_loss_*")
@pytest.mark.parametrize(("dtype", "tolerance"), [("f64", 1e-8), ("f32", 1e-4)])
def test_neco_loss(vectors, close, ordering, dtype, tolerance):
    wide = torch.float64 if dtype == "f64" else torch.float32
    student, teacher, reference = (vectors[name].to(wide) for name in ("student", "teacher", "reference"))
    student.requires_grad_()
    finite = bool(vectors["finite" if dtype == "f64" else "finite_f32"])
    if not finite:
        with pytest.raises(UsageError, match="NaN"):
            replace(ordering, floor=0)
    loss = neco_loss(student, teacher, reference, ordering)
    grad = gradient(loss, student)
    assert loss.dtype == wide
    if finite:
        close(loss, vectors[f"loss_{dtype}"], tolerance)
        close(grad, vectors[f"grad_student_{dtype}"], tolerance)
    else:  # the floor does its work
        assert loss.isfinite()
        assert grad.isfinite().all()


@pytest.mark.golden("c_neco_full_loss*")
def test_neco_loss_of_all_crops(vectors, close):
    n, n_views = int(vectors["bs"]), int(vectors["nmb_crops"].sum())

    def maps(name: str, side: int) -> Tensor:  # (crops, B, D, h, w) of tokens, crop after crop
        tokens = vectors[name].requires_grad_(name.startswith("student"))
        return tokens.view(-1, n, side, side, tokens.shape[-1]).permute(0, 1, 4, 2, 3)

    pairs = crop_pairs(2, n_views)
    patch, wide, near = (int(vectors[name]) for name in ("patch", "grid_global", "grid_local"))
    boxes = PairBoxes(
        torch.stack([vectors["gc_boxes"][:, g, v] for g, v in pairs]) / patch,
        torch.stack([vectors["all_boxes"][:, v, g] for g, v in pairs]) / patch,
    )
    steepness = float(vectors["steepness"])
    seen, predicted = align_pairs(
        maps("teacher_tokens", wide),
        maps("student_global_tokens", wide),
        maps("student_local_tokens", near),
        boxes,
        int(vectors["roi_kernel"]),
    )
    loss = neco_pair_loss(
        predicted,
        seen,
        [g for g, _ in pairs],
        Ordering(steepness=steepness, teacher_steepness=steepness),
        queue=vectors["queue"] if vectors["queue"].numel() else None,
        filled=int(vectors["entries_in_queue"]),
        permutations=vectors["reference_permutations"],
    )
    close(loss, vectors["loss"], 1e-5)
    for side in ("global", "local"):
        close(gradient(loss, vectors[f"student_{side}_tokens"]), vectors[f"grad_student_{side}"], 1e-4)


@pytest.mark.golden("d_kernel_losses_*")
def test_kernel_losses(vectors, close):
    student, teacher = vectors["student"].requires_grad_(), vectors["teacher"]
    losses = {
        "cka_loss": KERNELS["cka"](student, teacher),
        "gram_loss": KERNELS["gram"](student, teacher),
        "gram_loss_cosine_mean": gram(student, teacher, cosine=True, reduction="mean"),
        "hsic_loss": KERNELS["hsic"](student, teacher),
        "hsic_loss_cosine": hsic(student, teacher, cosine=True),
        "mmd_linear": KERNELS["mmd_linear"](student, teacher),
        "mmd_rbf": mmd_rbf(student, teacher, sigma=float(vectors["rbf_sigma"])),
        "mmd_poly2": mmd_poly2(student, teacher),
    }
    for name, loss in losses.items():
        close(loss, vectors[name], 1e-10)
        close(gradient(loss, student), vectors[f"{name}_grad"], 1e-10)
    close(KERNELS["mmd_rbf"](student, teacher), vectors["mmd_rbf"], 1e-10)  # the files' sigma is sqrt(D)


@pytest.mark.golden("e_roi_[0-9]*")
def test_boxes_of_crop_pairs(vectors):
    boxes = vectors["crop_boxes_abs"].transpose(0, 1)
    wide, near = vectors["size_crops"].tolist()
    found = pair_boxes(boxes, 2, (wide, wide), (near, near))
    for p, (g, v) in enumerate(crop_pairs(2, len(boxes))):
        for ours, stored in (
            (found.teacher[p], vectors["gc_boxes"][:, g, v]),
            (found.student[p], vectors["all_boxes"][:, v, g]),
        ):
            torch.testing.assert_close(ours.float(), stored, rtol=0, atol=1e-4)


@pytest.mark.golden("e_roi_[0-9]*")
def test_aligned_tokens(vectors, close):
    maps, locals_ = vectors["global_maps"], vectors["local_maps"]
    boxes = pair_boxes(vectors["crop_boxes_abs"].transpose(0, 1), 2, tuple(maps.shape[-2:]), tuple(locals_.shape[-2:]))
    teacher, student = align_pairs(maps, maps, locals_, boxes, int(vectors["roi_kernel"]))
    for p, (g, v) in enumerate(crop_pairs(2, 2 + len(locals_))):
        close(teacher[p], vectors["teacher_aligned"][g, v], 1e-4)
        close(student[p], vectors["student_aligned"][g, v], 1e-4)


@pytest.mark.golden("e_roi_align_plain")
@pytest.mark.parametrize("kernel", [4, 7])
@pytest.mark.parametrize("sampling", [-1, 2])
@pytest.mark.parametrize("aligned", [0, 1])
def test_torchvision_aligns_as_ever(vectors, close, aligned, sampling, kernel):
    found = roi_align(
        vectors["feature"], vectors["boxes"], kernel, float(vectors["spatial_scale"]), sampling, bool(aligned)
    )
    close(found, vectors[f"out_aligned{aligned}_sr{sampling}_k{kernel}"], 1e-9)
