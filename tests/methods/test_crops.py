from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.core.config import apply_overrides
from densebench.core.errors import UsageError
from densebench.methods.crops import (
    CropConfig,
    blur,
    color,
    crop,
    cut,
    draw_boxes,
    draw_crops,
    generator,
    make_views,
    mix_channels,
    overlaps,
    stack,
)

CPU = torch.device("cpu")
SMALL = CropConfig(global_size=32, local_size=16)


def board(height: int = 60, width: int = 80) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))


@given(st.integers(20, 300), st.integers(20, 300), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_boxes_lie_inside_and_keep_their_scale(height: int, width: int, seed: int) -> None:
    boxes = draw_boxes(generator(seed), (height, width), 20, (0.1, 0.4), (3 / 4, 4 / 3))
    x1, y1, x2, y2 = boxes.T
    assert (x1 >= 0).all()
    assert (y1 >= 0).all()
    assert (x2 <= width).all()
    assert (y2 <= height).all()
    w, h = x2 - x1, y2 - y1
    cut_to_fit = (w == width) | (h == height)
    slack = (w + h + 1) / 2  # sides are rounded to whole pixels
    assert ((w * h >= 0.1 * height * width - slack) | cut_to_fit).all()
    assert (w * h <= 0.4 * height * width + slack).all()


def test_crops_depend_on_their_key_alone() -> None:
    image = board()
    one, same, other = (crop(image, SMALL, generator(0, epoch, 5)) for epoch in (1, 1, 2))
    assert torch.equal(one.globals, same.globals)
    assert torch.equal(one.boxes, same.boxes)
    assert not torch.equal(one.boxes, other.boxes)
    assert one.globals.shape == (2, 3, 32, 32)
    assert one.locals.shape == (4, 3, 16, 16)


def test_the_whole_image_cut_at_its_own_size_is_the_image() -> None:
    image = board(40, 40)
    box = np.array([[0, 0, 40, 40]], dtype=np.float32)
    assert torch.equal(cut(image, box, np.array([False]), 40)[0], image)
    assert torch.equal(cut(image, box, np.array([True]), 40)[0], image.flip(-1))


def test_views_hold_the_same_cuts_with_and_without_color() -> None:
    batch = stack([crop(board(), SMALL, generator(0, i)) for i in range(3)])
    views, same, other = (make_views(batch, SMALL, (7, step), CPU) for step in (0, 0, 1))
    assert torch.equal(views.globals, same.globals)
    assert not torch.equal(views.globals, other.globals)
    assert torch.equal(views.clean_globals, other.clean_globals)
    assert torch.equal(views.clean_globals[1, 2], batch.globals[2, 1] / 255)
    assert views.globals.shape == (2, 3, 3, 32, 32)
    assert views.locals.shape == (4, 3, 3, 16, 16)
    assert views.boxes.shape == (6, 3, 4)
    assert len(views) == 3
    assert 0 <= float(views.globals.min()) <= float(views.globals.max()) <= 1


def test_no_color_operations_leave_pixels_alone() -> None:
    off = dataclasses.replace(SMALL, jitter=0.0, grayscale=0.0, blur=0.0, solarise=0.0)
    pixels = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(color(pixels, off, generator(0)), pixels, atol=1e-5, rtol=0)


def test_greyscale_is_luma_and_solarisation_inverts_what_is_bright() -> None:
    off = dataclasses.replace(SMALL, jitter=0.0, grayscale=0.0, blur=0.0, solarise=0.0)
    pixels = torch.rand(4, 3, 8, 8)
    grey = color(pixels, dataclasses.replace(off, grayscale=1.0), generator(0))
    luma = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(grey, luma.expand_as(grey), atol=1e-4, rtol=0)
    solar = color(pixels.clone(), dataclasses.replace(off, solarise=1.0), generator(0))
    torch.testing.assert_close(solar, torch.where(pixels >= 0.5, 1 - pixels, pixels), atol=1e-4, rtol=0)


def test_any_hue_keeps_luma_of_a_pale_color() -> None:
    turned = dataclasses.replace(SMALL, jitter=1.0, jitter_range=(0, 0, 0, 0.5), grayscale=0, blur=0, solarise=0)
    pixels = torch.tensor([0.5, 0.45, 0.55]).view(1, 3, 1, 1).expand(20, 3, 8, 8)
    out = color(pixels, turned, generator(3))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((out * weights).sum(1), (pixels * weights).sum(1), atol=1e-3, rtol=0)
    assert float((out - pixels).abs().max()) > 0.02


def test_contrast_turns_around_the_mean_grey() -> None:
    pixels = torch.rand(1, 3, 8, 8) * 0.2 + 0.4
    out = mix_channels(pixels, torch.eye(3)[None], torch.tensor([0.0]))
    grey = (pixels.mean((2, 3)) * torch.tensor([0.299, 0.587, 0.114])).sum()
    torch.testing.assert_close(out, grey.expand_as(out), atol=1e-5, rtol=0)


def test_blur_is_a_gaussian_per_crop() -> None:
    dot = torch.zeros(2, 3, 15, 15)
    dot[:, :, 7, 7] = 1
    out = blur(dot, torch.tensor([0.5, 1.2]))
    torch.testing.assert_close(out.sum((2, 3)), torch.ones(2, 3), atol=1e-5, rtol=0)
    ratio = out[0, 0, 7, 8] / out[0, 0, 7, 7]
    assert float(ratio) == pytest.approx(math.exp(-0.5 / 0.25), rel=1e-4)
    assert float(out[1, 0, 7, 7]) < float(out[0, 0, 7, 7])


def test_no_local_crops_are_fine() -> None:
    config = dataclasses.replace(SMALL, local_crops=0)
    views = make_views(stack([crop(board(), config, generator(i)) for i in range(2)]), config, (0,), CPU)
    assert views.locals.shape == (0, 2, 3, 16, 16)


def test_overlap_is_the_common_area() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], dtype=np.float32)
    others = np.array([[5, 6, 30, 30]], dtype=np.float32)
    assert overlaps(boxes, others).tolist() == [[20.0], [100.0]]
    assert overlaps(boxes, others[:0]).shape == (2, 0)


