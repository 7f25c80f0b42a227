"""Segmenter's decoder, its windows and its schedule, against numbers by hand and laws."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from densebench.ops.segmenter import DropPath, MaskTransformer, poly_rate, slide, windows


def decoder(**settings):
    torch.manual_seed(0)
    return MaskTransformer(16, 5, **{"layers": 2, "heads": 2, **settings}).eval()


def test_a_mask_is_the_normed_cosine_of_patch_and_class():
    net, maps = decoder(layers=0), torch.randn(2, 16, 3, 4)
    found = net(maps)
    assert found.shape == (2, 5, 3, 4)
    patch = net.patch_projection(net.norm(net.project(maps[1, :, 2, 3])))
    classes = net.class_projection(net.norm(net.classes[0]))
    cosines = torch.stack([F.cosine_similarity(patch, c, dim=0) for c in classes])
    expected = (cosines - cosines.mean()) / (cosines.var(unbiased=False) + net.mask_norm.eps).sqrt()
    torch.testing.assert_close(found[1, :, 2, 3], expected)


def test_an_attention_layer_is_that_of_torch():
    layer = decoder().layers[0]
    reference = torch.nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    reference.load_state_dict(
        {
            "self_attn.in_proj_weight": layer.qkv.weight, "self_attn.in_proj_bias": layer.qkv.bias,
            "self_attn.out_proj.weight": layer.out.weight, "self_attn.out_proj.bias": layer.out.bias,
            "linear1.weight": layer.mlp[0].weight, "linear1.bias": layer.mlp[0].bias,
            "linear2.weight": layer.mlp[2].weight, "linear2.bias": layer.mlp[2].bias,
            "norm1.weight": layer.norm1.weight, "norm1.bias": layer.norm1.bias,
            "norm2.weight": layer.norm2.weight, "norm2.bias": layer.norm2.bias,
        }
    )  # fmt: skip
    tokens = torch.randn(3, 7, 16)
    torch.testing.assert_close(layer(tokens), reference(tokens))


def test_patches_have_no_place_and_images_do_not_mix():
    net, maps = decoder(), torch.randn(2, 16, 3, 4)
    moved = maps.flatten(2)[..., torch.randperm(12)].unflatten(2, (3, 4))
    order = torch.randperm(12)
    torch.testing.assert_close(
        net(maps.flatten(2)[..., order].unflatten(2, (3, 4))).flatten(2), net(maps).flatten(2)[..., order]
    )
    torch.testing.assert_close(net(torch.stack([maps[0], moved[1]]))[0], net(maps)[0])


def test_weights_start_as_in_mmsegmentation():
    torch.manual_seed(0)
    net = MaskTransformer(192, 21, heads=3, drop_path=0.1)
    for weight in (net.classes, net.layers[0].mlp[0].weight):
        assert weight.detach().std() == pytest.approx(0.02, rel=0.05)
    assert net.layers[0].qkv.weight.detach().abs().max() == pytest.approx((6 / (4 * 192)) ** 0.5, rel=0.01)
    assert net.layers[0].out.bias.abs().max() == 0
    assert [layer.drop_path.rate for layer in net.layers] == [0.0, pytest.approx(0.1)]
    assert sum(p.numel() for p in net.parameters()) == 192 * (193 + 2 * 192 + 21 + 2) + 2 * 21 + 2 * (
        12 * 192**2 + 13 * 192
    )


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 3)
    torch.manual_seed(0)
    found = drop.train()(x)
    assert found.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert (found == found[:, :1]).all()
    assert found.mean() == pytest.approx(1.0, abs=0.03)
    assert drop.eval()(x) is x


@pytest.mark.parametrize(
    ("size", "starts"),
    [((512, 683), [(0, 0), (0, 171)]), ((512, 992), [(0, 0), (0, 480)]), ((512, 993), [(0, 0), (0, 480), (0, 481)]),
     ((300, 512), [(0, 0)]), ((600, 600), [(0, 0), (0, 88), (88, 0), (88, 88)])],
)  # fmt: skip
def test_windows_by_hand(size, starts):
    found = list(windows(*size, 512, 480))
    assert [(rows.start, columns.start) for rows, columns in found] == starts
    assert all(rows.stop <= size[0] and columns.stop <= size[1] for rows, columns in found)


def test_windows_cover_every_pixel():
    for height, width, crop, stride in itertools.product((3, 7, 20), (5, 13), (4, 7), (1, 3, 4)):
        seen = torch.zeros(height, width)
        for rows, columns in windows(height, width, crop, stride):
            seen[rows, columns] += 1
        assert seen.min() > 0


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_overlapping_windows_are_averaged(at_once):
    image = torch.rand(3, 9, 13)

    def position_in_window(crops):
        for crop in crops:
            yield torch.stack([crop.sum(0), torch.arange(crop.shape[2]).expand(crop.shape[1:]).float()])

    found = slide(image, position_in_window, crop=9, stride=4, at_once=at_once)
    torch.testing.assert_close(found[0], image.sum(0))  # what does not depend on the window is not changed
    columns = torch.arange(13.0)
    expected = torch.where(columns < 4, columns, torch.where(columns < 9, columns - 2, columns - 4))
    torch.testing.assert_close(found[1], expected.expand(9, 13))


def test_the_schedule_is_mmengines_recursion():
    steps, peak, power = 50, 3e-4, 0.9
    low, rate = 0.1 * peak, peak
    for step in range(steps):
        assert peak * poly_rate(step, steps, 0.1, power) == pytest.approx(rate, rel=1e-9)
        rate = (rate - low) * (1 - 1 / (steps - 1 - step)) ** power + low if step < steps - 1 else rate
    assert rate == pytest.approx(low)
    assert poly_rate(0, 1) == 1.0
