"""Depth where the right answer is known: features that hold it are nearly perfect, noise predicts the mean."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densebench.core.errors import DatasetError, FeatureError, UsageError
from densebench.core.progress import Progress
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.datasets.sets.voc import VOC
from densebench.features.source import FeatureSource
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import depth as ops
from densebench.protocols.depth.heads import LinearHead, layers_read, views_of
from densebench.protocols.depth.protocol import Depth, DepthConfig
from densebench.protocols.protocol import Context, Data
from tests import toys

SIDE = 48
FAST = {
    "steps": 150, "batch": 4, "crop": (48, 48), "augment": False, "learning_rates": (0.5,), "bins": 32,
    "max_depth": 10.0,
}  # fmt: skip


class Ramps(DenseDataset):
    """Depth rises from left to right, from and to other metres in every image; its colour says it."""

    info = DatasetInfo(
        name="ramps",
        title="ramps",
        classes=(),
        palette=(),
        splits={"train": 12, "val": 7},
        targets=frozenset({"depth"}),
        input_size=SIDE,
    )

    def __init__(self, root, split, transforms=None):
        super().__init__(root, split, transforms)
        self.ids = [f"{split}_{i}" for i in range(self.info.splits[split])]

    def depth(self, index):
        rng = np.random.default_rng((index, self.split == "val"))
        near, far = np.sort(rng.uniform(1.0, 9.0, 2))
        depth = np.tile(np.linspace(near, far, SIDE, dtype=np.float32), (SIDE, 1))
        depth[:4, :4] = 0.0
        return depth

    def image(self, index):
        grey = (self.depth(index) * 25).round().astype(np.uint8)
        return Image.fromarray(np.stack([grey] * 3, axis=-1))

    def digest(self):
        return f"ramps-{self.split}"


class TrueDepth(toys.ColorBackbone):
    """Features say which of 16 depths the patch is near."""

    info = BackboneInfo(
        name="true-depth", patch=8, width=16, prefix=1, depth=4, any_layer=True, mean=(0.0,) * 3, std=(1.0,) * 3
    )

    def tokens(self, pixels, keys):
        depth = nn.functional.avg_pool2d(pixels[:, :1], 8) * 255 / 25
        near = torch.exp(-((depth - torch.linspace(0.5, 9.5, 16).view(16, 1, 1)) ** 2) / 0.2)
        patches = near.flatten(2).transpose(1, 2) * self.scale
        return [torch.cat([patches.new_zeros(len(patches), 1, 16), patches], dim=1) for _ in keys]


@pytest.fixture(scope="module")
def data():
    return Data(Ramps(None, "train"), Ramps(None, "val"))


def measure(backbone, data, preset="paper", seed=0, batch_size=3, workers=0, workspace=None, progress=None, **settings):
    protocol = Depth()
    config = protocol.resolve(protocol.configure(preset, {**FAST, **settings}), backbone.info, data.info)
    source = FeatureSource(backbone, batch_size=batch_size, workers=workers)
    context = Context(source, progress or Progress(quiet=True), seed, workspace)
    result = protocol.run(config, data, context)
    return {m.label: m for m in result.metrics}, result, context


def values(found):
    return {name: metric.value for name, metric in found.items()}


def test_features_that_are_the_depth_are_nearly_perfect_in_both_heads(data):
    found, result, context = measure(TrueDepth(), data)
    assert set(found) == {
        f"{e}@linear{n}" for n in (1, 4) for e in ("rmse", "abs_rel", "delta1", "delta2", "delta3", "log10")
    }
    for n in (1, 4):
        assert found[f"rmse@linear{n}"].value < 0.5
        assert found[f"abs_rel@linear{n}"].value < 0.1
        assert found[f"delta1@linear{n}"].value > 0.95
        low, high = found[f"rmse@linear{n}"].ci95
        assert low < found[f"rmse@linear{n}"].value < high
        assert found[f"rmse@linear{n}"].value < 0.3 * result.facts["constant"]["rmse"]
    assert found["rmse@linear1"].unit == "m"
    assert not found["rmse@linear1"].higher_is_better
    assert found["delta1@linear1"].higher_is_better
    assert result.facts["layers"] == {"linear1": [3], "linear4": [0, 1, 2, 3]}
    assert result.artifacts["depth.png"][:4] == b"\x89PNG"
    assert {"load", "features", "training", "score"} <= set(context.seconds)


def test_noise_predicts_no_better_than_the_mean(data):
    found, result, _ = measure(toys.ShuffledBackbone(), data, learning_rates=(0.01,))
    assert set(found) == {m for m in found if m.endswith("@linear1")}  # it gives its last layer only
    constant = result.facts["constant"]
    assert 1.0 < constant["depth"] < 9.0
    assert found["rmse@linear1"].value == pytest.approx(constant["rmse"], rel=0.15)
    assert found["delta1@linear1"].value == pytest.approx(constant["delta1"], abs=0.2)


def test_augmented_training_is_learned_from_too(data):
    found, result, _ = measure(TrueDepth(), data, augment=True, crop=(40, 40), heads=(1,), steps=250)
    assert found["rmse@linear1"].value < 0.5 * result.facts["constant"]["rmse"]


def test_a_run_is_a_function_of_its_seed_alone(data):
    settings = {"steps": 12, "augment": True, "crop": (40, 32), "learning_rates": (0.1, 0.01)}
    once, result, _ = measure(TrueDepth(), data, **settings)
    for batch_size, workers in ((3, 0), (3, 2)):
        again, _, _ = measure(TrueDepth(), data, batch_size=batch_size, workers=workers, **settings)
        assert values(again) == values(once)
    again, _, _ = measure(TrueDepth(), data, batch_size=7, **settings)
    assert values(again) == pytest.approx(values(once), rel=1e-5)
    other, _, _ = measure(TrueDepth(), data, seed=1, **settings)
    assert values(other) != values(once)
    assert result.facts["held_out"]["images"] == 2


def test_a_head_does_not_depend_on_what_is_trained_beside_it(data):
    both, _, _ = measure(TrueDepth(), data, steps=12)
    alone, _, _ = measure(TrueDepth(), data, steps=12, heads=(1,))
    assert values(alone) == pytest.approx({k: v for k, v in values(both).items() if k in alone}, rel=1e-5)


def test_the_best_learning_rate_is_chosen_on_training_images(data):
    _, result, _ = measure(TrueDepth(), data, heads=(1,), learning_rates=(1e-6, 0.5))
    assert result.facts["learning_rates"] == {"linear1": 0.5}
    searched = result.facts["held_out"]["rmse"]
    assert searched["linear1 rate 0.5"] < searched["linear1 rate 1e-06"]


def test_the_preset_of_dinov3_normalises_by_batch(data):
    found, result, _ = measure(TrueDepth(), data, "dinov3", bins=256, learning_rates=(0.1,))
    assert set(found) == {m for m in found if m.endswith("@linear1")}
    assert found["rmse@linear1"].value < 0.6 * result.facts["constant"]["rmse"]
    assert result.facts["norm"]
    assert not result.facts["class_token"]


def resolved(**settings):
    return Depth().resolve(DepthConfig(**settings), toys.ShuffledBackbone.info, Ramps.info)


def test_image_and_depth_move_together():
    data = Ramps(None, "train")
    config = resolved(crop=(32, 40), max_depth=10.0)
    views = views_of(data, config, seed=3)
    drawn, plain = [], 0
    for epoch in range(20):
        _, image, depth = views[epoch, 0]
        assert image.shape == (3, 32, 40)
        assert depth.shape == (32, 40)
        again = views[epoch, 0]
        assert torch.equal(again[1], image)
        inside = (depth > 0) & (image[0] > 0)
        drawn.append(float(depth[inside].mean()))
        apart = (image[0] * 255 / 25 - depth)[inside].abs().mean()
        plain += int(apart < 0.15)  # else recoloured
    assert len(set(drawn)) > 10
    assert 5 <= plain <= 15
    slopes = [float((views[e, 0][2][20, 30] - views[e, 0][2][20, 10]).sign()) for e in range(20)]
    assert {-1.0, 1.0} == set(slopes)  # mirrored and not


def test_the_central_crop_is_taken_without_augmentation():
    data = Ramps(None, "train")
    config = resolved(crop=(32, 40), max_depth=10.0, augment=False)
    _, image, depth = views_of(data, config, seed=0)[5, 1]
    assert torch.equal(depth, torch.from_numpy(data.depth(1)[8:40, 4:44]))
    assert torch.equal((image[0] * 255).round(), (depth * 25).round())
    _, image, depth = views_of(data, config, seed=0)[1]
    assert depth.shape == (SIDE, SIDE)


def test_four_layers_end_the_quarters():
    assert [layers_read(4, depth) for depth in (12, 24, 40)] == [(2, 5, 8, 11), (4, 11, 17, 23), (9, 19, 29, 39)]
    assert layers_read(1, 12) == (11,)
    assert layers_read(4, 24, "linear_layers") == (23,)


def test_a_head_of_four_linear_layers_is_one_linear_map_of_the_last_block():
    torch.manual_seed(0)
    head = LinearHead(6, torch.linspace(0.1, 10, 5), before=3).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    weight, bias = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for layer in (*head.before, head.linear):
        weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
    one = LinearHead(6, torch.linspace(0.1, 10, 5)).double()
    one.linear.weight.data, one.linear.bias.data = weight, bias
    torch.testing.assert_close(head(x), one(x))
    head.add_gradient(x, torch.rand(2, 6, 8, dtype=torch.float64) + 1)
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in head.parameters())


def test_defaults_follow_backbone_and_dataset():
    protocol, nyu = Depth(), dataclasses.replace(Ramps.info, name="nyu", family="nyu", input_size=None)
    twelve = dataclasses.replace(TrueDepth.info, depth=12, patch=14)
    config = protocol.resolve(protocol.configure(), twelve, nyu)
    assert (config.heads, config.norm, config.class_token) == ((1, 4), False, True)
    assert (config.steps, config.batch, config.max_depth) == (38_400, 16, 10.0)
    assert config.learning_rates == (1e-3, 2e-3, 5e-3)
    assert config.crop == (416, 544)
    assert config.nyu_crops
    scenes = dataclasses.replace(Ramps.info, embedded=True, input_size=160)
    small = protocol.resolve(protocol.configure("embedded"), twelve, scenes)
    paper = protocol.resolve(protocol.configure("paper"), twelve, scenes)
    assert (paper.steps, paper.batch, paper.max_depth, paper.learning_rates) == (38_400, 16, 10.0, (1e-3, 2e-3, 5e-3))
    assert (small.steps, small.max_depth, small.crop, small.nyu_crops) == (100, 20.0, (140, 140), False)
    last_only = protocol.resolve(protocol.configure(), toys.ShuffledBackbone.info, scenes)
    assert (last_only.heads, last_only.norm) == ((1,), True)


def test_nyu_is_cropped_as_published(data):
    class Kinect(Ramps):
        info = dataclasses.replace(Ramps.info, name="nyu", family="nyu", input_size=None)

        def depth(self, index):
            depth = np.full((480, 640), 2.0, np.float32)
            frame = np.ones_like(depth, dtype=bool)
            frame[45:471, 43:601] = False
            depth[frame] = 9.0  # outside both crops but for two columns
            return depth

        def image(self, index):
            return Image.new("RGB", (640, 480), (50, 50, 50))

    nyu = Data(Kinect(None, "train"), Kinect(None, "val").select([0, 1]))
    settings = {"crop": "auto", "augment": True, "steps": 20, "batch": 1, "heads": (1,), "upsample": 1}
    _, result, _ = measure(TrueDepth(), nyu, **settings)
    assert result.facts["crop"] == [416, 544]
    assert result.facts["constant"]["depth"] == pytest.approx(2.0, abs=0.2)
    assert result.facts["constant"]["delta1"] == pytest.approx(558 / 560)


def test_settings_that_cannot_work_say_why(data):
    protocol = Depth()
    for settings, backbone, message in (
        ({"heads": (4,)}, toys.ShuffledBackbone, r"gives its last layer only; set depth\.heads=\[1\]"),
        ({"heads": (4,)}, toys.ColorBackbone, "has 2 layers"),
        ({"norm": False}, toys.ShuffledBackbone, "after the final norm only"),
        ({"steps": 0}, TrueDepth, r"depth\.steps=0"),
        ({"learning_rates": ()}, TrueDepth, r"depth\.learning_rates="),
        ({"max_depth": 1e-4}, TrueDepth, r"depth\.max_depth="),
    ):
        with pytest.raises(UsageError, match=message):
            protocol.resolve(protocol.configure("paper", settings), backbone.info, data.info)
    assert protocol.missing_targets(VOC.info) == "depth needs depth, which voc does not have"
    assert protocol.missing_targets(data.info) == ""
    assert Depth.needs == {"depth"}


def test_data_that_cannot_work_says_why(data):
    with pytest.raises(DatasetError, match=r"train_\d+ has 48x48 px to train on, less than the crop of 64x48"):
        measure(TrueDepth(), data, crop=(48, 64))
    with pytest.raises(DatasetError, match=r"no pixel of any image lies between 0\.001 and 0\.5 m"):
        measure(TrueDepth(), data, max_depth=0.5, steps=1)
    with pytest.raises(FeatureError, match=r"not finite for image train_\d+"):
        measure(toys.NaNBackbone(), data, steps=1)
    blind = type("Blind", (Ramps,), {"depth": lambda self, index: np.zeros((SIDE, SIDE), np.float32)})
    with pytest.raises(DatasetError, match="no pixel of the training images has a depth"):
        measure(TrueDepth(), Data(blind(None, "train"), data.val), steps=2)
    uneven = type("Uneven", (Ramps,), {"image": lambda self, index: Image.new("RGB", (SIDE, SIDE + 1))})
    with pytest.raises(DatasetError, match="48x49 px but its depth 48x48"):
        measure(TrueDepth(), Data(uneven(None, "train"), data.val), steps=1)


def test_images_of_different_sizes_and_without_measurements_are_evaluated(data):
    class Mixed(Ramps):
        def depth(self, index):
            depth = super().depth(index)
            return depth[:40] if index % 2 else depth * (index != 2)

        def image(self, index):
            return super().image(index).crop((0, 0, SIDE, 40 if index % 2 else SIDE))

    found, result, _ = measure(TrueDepth(), Data(data.train, Mixed(None, "val")), batch_size=4)
    assert found["rmse@linear1"].value < 0.6
    assert result.facts["images_without_valid_pixel"] == 1


def test_the_estimate_is_of_the_right_order(data):
    protocol = Depth()
    config = protocol.resolve(protocol.configure("paper", FAST), TrueDepth.info, data.info)
    estimate = protocol.estimate(config, TrueDepth.info, data)
    assert estimate.features["train"][1] == 600
    assert estimate.features["val"][1] == 14
    assert estimate.bank_bytes > 0
    assert estimate.search_flops > 0
    more = dataclasses.replace(config, steps=1500)
    assert protocol.estimate(more, TrueDepth.info, data).bank_bytes == estimate.bank_bytes


def test_gradients_of_groups_are_those_of_the_mean_loss():
    torch.manual_seed(0)
    x, target = torch.randn(5, 6, 3, 4), torch.rand(5, 12, 16) * 5 + 0.5
    for batch_norm in (False, True):
        heads = []
        for _ in range(2):
            torch.manual_seed(1)
            heads.append(LinearHead(6, ops.uniform_bins(8, 0.1, 10.0), upsample=2, batch_norm=batch_norm))
        loss = heads[0].add_gradient(x, target, 2, gradient_weight=0.5)
        pred = torch.nn.functional.interpolate(heads[1](x), (12, 16), mode="bilinear")
        groups = [(pred[i : i + 2], target[i : i + 2, None]) for i in (0, 2, 4)]
        whole = torch.stack([ops.sig_loss(*pair) + 0.5 * ops.gradient_loss(*pair) for pair in groups]).mean()
        whole.backward()
        assert loss == pytest.approx(whole.item(), rel=1e-5)
        for ours, theirs in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_head_predicts_image_by_image_what_it_predicts_at_once():
    head = LinearHead(3, ops.uniform_bins(8, 0.1, 10.0), upsample=4, init_std=0.01).eval()
    assert head.linear.bias.abs().max() == 0
    x = torch.randn(5, 3, 4, 5)
    found = head.predict(x, (30, 39))
    assert found.shape == (5, 30, 39)
    torch.testing.assert_close(found, ops.finish_depth(head(x), 0.1, 10.0, (30, 39))[:, 0])


class KilledError(Exception):
    """Stands for the kill."""


SEARCHED = {"checkpoint_seconds": 0.0, "steps": 15, "augment": True, "crop": (40, 40), "learning_rates": (0.1, 0.01)}


def killed(data, workspace, after):
    """Run until the backbone is asked for the `after`-th batch; training is saved at every step."""

    class Mortal(TrueDepth):
        calls = 0

        def tokens(self, pixels, keys):
            Mortal.calls += 1
            if Mortal.calls > after:
                raise KilledError
            return super().tokens(pixels, keys)

    with pytest.raises(KilledError):
        measure(Mortal(), data, workspace=workspace, **SEARCHED)


@pytest.mark.parametrize("after", [1, 7, 16])  # while heads are trained; while the rate is chosen
def test_a_killed_run_ends_with_the_same_numbers(after, data, tmp_path):
    whole, result, _ = measure(TrueDepth(), data, **SEARCHED)
    killed(data, tmp_path, after)

    class Counting(TrueDepth):
        calls = 0

        def tokens(self, pixels, keys):
            Counting.calls += 1
            return super().tokens(pixels, keys)

    found, again, context = measure(Counting(), data, workspace=tmp_path, **SEARCHED)
    assert found == whole
    assert again.facts == result.facts
    val_and_held_out = 2 * 3 + 1
    assert Counting.calls == 15 - min(after, 15) + val_and_held_out
    assert context.features.batch_size == 3


@pytest.mark.parametrize("damage", ["torn", "noise", "other"])
def test_a_torn_state_is_said_and_training_starts_anew(damage, data, tmp_path, capsys):
    whole, _, _ = measure(TrueDepth(), data, **SEARCHED)
    killed(data, tmp_path, 5)
    path = tmp_path / "training.pt"
    content = path.read_bytes()
    if damage == "other":
        torch.save({**torch.load(path, weights_only=True), "settings": "others"}, path)
    else:
        path.write_bytes(content[:-200] if damage == "torn" else b"no heads at all")
    found, _, _ = measure(TrueDepth(), data, workspace=tmp_path, progress=Progress(), **SEARCHED)
    assert found == whole
    assert "training starts again" in capsys.readouterr().err


def test_without_a_place_to_save_training_goes_on(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    found, _, _ = measure(TrueDepth(), data, workspace=tmp_path / "file" / "x", progress=Progress(), **SEARCHED)
    assert found == measure(TrueDepth(), data, **SEARCHED)[0]
    assert capsys.readouterr().err.count("Training goes on") == 1
