import pytest
import torch
from torch import Tensor

from densebench.ops.roi import align_pairs, crop_pairs, pair_boxes, unmirror

BOXES = torch.tensor(
    [
        [[0.0, 0, 100, 80], [10, 10, 90, 70]],
        [[20.0, 10, 120, 90], [0, 0, 80, 60]],
        [[30.0, 20, 70, 60], [20, 20, 60, 50]],
        [[40.0, 30, 90, 70], [30, 15, 70, 55]],
    ]
)  # (V, B, 4) of two global and two local crops
GLOBAL, LOCAL = (10, 12), (6, 8)  # not square, to tell the axes apart


def places(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (V, B, 2, h, w) whose tokens say where in the image they lie: x and y of their centre."""
    height, width = size
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    x1, y1, x2, y2 = (c[..., None, None] for c in boxes.unbind(-1))
    xs = (x1 + (x2 - x1) * x).expand(-1, -1, height, width)
    ys = (y1 + (y2 - y1) * y[:, None]).expand(-1, -1, height, width)
    return torch.stack([xs, ys], dim=2)


def inner(cells: Tensor) -> Tensor:
    """Leave out the outermost cells, whose samples may lie beyond the last token's centre."""
    return cells[..., 1:-1, 1:-1]


def test_pairs():
    assert crop_pairs(2, 4) == ((0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3))
    assert crop_pairs(1, 1) == ()


def test_boxes_by_hand():
    found = pair_boxes(BOXES, 2, GLOBAL, LOCAL)
    # crops 0 and 2 of image 0 share 30..70 x 20..60: of the first, 100 x 80 on a grid 12 wide and 10 high
    torch.testing.assert_close(found.teacher[1, 0], torch.tensor([3.6, 2.5, 8.4, 7.5]))
    torch.testing.assert_close(found.student[1, 0], torch.tensor([0.0, 0, 8, 6]))


def test_aligned_cells_show_the_same_place():
    maps, near = places(BOXES[:2], GLOBAL), places(BOXES[2:], LOCAL)
    boxes = pair_boxes(BOXES, 2, GLOBAL, LOCAL)
    teacher, student = align_pairs(maps, maps, near, boxes, kernel=5)
    assert teacher.shape == student.shape == (6, 2, 2, 5, 5)
    torch.testing.assert_close(inner(teacher), inner(student))
    # and it is the place the box says: the middle of the shared region
    corners = torch.stack([torch.maximum(BOXES[g], BOXES[v])[:, :2] for g, v in crop_pairs(2, 4)])
    opposite = torch.stack([torch.minimum(BOXES[g], BOXES[v])[:, 2:] for g, v in crop_pairs(2, 4)])
    torch.testing.assert_close(teacher[..., 2, 2], (corners + opposite) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_views_give_the_same_cells(seed):
    generator = torch.Generator().manual_seed(seed)
    flips = torch.rand(4, 2, generator=generator) < 0.5
    maps = [torch.randn(2, 2, 3, *size, generator=generator) for size in (GLOBAL, GLOBAL, LOCAL)]
    boxes = pair_boxes(BOXES, 2, GLOBAL, LOCAL)
    expected = align_pairs(*maps, boxes)
    mirrored = [unmirror(m, f) for m, f in zip(maps, (flips[:2], flips[:2], flips[2:]), strict=True)]
    torch.testing.assert_close(align_pairs(*mirrored, boxes, flips=flips), expected)


def test_mirrored_views_show_the_same_place():
    """What a mirrored crop's tokens say of their place ends in the cell of that place."""
    flips = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    maps, near = places(BOXES[:2], GLOBAL), places(BOXES[2:], LOCAL)
    seen = [torch.where(f[..., None, None, None], m.flip(-1), m) for m, f in ((maps, flips[:2]), (near, flips[2:]))]
    teacher, student = align_pairs(seen[0], seen[0], seen[1], pair_boxes(BOXES, 2, GLOBAL, LOCAL), 5, flips)
    torch.testing.assert_close(inner(teacher), inner(student))
    right = inner(teacher)[:, :, 0]
    assert (right.diff(dim=-1) > 0).all()  # x grows to the right again


def test_without_local_crops():
    maps = places(BOXES[:2], GLOBAL)
    teacher, student = align_pairs(maps, maps, None, pair_boxes(BOXES[:2], 2, GLOBAL), 5)
    assert len(teacher) == 2
    torch.testing.assert_close(inner(teacher), inner(student))


def test_half_precision_is_widened_and_gradients_flow():
    maps, near = places(BOXES[:2], GLOBAL).bfloat16(), places(BOXES[2:], LOCAL).bfloat16().requires_grad_()
    _, student = align_pairs(maps, maps, near, pair_boxes(BOXES, 2, GLOBAL, LOCAL))
    assert student.dtype == torch.float32
    student.sum().backward()
    assert near.grad is not None
    assert near.grad.any()


def test_crops_that_do_not_meet():
    apart = BOXES.clone()
    apart[3, 1] = torch.tensor([85.0, 62, 90, 70])
    with pytest.raises(ValueError, match="crops 1 and 3 of image 1"):
        pair_boxes(apart, 2, GLOBAL, LOCAL)


def test_wrong_counts():
    maps, near = places(BOXES[:2], GLOBAL), places(BOXES[2:], LOCAL)
    boxes = pair_boxes(BOXES, 2, GLOBAL, LOCAL)
    with pytest.raises(ValueError, match="2 global and 1 local crops make 4 pairs, not 6"):
        align_pairs(maps, maps, near[:1], boxes)
    with pytest.raises(ValueError, match="2 of 4 crops are local"):
        pair_boxes(BOXES, 2, GLOBAL)
