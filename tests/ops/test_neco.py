import pytest
import torch
import torch.nn.functional as F

from densebench.core.errors import UsageError
from densebench.ops.neco import Ordering, neco_loss, neco_pair_loss, references, soft_orders


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_orders_are_ranks_by_similarity():
    patches, reference = maps(0, 2, 6, 2, 3), maps(1, 2, 6, 2, 2)
    found = soft_orders(patches, reference, steepness=1e9)
    assert found.shape == (2, 4, 4, 2, 3)
    cosine = torch.einsum("bdyx,bdj->bjyx", F.normalize(patches, dim=1), F.normalize(reference, dim=1).flatten(2))
    assert torch.equal(found.argmax(1), cosine.argsort(1).argsort(1))  # the rank of each reference


def test_two_sides():
    student, teacher, reference = maps(0, 2, 6, 3, 3), maps(1, 2, 6, 3, 3), maps(2, 2, 6, 3, 3)
    one = neco_loss(student, teacher, reference, Ordering())
    other = neco_loss(teacher, student, reference, Ordering())
    both = neco_loss(student, teacher, reference, Ordering(two_sided=True))
    torch.testing.assert_close(both, one + other)


def test_gradient_reaches_the_student_only():
    tensors = [maps(i, 2, 6, 3, 3).requires_grad_() for i in range(3)]
    neco_loss(*tensors, Ordering(two_sided=True)).backward()
    assert tensors[0].grad is not None
    assert tensors[1].grad is tensors[2].grad is None


def test_loss_is_least_where_student_and_teacher_agree():
    student, teacher, reference = maps(0, 2, 6, 3, 3), maps(1, 2, 6, 3, 3), maps(2, 2, 6, 3, 3)
    assert neco_loss(teacher, teacher, reference, Ordering()) < neco_loss(student, teacher, reference, Ordering())


def test_autocast_changes_nothing():
    tensors = [maps(i, 2, 6, 3, 3).float() for i in range(3)]
    expected = neco_loss(*tensors, Ordering())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(neco_loss(*tensors, Ordering()), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distribution": "logistic_phi"}, "NaN.*cauchy.*10.3 or less.*floor"),  # the paper's own setting
        ({"distribution": "logistic"}, "steepness=100.*8.6 or less"),
        ({"distribution": "logistic_phi", "similarity": "euclidean", "steepness": 10}, "euclidean"),
        ({"distribution": "logistic_phi", "steepness": 10, "two_sided": True}, "steepness=100"),
        ({"similarity": "manhattan"}, "manhattan.*cosine, euclidean"),
        ({"network": "bubble"}, "bubble"),
        ({"steepness": -1}, "steepness is positive"),
        ({"teacher_steepness": 0}, "steepness is positive"),
        ({"floor": 1}, "floor"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(UsageError, match=message):
        Ordering(**change)


@pytest.mark.parametrize(
    "settings",
    [
        {"distribution": "logistic_phi", "steepness": 10},  # only the student's probabilities meet the logarithm
        {"distribution": "logistic", "steepness": 8},
        {"distribution": "logistic_phi", "floor": 1e-12},
        {"steepness": 1000, "teacher_steepness": 1000},
    ],
)
def test_settings_that_are_accepted_give_a_finite_loss(settings):
    student = maps(0, 2, 6, 4, 4).float().requires_grad_()
    loss = neco_loss(student, maps(1, 2, 6, 4, 4).float(), maps(2, 2, 6, 4, 4).float(), Ordering(**settings))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_references_of_the_batch_are_its_patches_in_another_order():
    teacher = torch.arange(2 * 3 * 4, dtype=torch.float64).view(2, 1, 3, 4).requires_grad_()
    found = references(teacher)
    assert found.shape == teacher.shape
    assert not found.requires_grad
    assert torch.equal(found.flatten().sort().values, teacher.detach().flatten())
    assert torch.equal(references(teacher, permutation=torch.arange(24)), teacher)


def test_references_of_a_queue():
    teacher, queue = torch.zeros(2, 1, 2, 2), torch.arange(1.0, 11).view(10, 1)
    drawn = references(teacher, queue, filled=3, permutation=torch.tensor([0, 1, 2, 3, 4, 5, 9, 8, 7, 6]))
    assert drawn.flatten().tolist() == [1, 2, 3, 1, 2, 3, 1, 3]
    assert references(teacher, queue, filled=3).max() <= 3
    with pytest.raises(ValueError, match="7 tokens is too short for 8"):
        references(teacher, queue[:7], filled=3)
    with pytest.raises(ValueError, match="filled"):
        references(teacher, queue, filled=11)


def test_pair_loss_draws_from_torchs_generator():
    student, teacher = maps(0, 3, 2, 6, 3, 3), maps(1, 3, 2, 6, 3, 3)
    torch.manual_seed(0)
    first, second = (neco_pair_loss(student, teacher, [0, 0, 1], Ordering()) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(neco_pair_loss(student, teacher, [0, 0, 1], Ordering()), first)
    assert not torch.equal(first, second)
