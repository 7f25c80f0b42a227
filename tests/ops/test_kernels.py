import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import PatchKernelAlignmentLoss

from densebench.ops.kernels import KERNELS, _inner_products, cka, gram, hsic


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, d: int) -> torch.Tensor:
    return torch.linalg.qr(tokens(seed, d, d)).Q


@given(st.integers(0, 10**6), st.sampled_from([(9, 5), (12, 40)]), st.floats(0.01, 100))
@settings(max_examples=30)
def test_cka_ignores_rotation_scale_and_offset(seed, shape, scale):
    student, teacher = tokens(seed, 2, *shape), tokens(seed + 1, 2, *shape)
    moved = scale * student @ rotation(seed + 2, shape[1]) + tokens(seed + 3, shape[1])
    loss = cka(student, teacher)
    torch.testing.assert_close(cka(moved, teacher), loss)
    torch.testing.assert_close(cka(teacher, student), loss)
    assert ((loss > 0) & (loss < 1)).all()
    torch.testing.assert_close(cka(student, moved), torch.zeros(2, dtype=torch.float64))


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_the_order_of_patches_does_not_matter_if_it_is_shared(seed):
    student, teacher = tokens(seed, 10, 6), tokens(seed + 1, 10, 6)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    for name, loss in KERNELS.items():
        torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher), msg=name)


@pytest.mark.parametrize("shape", [(3, 30, 4), (3, 4, 30), (3, 16, 16)])
def test_both_forms_of_cka_agree(shape):
    student, teacher = tokens(0, *shape).requires_grad_(), tokens(1, *shape)
    found = []
    for by_grams in (True, False):
        products = torch.stack(_inner_products(student, teacher, by_grams=by_grams))
        found.append((products, *torch.autograd.grad(products.sum(), student)))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("n", [6, 40])  # either form
def test_widths_may_differ(n):
    student, teacher = tokens(0, n, 7), tokens(1, n, 11)
    wider = torch.cat([student, torch.zeros(n, 4, dtype=torch.float64)], 1)
    for loss in (cka, gram, hsic):
        torch.testing.assert_close(loss(student, teacher), loss(wider, teacher))


@pytest.mark.parametrize("name", KERNELS)
def test_shape_dtype_and_gradient(name):
    for shape in [(5, 8), (2, 5, 8), (2, 3, 5, 8), (2, 20, 8)]:
        student = tokens(0, *shape).float().requires_grad_()
        loss = KERNELS[name](student, tokens(1, *shape).float())
        assert loss.shape == shape[:-2]
        assert loss.dtype == torch.float32
        assert torch.autograd.grad(loss.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize("name", KERNELS)
def test_no_half_precision_inside(name):
    student, teacher = tokens(0, 2, 9, 16).bfloat16(), tokens(1, 2, 9, 16).bfloat16()
    expected = KERNELS[name](student.double(), teacher.double()).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(KERNELS[name](student, teacher), expected, rtol=1e-5, atol=1e-5)
        found = KERNELS[name](student=student.float(), teacher=teacher.float())  # type: ignore[call-arg]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gram", "mmd_linear", "mmd_rbf", "cka"])
def test_equal_tokens_cost_nothing(name):
    same = tokens(0, 2, 9, 16)
    torch.testing.assert_close(KERNELS[name](same, same), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("n", [3, 12])
def test_cka_of_tokens_that_are_all_equal(n):
    student = torch.ones(2, n, 4, requires_grad=True)
    loss = cka(student, tokens(0, 2, n, 4).float())
    assert loss.tolist() == [1, 1]
    assert not torch.autograd.grad(loss.sum(), student)[0].any()


@pytest.mark.parametrize(("offset", "rounding"), [(0.0, 1e-5), (3.0, 2e-4)])  # it centres K, we centre the tokens
@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 4, 30), (2, 49, 384), (4, 196, 64), (2, 300, 8)])  # either form
def test_cka_is_the_paka_loss_of_lightly(shape, offset, rounding):
    """An independent implementation: loss of one image each, mean over the batch, no gradient to the teacher."""
    student, teacher = (tokens(seed, *shape).float() + offset for seed in (0, 1))
    teacher += student / 2
    student.requires_grad_()
    ours, theirs = cka(student, teacher).mean(), PatchKernelAlignmentLoss()(student, teacher)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    found, expected = (torch.autograd.grad(loss, student)[0] for loss in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding * float(expected.abs().max()))


def test_cka_of_some_patches_is_that_of_lightly_with_the_others_masked():
    student, teacher = tokens(0, 2, 30, 16).float(), tokens(1, 2, 30, 16).float()
    ignored = torch.rand(2, 30, generator=torch.Generator().manual_seed(2)) < 0.4
    kept = zip(student, teacher, ~ignored, strict=True)
    ours = torch.stack([cka(s[valid], t[valid]) for s, t, valid in kept]).mean()
    torch.testing.assert_close(ours, PatchKernelAlignmentLoss()(student, teacher, mask=ignored), rtol=1e-5, atol=1e-6)
