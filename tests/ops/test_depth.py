import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.regression import mean_absolute_percentage_error, mean_squared_error

from densebench.ops import depth
from densebench.ops.depth import ERRORS
from densebench.ops.jackknife import group_of
from densebench.ops.sampling import patchify_labels


def errors(pred, target, valid=None):
    found = depth.depth_errors(torch.tensor(pred), torch.tensor(target), valid)
    return dict(zip(ERRORS, found.tolist(), strict=True))


def test_errors_by_hand():
    found = errors([1.0, 4.0], [2.0, 4.0])
    assert found["abs_rel"] == pytest.approx((0.5 + 0) / 2)
    assert found["rmse"] == pytest.approx(math.sqrt(1 / 2))
    assert found["sq_rel"] == pytest.approx(0.25)
    assert found["log_10"] == pytest.approx(math.log10(2) / 2)
    assert found["rmse_log"] == pytest.approx(math.log(2) / math.sqrt(2))
    assert found["silog"] == pytest.approx(100 * math.log(2) / 2)  # the deviation of (log 2, 0)
    assert (found["a1"], found["a2"], found["a3"]) == (0.5, 0.5, 0.5)  # a factor of 2 is above 1.25^3 = 1.95


def test_errors_are_those_of_torchmetrics():
    pred, target = 0.1 + 9 * torch.rand(2, 30, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(30, 40, generator=torch.Generator().manual_seed(1)) < 0.7
    found = dict(zip(ERRORS, depth.depth_errors(pred, target, valid), strict=True))
    p, t = pred[valid], target[valid]
    torch.testing.assert_close(found["abs_rel"], mean_absolute_percentage_error(p, t))
    torch.testing.assert_close(found["rmse"], mean_squared_error(p, t, squared=False))
    torch.testing.assert_close(found["rmse_log"], mean_squared_error(p.log(), t.log(), squared=False))


def test_thresholds_are_strict_and_work_both_ways():
    found = errors([1.25, 1.0, 1.5, 1.9], [1.0, 1.5, 1.0, 1.0])
    assert (found["a1"], found["a2"], found["a3"]) == (0.0, 0.75, 1.0)


def test_a_perfect_prediction_and_an_empty_image():
    perfect = errors([1.0, 3.0], [1.0, 3.0])
    assert all(perfect[name] == 1 for name in ("a1", "a2", "a3"))
    assert all(perfect[name] == 0 for name in ERRORS[3:])
    nothing = errors([1.0], [0.0], torch.tensor([False]))
    assert all(math.isnan(value) for value in nothing.values())
    with pytest.raises(ValueError, match="differ in shape"):
        depth.depth_errors(torch.ones(2), torch.ones(3))


def test_valid_pixels_are_inside_the_open_range_and_the_crop():
    target = torch.full((480, 640), 5.0)
    target[100, 100], target[101, 100], target[102, 100] = 0.0, 10.0, 0.001
    assert int(depth.valid_depth(target, 1e-3, 10.0).sum()) == 480 * 640 - 3
    cropped = depth.valid_depth(target, 1e-3, 10.0, eigen=True)
    assert int(cropped.sum()) == (471 - 45) * (601 - 41) - 3
    assert not cropped[:45].any()
    assert not cropped[:, 601:].any()
    assert depth.eigen_crop(240, 320) == (slice(22, 235), slice(20, 300))
    assert depth.border_crop(480, 640) == (slice(45, 472), slice(43, 608))


def test_the_mean_is_over_images_and_not_over_pixels():
    mean = depth.ImageMean((1,))
    for image, value in enumerate((1.0, 3.0, math.nan)):
        mean.update(image, torch.tensor([value]))
    assert mean.mean().tolist() == [2.0]
    assert len({group_of(i) for i in range(3)}) == 3
    assert sorted(mean.left_out().flatten().tolist()) == [1.0, 2.0, 3.0]


def test_decoding_by_hand():
    centres = depth.uniform_bins(3, 1.0, 3.0)
    assert centres.tolist() == [1.0, 2.0, 3.0]
    logits = torch.tensor([-5.0, 0.0, 0.9]).view(1, 3, 1, 1)
    linear = depth.decode_bins(logits, centres)  # weights 0.1, 0.1, 1.0
    assert linear.item() == pytest.approx((0.1 * 1 + 0.1 * 2 + 1.0 * 3) / 1.2)
    one_hot = torch.tensor([-100.0, 0.0, -100.0]).view(1, 3, 1, 1)
    assert depth.decode_bins(one_hot, centres, "softmax").item() == pytest.approx(2.0)
    assert depth.decode_bins(one_hot, centres, "sigmoid").item() == pytest.approx(2.0)
    flat = torch.zeros(1, 3, 1, 1)
    for norm in ("linear", "softmax", "sigmoid"):
        assert depth.decode_bins(flat, centres, norm).item() == pytest.approx(2.0)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="2 logits for 3 bins"):
        depth.decode_bins(torch.zeros(1, 2, 1, 1), torch.ones(3))
    with pytest.raises(ValueError, match="'linear', 'softmax' or 'sigmoid'"):
        depth.decode_bins(torch.zeros(1, 2, 1, 1), torch.ones(2), "hard")
    for n, low, high in ((1, 0.0, 1.0), (4, 2.0, 2.0)):
        with pytest.raises(ValueError, match="at least 2 bins over a range"):
            depth.uniform_bins(n, low, high)


