from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from densebench.methods.crops import CropViews
from densebench.methods.dino import Dino, DinoConfig, cross_entropy, sinkhorn
from densebench.methods.method import unit_gain, update_teacher
from densebench.model_zoo import load_model

CONFIG = DinoConfig(global_size=16, local_size=8, hidden=16, bottleneck=8, prototypes=12)


def views(batch: int = 4, local: int = 2) -> CropViews:
    draw = torch.Generator().manual_seed(0)
    wide = torch.rand(2, batch, 3, 16, 16, generator=draw)
    near = torch.rand(local, batch, 3, 8, 8, generator=draw)
    boxes, flips = torch.zeros(2 + local, batch, 4), torch.zeros(2 + local, batch, dtype=torch.bool)
    return CropViews(wide, near, wide, near, boxes, flips, torch.full((batch, 2), 48))


def dino(**settings: object) -> Dino:
    return Dino(load_model("pico?random"), dataclasses.replace(CONFIG, **settings))


def test_cross_entropy_by_hand() -> None:
    # One image, two prototypes; crop 0 and 1 are global, crop 2 is local. Pairs: (0,1), (0,2), (1,0), (1,2).
    target = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]])
    probabilities = torch.tensor([[[0.5, 0.5]], [[0.8, 0.2]], [[0.1, 0.9]]])
    expected = (
        -math.log(0.8)
        - math.log(0.1)
        - (0.25 * math.log(0.5) + 0.75 * math.log(0.5))
        - (0.25 * math.log(0.1) + 0.75 * math.log(0.9))
    ) / 4
    assert float(cross_entropy(probabilities.log(), target)) == pytest.approx(expected, rel=1e-5)


def test_one_crop_has_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="one crop"):
        cross_entropy(torch.zeros(1, 2, 3), torch.ones(1, 2, 3) / 3)


def test_sinkhorn_sums_to_one_per_crop_and_uses_prototypes_equally() -> None:
    logits = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(1)) * 2 + torch.arange(5)
    shares = sinkhorn(logits)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 64))
    usage, plain = shares.mean((0, 1)), logits.softmax(-1).mean((0, 1))
    assert float((usage - 0.2).abs().max()) < 0.02 < float((plain - 0.2).abs().max())


@pytest.mark.parametrize("centring", ["sinkhorn", "mean"])
@pytest.mark.parametrize("pool", ["mean", "class"])
def test_gradient_reaches_all_of_the_student_and_none_of_the_teacher(centring: str, pool: str) -> None:
    method = dino(centring=centring, pool=pool)
    loss, scalars = method.loss(views())
    loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    without = {n for n, p in method.student.named_parameters() if p.grad is None}
    assert not without
    assert float(scalars["divergence"]) >= -1e-4
    assert 0 <= float(scalars["teacher_entropy"]) <= math.log(12) + 1e-4


def test_running_mean_follows_the_teacher() -> None:
    method = dino(centring="mean", scale=False)
    scores = torch.randn(2, 4, 12)
    first = method.assign(scores)
    torch.testing.assert_close(first, (scores / CONFIG.teacher_temperature).softmax(-1))
    torch.testing.assert_close(method.centre, 0.1 * scores.mean((0, 1)))


def test_prototypes_are_still_at_the_start() -> None:
    method = dino()
    method.loss(views())[0].backward()
    method.before_update(0.5)
    assert method.student.head.prototypes.grad is not None
    method.before_update(0.0)
    assert method.student.head.prototypes.grad is None


def test_teacher_moves_by_the_momentum() -> None:
    student, teacher = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before, target = teacher.weight.detach().clone(), student.weight.detach().clone()
    update_teacher(teacher, student, 0.9)
    torch.testing.assert_close(teacher.weight, 0.9 * before + 0.1 * target)
    update_teacher(teacher, student, 1.0)
    torch.testing.assert_close(teacher.weight, 0.9 * before + 0.1 * target)
    update_teacher(teacher, student, 0.0)
    torch.testing.assert_close(teacher.weight, target)


def test_teacher_starts_as_the_student() -> None:
    method = dino()
    for ours, theirs in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad
        assert not theirs.requires_grad


def test_unit_gain_scales_the_blocks_and_nothing_else() -> None:
    backbone, same = load_model("pico?random"), load_model("pico?random")
    unit_gain(backbone)
    other = dict(same.named_parameters())
    for name, weight in backbone.named_parameters():
        if weight.ndim == 2 and "blocks" in name:
            assert float(weight.std()) == pytest.approx(weight.shape[1] ** -0.5, rel=1e-4)
        else:
            assert torch.equal(weight, other[name])
