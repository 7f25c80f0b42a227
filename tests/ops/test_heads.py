from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from densebench.ops import heads
from densebench.ops.resize import resize_maps

GOLDEN = Path(__file__).parents[1] / "golden"


def features(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 120), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_two_products_are_bilinear_upsampling(h, w, height, width):
    maps = features(3, h, w)
    found = heads.bilinear_matrix(h, height) @ maps @ heads.bilinear_matrix(w, width).T
    torch.testing.assert_close(found, resize_maps(maps[None], (height, width))[0], rtol=1e-4, atol=2e-5)


def test_upsampling_agrees_with_the_published_interpolation():
    file = np.load(GOLDEN / "l_resize_rules.npz")
    maps = torch.from_numpy(file["feature_map"])
    matrix = heads.bilinear_matrix(maps.shape[-1], 100)
    found = matrix @ maps @ matrix.T
    np.testing.assert_allclose(found.numpy(), file["feature_map_bilinear_100"], atol=2e-6)


def test_classifying_first_is_the_same_function_with_the_same_gradient():
    published, ours = heads.linear_head(6, 4, seed=1), heads.linear_head(6, 4, seed=1)
    maps, target = features(5, 6, 7, 9), torch.randint(0, 4, (5, 20, 30), generator=torch.Generator().manual_seed(0))
    target[0, :5] = heads.IGNORED
    target[2] = heads.IGNORED

    logits = published(resize_maps(maps, (20, 30)))
    loss = F.cross_entropy(logits, target, ignore_index=heads.IGNORED)
    loss.backward()

    upsample = heads.bilinear_matrix(7, 20), heads.bilinear_matrix(9, 30)
    total = sum(heads.add_gradient(ours, image, wanted, upsample) for image, wanted in zip(maps, target, strict=True))
    n_valid = int((target != heads.IGNORED).sum())
    classified = torch.stack([heads.class_maps(ours, image) for image in maps])
    torch.testing.assert_close(resize_maps(classified, (20, 30)), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total / n_valid, loss.detach(), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(ours.parameters(), published.parameters(), strict=True):
        torch.testing.assert_close(mine.grad / n_valid, theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_step_is_that_of_the_mean_over_the_batch_and_forgets_the_gradient():
    head = nn.Conv2d(1, 2, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    sgd = torch.optim.SGD(head.parameters(), lr=1.0)
    upsample = heads.bilinear_matrix(1, 1), heads.bilinear_matrix(1, 1)
    for value, label in ((1.0, 0), (3.0, 1)):
        heads.add_gradient(head, torch.full((1, 1, 1), value), torch.tensor([[label]]), upsample)
    heads.mean_gradient_step(head, sgd, 2)
    # each pixel: gradient of the logits (1/2 - onehot), times the feature; the mean of the two
    assert head.weight.flatten().tolist() == pytest.approx([-0.5, 0.5])
    assert head.bias.tolist() == pytest.approx([0.0, 0.0])
    heads.mean_gradient_step(head, sgd, 2)
    assert head.weight.flatten().tolist() == pytest.approx([-0.5, 0.5])


def test_a_batch_of_void_has_no_gradient():
    head = heads.linear_head(2, 3, seed=0)
    before = head.weight.clone()
    void = torch.full((4, 4), heads.IGNORED)
    loss = heads.add_gradient(head, features(2, 2, 2), void, (heads.bilinear_matrix(2, 4), heads.bilinear_matrix(2, 4)))
    heads.mean_gradient_step(head, torch.optim.SGD(head.parameters(), lr=1.0), 0)
    assert float(loss) == 0
    assert torch.equal(head.weight, before)


def test_targets_are_taken_nearest_and_ignored_labels_leave():
    masks = torch.tensor([[[0, 1, 2, 3], [4, 5, 255, 7], [8, 9, 10, 11], [12, 13, 14, 15]]], dtype=torch.uint8)
    assert heads.pixel_targets(masks, 2, 16, (255,)).tolist() == [[[0, 2], [8, 10]]]
    found = heads.pixel_targets(masks, 4, 12, (0, 255))
    assert found.dtype == torch.int64
    assert found[0].tolist() == [[-100, 1, 2, 3], [4, 5, -100, 7], [8, 9, 10, 11], [-100] * 4]


def test_a_head_is_drawn_from_its_seed_alone_as_torch_draws_it():
    torch.manual_seed(3)
    reference = nn.Conv2d(5, 4, 1)
    state = torch.random.get_rng_state()
    torch.testing.assert_close(heads.linear_head(5, 4, seed=3).weight, reference.weight)
    assert not torch.equal(heads.linear_head(5, 4, seed=4).weight, reference.weight)
    assert torch.equal(torch.random.get_rng_state(), state)