@given(st.integers(0, 2**31 - 1))
def test_decoded_depth_stays_within_the_bins(seed):
    logits = 10 * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(seed))
    for norm in ("linear", "softmax", "sigmoid"):
        found = depth.decode_bins(logits, depth.uniform_bins(5, 0.5, 8.0), norm)
        assert found.shape == (2, 1, 3, 4)
        assert bool(((found >= 0.4999) & (found <= 8.0001)).all())


def test_channels_are_patch_then_class_token_layer_by_layer():
    maps = [torch.full((1, 2, 2, 3), float(i)) for i in (1, 3)]
    tokens = [torch.full((1, 2), float(i)) for i in (2, 4)]
    assert depth.concat_tokens(maps, tokens)[0, :, 1, 2].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert depth.concat_tokens(maps)[0, :, 1, 2].tolist() == [1, 1, 3, 3]


def test_convolving_first_is_convolving_last():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((2, 5, 3, 4), (7, 5), (7,)))
    upsampled = torch.nn.functional.interpolate(x, (12, 16), mode="bilinear", align_corners=False)
    late = torch.nn.functional.conv2d(upsampled, weight[:, :, None, None], bias)
    torch.testing.assert_close(depth.linear_logits(x, weight, bias, 4), late, rtol=1e-5, atol=1e-5)


def test_finishing_clamps_before_it_resizes():
    found = depth.finish_depth(torch.tensor([[[[-5.0, 50.0]]]]), 0.0, 10.0, (1, 4))
    assert found.flatten().tolist() == pytest.approx([0.0, 2.5, 7.5, 10.0])


def test_sig_loss_by_hand():
    pred, target = torch.tensor([2.0, 2.0, 9.0]), torch.tensor([1.0, 3.0, 0.0])
    g = [math.log(2.001 / 1.001), math.log(2.001 / 3.001)]
    mean = sum(g) / 2
    variance = sum((x - mean) ** 2 for x in g)  # unbiased: over n - 1 = 1
    assert depth.sig_loss(pred, target).item() == pytest.approx(math.sqrt(variance + 0.15 * mean**2), rel=1e-5)
    assert depth.sig_loss(pred, target, warm_up=True).item() == pytest.approx(math.sqrt(0.15) * abs(mean), rel=1e-4)


@pytest.mark.parametrize("target", [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
def test_losses_without_anything_to_learn_are_zero_with_a_gradient_of_zero(target):
    pred = torch.tensor([2.0, 2.0]).view(1, 1, 1, 2).requires_grad_()
    truth = torch.tensor(target).view(1, 1, 1, 2)
    for loss in (depth.sig_loss, depth.gradient_loss):
        found = loss(pred, truth)
        (gradient,) = torch.autograd.grad(found, pred)
        assert found.item() == 0
        assert gradient.tolist() == [[[[0.0, 0.0]]]]


def test_gradient_loss_by_hand():
    target = torch.ones(1, 1, 1, 4)
    pred = torch.tensor([1.0, 1.0, 2.0, 1.0]).view(1, 1, 1, 4)
    # first scale: one of the two pairs is off by log 2, over 4 pixels; coarser scales have no pair left
    assert depth.gradient_loss(pred, target).item() == pytest.approx(math.log(2.001 / 1.001) / 4, rel=1e-5)
    assert depth.gradient_loss(pred, target, dims=(0, 1)).item() == 0  # as published: batch and channel


def test_bins_of_a_histogram_and_patches_there_and_back():
    values = torch.tensor([0.0, 0.9, 1.0, 1.999, 2.0])
    assert depth.histogram_bins(values, 2).tolist() == [0, 0, 1, 1, 2]
    maps = torch.rand(2, 6, 9)
    assert torch.equal(depth.unpatchify(patchify_labels(maps, 3), 3), maps)


def test_padding_is_central_and_of_the_mean_color():
    images = torch.ones(1, 3, 5, 8)
    padded = depth.centre_pad(images, 4, (0.1, 0.2, 0.3))
    assert padded.shape == (1, 3, 8, 8)
    assert padded[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert torch.equal(padded[:, :, 1:6], images)  # one above, two below
    assert depth.centre_pad(images[:, :, :4], 4, (0.0,) * 3).shape == (1, 3, 4, 8)


def test_schedules_by_hand():
    assert depth.rate_and_beta(0, 300) == (pytest.approx(1e-3), pytest.approx(0.95))
    assert depth.rate_and_beta(100, 300)[0] == pytest.approx(0.75)  # the warm-up is over, the cosine at a third
    assert depth.rate_and_beta(89, 300)[1] == pytest.approx(0.85)
    rate, beta = depth.rate_and_beta(299, 300)
    assert rate < 1e-4
    assert beta == pytest.approx(0.95)
    assert depth.rate_and_beta(0, 300, "one_cycle") == (pytest.approx(1e-3), 0.0)
    assert depth.rate_and_beta(100, 300, "one_cycle") == (pytest.approx(0.7455, abs=1e-4), pytest.approx(0.85))
    assert depth.rate_and_beta(299, 300, "one_cycle")[0] == pytest.approx(1 / 25_000)
    for schedule in ("cosine", "one_cycle"):
        for steps in (1, 2, 3, 5):
            for step in range(steps):
                rate, beta = depth.rate_and_beta(step, steps, schedule)
                assert 0 <= rate <= 1.01
                assert 0 <= beta <= 0.95
