"""Depth decoded tile by tile against depth decoded at once, values and slopes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from densebench.ops import depth, depth_bins

GOLDEN = Path(__file__).parents[1] / "golden"


def at_once(logits, centres, norm, upsample):
    fine = torch.nn.functional.interpolate(logits, scale_factor=upsample, mode="bilinear", align_corners=False)
    return depth.decode_bins(fine, centres, norm)


@pytest.mark.parametrize("tile", [1, 500, 10**6])  # one row of an image, some, all
@pytest.mark.parametrize("upsample", [1, 2, 4])
@pytest.mark.parametrize("norm", ["linear", "softmax", "sigmoid"])
def test_tiles_decode_what_all_logits_decode(norm, upsample, tile, monkeypatch):
    monkeypatch.setattr(depth_bins, "TILE", {"cpu": tile})
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 16, 5, 7, generator=generator, dtype=torch.float64)
    centres = depth.uniform_bins(16, 0.1, 10.0).double()
    wanted = torch.randn(3, 1, upsample * 5, upsample * 7, generator=generator, dtype=torch.float64)
    found = []
    for decode in (depth_bins.decode_upsampled, at_once):
        leaf = logits.clone().requires_grad_()
        out = decode(leaf, centres, norm, upsample)
        ((out - wanted) ** 2).mean().backward()
        found.append((out.detach(), leaf.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_slope_is_that_of_small_steps():
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    centres = depth.uniform_bins(4, 1.0, 4.0).double()
    assert torch.autograd.gradcheck(lambda x: depth_bins.decode_upsampled(x, centres, "linear", 3), (logits,))


def test_logits_without_a_positive_one_are_the_middle_of_the_range():
    centres = depth.uniform_bins(8, 1.0, 9.0)
    found = depth_bins.decode_upsampled(torch.full((1, 8, 2, 2), -3.0), centres, "linear", 4)
    torch.testing.assert_close(found, torch.full((1, 1, 8, 8), 5.0))


def test_other_numbers_of_bins_are_refused():
    with pytest.raises(ValueError, match="3 logits for 4 bins"):
        depth_bins.decode_upsampled(torch.zeros(1, 3, 2, 2), torch.ones(4), "linear", 2)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("f_bins_*.npz")), ids=lambda path: path.stem)
def test_the_published_head_gives_the_same_depth(path):
    v = np.load(path)
    maps, tokens, weight, bias = (torch.from_numpy(v[k]) for k in ("patch_maps", "cls_tokens", "weight", "bias"))
    logits = depth.linear_logits(depth.concat_tokens(list(maps), list(tokens)), weight, bias)
    centres = depth.uniform_bins(int(v["n_bins"]), float(v["min_depth"]), float(v["max_depth"]))
    found = depth_bins.decode_upsampled(logits, centres, str(v["norm"].item()), int(v["upsample"]))
    torch.testing.assert_close(found, torch.from_numpy(v["depth"]), rtol=1e-4, atol=1e-4)
