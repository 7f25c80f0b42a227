import math
import operator
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from densebench.ops.dip import add_distractors, in_context_loss, patch_labels, predict_in_context

B, SIDE, PATCH, CLASSES = 3, 4, 5, 300


def rand(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(seed: int) -> torch.Tensor:
    shape = (B, SIDE * PATCH, SIDE * PATCH)
    return torch.randint(0, CLASSES, shape, generator=torch.Generator().manual_seed(seed))


def test_every_label_value_is_a_class():
    masks = torch.full((1, 4, 4), 255)
    masks[:, :, 2:] = 299
    found = patch_labels(masks, 4, 300)
    assert found.shape == (1, 1, 300)
    assert found[0, 0, [0, 255, 299]].tolist() == [0, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"0\.\.299"):
        patch_labels(masks + 1, 4, 300)


@pytest.mark.parametrize("form", ["published", "corrected"])
def test_loss_per_patch_equals_loss_per_pixel(form):
    query, support = rand(0, B, SIDE**2, 6).requires_grad_(), rand(1, B, SIDE**2, 6)
    targets = labels(0)
    prediction = predict_in_context(query, support, patch_labels(labels(1), PATCH, CLASSES))
    maps = F.interpolate(prediction.mT.unflatten(-1, (SIDE, SIDE)), scale_factor=PATCH, mode="nearest").contiguous()
    pixels = F.cross_entropy(maps, targets) if form == "published" else F.nll_loss(maps.clamp(min=1e-8).log(), targets)
    loss = in_context_loss(prediction, patch_labels(targets, PATCH, CLASSES), form)
    torch.testing.assert_close(loss, pixels, rtol=1e-14, atol=0)
    grads = [torch.autograd.grad(value, query, retain_graph=True)[0] for value in (loss, pixels)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("patch", [3, 7, 14])
def test_a_float64_loss_is_the_formula_to_its_last_digits(patch):
    """A share of 9, 49 or 196 pixels is no dyadic number: labels in float32 would be off by 1e-8."""
    side, dim, classes, temperature = 2, 5, 6, 0.07
    query, support = rand(2, 1, side**2, dim), rand(3, 1, side**2, dim)
    own, known = (
        torch.randint(0, classes, (1, side * patch, side * patch), generator=torch.Generator().manual_seed(s))
        for s in (4, 5)
    )

    def share(masks, cell, label):
        row, column = divmod(cell, side)
        block = masks[0, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch].tolist()
        return Fraction(sum(pixel == label for line in block for pixel in line), patch * patch)

    total = 0.0
    for q in range(side**2):
        a = query[0, q].tolist()
        cosines = [math.fsum(map(operator.mul, a, b)) / math.hypot(*a) / math.hypot(*b) for b in support[0].tolist()]
        odds = [math.exp(c / temperature) for c in cosines]
        guess = [math.fsum(o * share(known, s, c) for s, o in enumerate(odds)) / sum(odds) for c in range(classes)]
        log_sum = math.log(math.fsum(map(math.exp, guess)))
        total -= math.fsum(share(own, q, c) * (guess[c] - log_sum) for c in range(classes))
    prediction = predict_in_context(query, support, patch_labels(known, patch, classes), temperature)
    found = in_context_loss(prediction, patch_labels(own, patch, classes))
    assert float(found) == pytest.approx(total / side**2, rel=1e-14)


def test_a_cold_lookup_copies_the_nearest_label():
    support = rand(0, B, 10, 6)
    values = torch.eye(10, dtype=torch.float64).expand(B, -1, -1)
    prediction = predict_in_context(3 * support[:, [4, 7]], support, values, temperature=1e-3)
    torch.testing.assert_close(prediction, values[:, [4, 7]])
    target = values[:, [4, 7]]
    torch.testing.assert_close(in_context_loss(prediction, target, "corrected"), torch.zeros(()).double())
    assert in_context_loss(prediction, target) > 1  # the second softmax never lets go


def test_a_class_that_the_support_lacks_has_no_gradient():
    query = rand(0, 1, 2, 6).requires_grad_()
    values, target = torch.eye(3)[:2][None], torch.eye(3)[[2, 2]][None]
    loss = in_context_loss(predict_in_context(query, rand(1, 1, 2, 6), values), target, "corrected")
    assert loss.isfinite()
    assert not torch.autograd.grad(loss, query)[0].any()


def test_distractors_follow_the_own_support():
    support = torch.arange(B * 2).view(B, 2, 1)
    found = add_distractors(support, torch.tensor([[1, 2, 0], [0, 2, 1]]))
    assert found.squeeze(-1).tolist() == [[0, 1, 2, 3, 0, 1], [2, 3, 4, 5, 4, 5], [4, 5, 0, 1, 2, 3]]


def test_autocast_changes_nothing():
    query, support, values = rand(0, B, 9, 6).float(), rand(1, B, 9, 6).float(), rand(2, B, 9, 4).float().softmax(-1)
    expected = in_context_loss(predict_in_context(query, support, values), values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(in_context_loss(predict_in_context(query, support, values), values), expected)


def test_unknown_form():
    with pytest.raises(ValueError, match="squared"):
        in_context_loss(torch.ones(1, 1, 2) / 2, torch.ones(1, 1, 2) / 2, "squared")
