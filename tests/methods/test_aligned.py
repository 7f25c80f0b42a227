"""PaKA and NeCo: which crops are compared, on which side gradients flow, what the queue holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from densebench.core.config import apply_overrides
from densebench.core.errors import UsageError
from densebench.methods import METHODS
from densebench.methods.crops import CropConfig, CropViews, crop, generator, make_views, stack
from densebench.methods.neco import Neco, NecoConfig
from densebench.methods.paka import Paka, PakaConfig
from densebench.model_zoo import load_model
from densebench.ops.kernels import KERNELS
from densebench.ops.neco import neco_loss, references
from densebench.ops.roi import align_pairs

SMALL: dict[str, Any] = {
    "global_size": 32,
    "local_size": 16,
    "local_crops": 2,
    "hidden": 12,
    "out": 6,
    "roi_size": 3,
    "batch": 4,
    "drop_path": 0.0,
}


def views(config: CropConfig, n: int = 3) -> CropViews:
    image = torch.randint(0, 255, (3, 60, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    samples = [crop(image.roll(7 * i, 2), config, generator(i)) for i in range(n)]
    return make_views(stack(samples), config, (0,), torch.device("cpu"))


def paka(**settings: Any) -> Paka:
    return Paka(load_model("pico?random"), PakaConfig(**{**SMALL, **settings}))


def neco(**settings: Any) -> Neco:
    return Neco(load_model("pico?random"), NecoConfig(**{**SMALL, "queue": 64, **settings}))


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_gradient_reaches_all_of_the_student_and_none_of_the_teacher(kernel: str) -> None:
    method = paka(kernel=kernel)
    loss, _ = method.loss(views(method.config))
    loss.backward()
    assert {n for n, p in method.student.named_parameters() if p.grad is None} == set()
    assert all(p.grad is None for p in method.teacher.parameters())


def test_loss_is_the_mean_over_images_and_all_pairs() -> None:
    method = paka()
    seen = views(method.config)
    with torch.no_grad():
        loss, _ = method.loss(seen)
        maps = {
            "teacher": method.project(method.teacher, seen.clean_globals),
            "student_globals": method.project(method.student, seen.globals),
            "student_locals": method.project(method.student, seen.locals),
        }
        teacher, student = align_pairs(**maps, boxes=method.boxes(seen), kernel=3)
    assert teacher.shape == (2 * 3, 3, 6, 3, 3)
    each = [KERNELS["cka"](student[p, i].flatten(1).T, teacher[p, i].flatten(1).T) for p in range(6) for i in range(3)]
    torch.testing.assert_close(loss, torch.stack(each).mean())


def test_global_local_pairs_leave_global_crops_of_the_student_out() -> None:
    method = paka(pairs="global_local")
    assert method.used == [1, 2, 4, 5]  # of (0,1) (0,2) (0,3) (1,0) (1,2) (1,3)
    seen = views(method.config)
    changed = dataclasses.replace(seen, globals=torch.rand_like(seen.globals))
    assert float(method.loss(seen)[0].detach()) == float(method.loss(changed)[0].detach())


@pytest.mark.parametrize("clean", [True, False])
def test_a_clean_teacher_sees_cuts_without_color(clean: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    method = paka(clean_teacher=clean)
    seen = views(method.config)
    shown: list[Tensor] = []
    project = Paka.project

    def spy(self: Paka, branch: Any, crops: Tensor) -> Tensor:
        if branch is self.teacher:
            shown.append(crops)
        return project(self, branch, crops)

    monkeypatch.setattr(Paka, "project", spy)
    method.loss(seen)
    assert len(shown) == 1
    assert torch.equal(shown[0], seen.clean_globals if clean else seen.globals)
    assert not torch.equal(seen.clean_globals, seen.globals)


def test_heads_start_apart_and_backbones_together() -> None:
    method = paka()
    for (name, ours), theirs in zip(method.student.named_parameters(), method.teacher.parameters(), strict=True):
        same = torch.equal(ours, theirs)
        assert same == (name.startswith("backbone.") or bool((ours == 0).all())), name


def test_tokens_have_unit_length_unless_told_otherwise() -> None:
    method, free = paka(), paka(normalise=False)
    crops = torch.rand(2, 1, 3, 32, 32)
    norms = method.project(method.student, crops).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert float((free.project(free.student, crops).detach().norm(dim=2) - 1).abs().max()) > 0.05


def test_the_mean_distance_alone_is_blind_to_structure() -> None:
    """What tells MMD from CKA: shuffled patches have the same mean."""
    tokens = torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(0))
    shuffled = tokens[:, torch.randperm(9, generator=torch.Generator().manual_seed(1))]
    assert float(KERNELS["mmd_linear"](shuffled, tokens)) == pytest.approx(0, abs=1e-6)
    assert float(KERNELS["cka"](shuffled, tokens)) > 0.1


def test_neco_gradient_and_references_from_the_batch() -> None:
    method = neco(queue=0)
    seen = views(method.config)
    torch.manual_seed(5)
    loss, _ = method.loss(seen)
    loss.backward()
    assert {n for n, p in method.student.named_parameters() if p.grad is None} == set()
    with torch.no_grad():
        teacher = method.project(method.teacher, seen.globals)
        wide, near = (method.project(method.student, c) for c in (seen.globals, seen.locals))
        there, here = align_pairs(teacher, wide, near, method.boxes(seen), 3)
        torch.manual_seed(5)
        each = [neco_loss(s, t, references(t), method.config) for s, t in zip(here, there, strict=True)]
    torch.testing.assert_close(loss.detach(), torch.stack(each).mean())


def test_the_queue_holds_teacher_tokens_newest_first() -> None:
    method = neco()
    first, second = torch.ones(2, 3, 6, 4, 4), torch.full((2, 3, 6, 4, 4), 2.0)
    method.push(first)
    assert int(method.filled) == 60  # 10 per image, counted once per global crop
    assert float(method.queue[:, :30].min()) == 1
    assert float(method.queue[:, 30:].abs().max()) == 0
    method.push(second)
    assert int(method.filled) == 64
    assert float(method.queue[:, :30].min()) == 2
    assert float(method.queue[:, 30:60].max()) == 1


def test_references_come_from_the_queue_once_it_has_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    from densebench.ops import neco as module

    drawn: list[Tensor] = []

    def spy(*args: Any) -> Tensor:
        drawn.append(references(*args))
        return drawn[-1]

    monkeypatch.setattr(module, "references", spy)
    method = neco()
    method.loss(views(method.config))
    rows = torch.cat([d.flatten(2).mT.flatten(0, 1) for d in drawn])
    queued = torch.cat([*method.queue, torch.zeros(1, 6)])
    assert bool((rows[:, None] == queued).all(-1).any(1).all())


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"pairs": "global_local", "local_crops": 0}, "local_crops"),
        ({"local_crops": 0, "global_crops": 1}, "single crop"),
        ({"min_shared": 0.0}, "min_shared"),
        ({"roi_size": 1}, "roi_size"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        apply_overrides(PakaConfig(), {**SMALL, **settings})


def test_neco_refuses_what_ends_in_nan_and_a_queue_that_is_too_short() -> None:
    with pytest.raises(UsageError, match="logistic_phi"):
        NecoConfig(distribution="logistic_phi")
    with pytest.raises(UsageError, match=r"queue=10: .* 36 references"):
        NecoConfig(**{**SMALL, "queue": 10})


def test_drop_path_and_recomputation_are_the_students_alone() -> None:
    method = paka(drop_path=0.5, checkpointing=True)
    rates = [block.drop_path2.drop_prob for block in method.student.backbone.net.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert not any(hasattr(block.drop_path2, "drop_prob") for block in method.teacher.backbone.net.blocks)
    plain = paka(checkpointing=True)
    seen = views(plain.config)
    loss = plain.loss(seen)[0]
    torch.testing.assert_close(loss, paka().loss(seen)[0])
    loss.backward()
    other = paka()
    other.loss(seen)[0].backward()
    for (name, p), q in zip(plain.student.named_parameters(), other.student.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("name", ["paka", "neco"])
def test_without_a_head_the_tokens_themselves_are_compared(name: str) -> None:
    """Loss and gradient are there, nothing but the backbone is trained, and a fresh student agrees with its teacher."""
    base = load_model("pico?random")
    kind = METHODS[name]
    method = kind(base, kind.Config(**{**SMALL, "hidden": 0, "clean_teacher": True, "jitter": 0.0, "grayscale": 0.0}))
    assert not list(method.student.head.parameters())
    loss, _ = method.loss(views(method.config, 2))
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.student.backbone.parameters())
