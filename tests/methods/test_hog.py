from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from densebench.core.config import apply_overrides
from densebench.core.errors import UsageError
from densebench.methods.crops import CropViews
from densebench.methods.hog import Hog, HogConfig
from densebench.model_zoo import load_model
from densebench.ops.gradients import edge_layout

ORIENTATIONS = 9


def layout(images: Tensor, windows: tuple[int, ...] = (1,)) -> Tensor:
    """Layouts as (N, windows, 3, 3, orientations, h, w)."""
    found = edge_layout(images, 8, windows, ORIENTATIONS, 0.04)
    return found.unflatten(1, (len(windows), 3, 3, ORIENTATIONS))


def views(n: int = 2) -> CropViews:
    clean = torch.rand(1, n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(0, n, 3, 8, 8)
    return CropViews(
        1 - clean, none, clean, none, torch.zeros(1, n, 4), torch.zeros(1, n, dtype=torch.bool), torch.full((n, 2), 32)
    )


def test_an_upright_edge_votes_for_the_first_orientation_in_its_own_column() -> None:
    image = torch.zeros(1, 3, 24, 40)
    image[..., 20:] = 1  # an edge inside the third column of patches
    cells = layout(image)[0, 0]
    assert float(cells[1, 1, 0, 1, 2]) > 1  # the patch itself
    assert float(cells[1, 1, 1:, 1, 2].abs().max()) == 0
    assert float(cells[1, 2, 0, 1, 1]) > 1  # seen by its left neighbour to the right
    assert float(cells[1, 0, 0, 1, 3]) > 1
    assert float(cells[..., 1, 0].abs().max()) == 0  # two patches away nothing is seen
    assert float(layout(image, (3,))[0, 0, ..., 1, 0].abs().max()) > 0  # but a wide window does


def test_orientation_turns_with_the_image() -> None:
    image = torch.zeros(1, 3, 24, 24)
    image[..., 12:, :] = 1
    histogram = layout(image)[0, 0, 1, 1, :, 1, 1]
    # 90 degrees lie between bins 4 (80 degrees) and 5 (100 degrees)
    assert float(histogram[4]) == pytest.approx(float(histogram[5]), rel=1e-4)
    assert float(histogram[[0, 1, 2, 3, 6, 7, 8]].abs().max()) < 1e-5


def test_layouts_ignore_inversion_and_weak_gradients_and_move_with_the_image() -> None:
    image = torch.nn.functional.interpolate(
        torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1)), scale_factor=8, mode="bilinear"
    )
    torch.testing.assert_close(layout(image), layout(1 - image), atol=1e-5, rtol=1e-4)
    assert float(layout(0.5 + 0.01 * image).abs().max()) == 0
    moved = layout(image.roll(16, dims=3))[..., 4:8, 5:8]
    torch.testing.assert_close(layout(image)[..., 4:8, 3:6], moved)


def test_windows_have_mean_square_near_one_where_there_are_edges() -> None:
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    energy = layout(noise, (1, 3)).square().mean((2, 3, 4))
    assert 0.7 < float(energy.min()) <= float(energy.max()) < 1.3


def test_loss_is_the_unexplained_share_of_the_variance() -> None:
    config = HogConfig(global_size=32)
    method = Hog(load_model("pico?random"), config)
    target = edge_layout(views().clean_globals[0], 8, config.windows, config.orientations, config.floor)
    with torch.no_grad():
        method.student.head.weight.zero_()
        method.student.head.bias.copy_(target.mean((0, 2, 3)))
    loss, scalars = method.loss(views())
    assert float(loss.detach()) == pytest.approx(1.0, rel=1e-5)  # the mean explains nothing
    assert float(scalars["explained"]) == pytest.approx(0.0, abs=1e-5)


def test_gradient_reaches_all_of_the_student_and_none_of_the_teacher() -> None:
    method = Hog(load_model("pico?random"), HogConfig(global_size=32))
    method.loss(views())[0].backward()
    assert {n for n, p in method.student.named_parameters() if p.grad is None} == set()
    assert all(p.grad is None for p in method.teacher.parameters())


def test_it_learns_what_it_is_asked() -> None:
    torch.manual_seed(0)
    method = Hog(load_model("pico?random"), HogConfig(global_size=32))
    bars = torch.zeros(1, 4, 3, 32, 32)
    bars[0, 0, :, :, 10:14] = bars[0, 1, :, 18:22] = bars[0, 2, :, :, 25:] = bars[0, 3, :, :6] = 1
    seen = dataclasses.replace(views(4), globals=1 - bars, clean_globals=bars)
    optimiser = torch.optim.AdamW(method.student.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        loss, _ = method.loss(seen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert math.isfinite(losses[-1])
    assert losses[-1] < 0.5 * min(1.0, losses[0])


@pytest.mark.parametrize("windows", [(), (2,), (0, 1)])
def test_windows_have_a_middle(windows: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"windows=.*: expected (odd numbers of patches|one or more)"):
        apply_overrides(HogConfig(), {"windows": windows})