def test_local_crops_keep_the_overlap_rule() -> None:
    config = dataclasses.replace(SMALL, min_intersection=0.9, min_shared=0.01, draws=400)
    free = dataclasses.replace(SMALL, min_intersection=0.0)
    least = []
    for seed in range(30):
        boxes, (drawn, missed) = draw_crops(generator(seed), (200, 300), config)
        own = (boxes[2:, 2:] - boxes[2:, :2]).prod(1)
        share = overlaps(boxes[2:], boxes[:2]) / own[:, None]
        assert (share < 0.9).any(1).sum() <= missed
        assert drawn >= 6
        if not missed:
            assert share.min() >= 0.9
            assert overlaps(boxes[:1], boxes[1:2])[0, 0] >= 0.02 * 200 * 300
            least.append(drawn)
        loose, count = draw_crops(generator(seed), (200, 300), free)
        assert count == (6, 0)
        assert loose.shape == (6, 4)
    assert len(least) > 20
    assert np.mean(least) > 8  # boxes were rejected


def test_where_no_box_can_keep_the_rule_the_nearest_is_taken() -> None:
    config = dataclasses.replace(
        SMALL, global_scale=(0.05, 0.05), local_scale=(0.5, 0.5), ratio=(1, 1), min_intersection=0.9, draws=50
    )
    boxes, (drawn, missed) = draw_crops(generator(0), (100, 100), config)
    assert (missed, drawn) == (4, 2 + 4 * 50)
    assert np.isfinite(boxes).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_intersection", 1.5),
        ("draws", 0),
        ("global_crops", 0),
        ("local_scale", (0.5, 0.1)),
        ("global_scale", (0, 1)),
    ],
)
def test_impossible_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        apply_overrides(SMALL, {field: value})
