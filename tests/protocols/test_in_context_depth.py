"""In-context depth where the right answer is known: depth as the feature is exact, noise guesses."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.core.errors import DatasetError, FeatureError, UsageError
from densebench.core.progress import Progress
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.datasets.sets.voc import VOC
from densebench.features.source import FeatureSource
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import depth as ops
from densebench.ops.sampling import patch_scores, patchify_labels
from densebench.protocols.in_context_depth.protocol import InContextDepth, binned_scores
from densebench.protocols.protocol import Context, Data
from tests import toys

SIDE = 64
METRES = (1.0, 2.0, 4.0, 8.0)
METRES_T = torch.tensor(METRES)
FAST = {"augmentation_epochs": 0, "neighbours": 5, "max_depth": 10.0}


class Blocks(DenseDataset):
    """Every patch of 8 pixels has one of four depths, and the colour that says which."""

    info = DatasetInfo(
        name="blocks",
        title="blocks",
        classes=(),
        palette=(),
        splits={"train": 16, "val": 10},
        targets=frozenset({"depth"}),
        input_size=SIDE,
    )
    holes = False

    def __init__(self, root=None, split="train", transforms=None):
        super().__init__(root, split, transforms)
        self.ids = [f"{split}_{i}" for i in range(self.info.splits[split])]

    def _which(self, index):
        rng = np.random.default_rng((index, self.split == "val"))
        return rng.integers(0, 4, (8, 8)).repeat(8, 0).repeat(8, 1)

    def depth(self, index):
        depth = np.array(METRES, dtype=np.float32)[self._which(index)]
        if self.holes:
            depth[::2] = 0.0
        return depth

    def image(self, index):
        return Image.fromarray(toys.COLORS[self._which(index)])

    def digest(self):
        return f"blocks-{self.split}-{self.holes}"


class Holes(Blocks):
    """The same, every other row not measured."""

    holes = True


@pytest.fixture(scope="module")
def data():
    return Data(Blocks(None, "train"), Blocks(None, "val"))


def depths(data):
    """Return all depths of a split, (N, 8, 8)."""
    return np.stack([data.depth(i)[1::8, 1::8] for i in range(len(data))])


def shares(values):
    """Return how often each depth occurs, (4,)."""
    return torch.tensor([float((values == m).float().mean()) for m in METRES])


def measure(backbone, data, preset="paper", seed=0, batch_size=3, workers=0, **settings):
    protocol = InContextDepth()
    config = protocol.resolve(protocol.configure(preset, {**FAST, **settings}), backbone.info, data.info)
    source = FeatureSource(backbone, batch_size=batch_size, workers=workers)
    context = Context(source, Progress(quiet=True), seed)
    result = protocol.run(config, data, context)
    return {m.label: m for m in result.metrics}, result, context


@pytest.mark.parametrize("preset", ["paper", "dip"])
@pytest.mark.parametrize("memory_size", [None, 160])
def test_features_that_are_the_depth_are_exact(preset, memory_size, data):
    found, result, context = measure(toys.OneHotBackbone(), data, preset, memory_size=memory_size)
    assert set(found) == {"rmse", "abs_rel", "delta1"}
    assert found["rmse"].value == pytest.approx(0.0, abs=1e-5)
    assert found["rmse"].ci95 == (pytest.approx(0.0, abs=1e-5), pytest.approx(0.0, abs=1e-5))
    assert found["abs_rel"].value == pytest.approx(0.0, abs=1e-5)
    assert found["delta1"].value == 1.0
    assert result.facts["bank"]["rows"] == (memory_size or 16 * 64)
    assert result.artifacts["depth.png"][:4] == b"\x89PNG"
    assert {"memory", "features", "search", "score"} <= set(context.seconds)


def test_noise_guesses_a_depth_of_the_memory(data):
    found, result, _ = measure(toys.ShuffledBackbone(), data, neighbours=1)
    train, val = (torch.from_numpy(depths(split)).flatten(1) for split in (data.train, data.val))
    # a random patch of the memory: E (a - b)^2 over all pairs, per image
    pairs = torch.stack([(image[:, None] - METRES_T).square() @ shares(train) for image in val])
    assert found["rmse"].value == pytest.approx(float(pairs.mean(1).sqrt().mean()), rel=0.07)
    assert found["delta1"].value == pytest.approx(0.25, abs=0.05)
    constant = result.facts["constant"]
    assert result.facts["constant_depth"] == pytest.approx(float(train.mean()), rel=1e-6)
    apart = (val - train.mean()).square().mean(1).sqrt().mean()
    assert constant["rmse"] == pytest.approx(float(apart), rel=1e-5)
    assert result.facts["image_mean"]["rmse"] < constant["rmse"] < found["rmse"].value
    # many random neighbours come close to the mean of the memory
    many, _, _ = measure(toys.ShuffledBackbone(), data, neighbours=500, temperature=10.0)
    assert many["rmse"].value == pytest.approx(constant["rmse"], rel=0.05)


def test_pixels_without_measurement_are_left_out_of_the_mean(data):
    found, result, _ = measure(toys.OneHotBackbone(), Data(Holes(None, "train"), Holes(None, "val")))
    assert found["rmse"].value == pytest.approx(0.0, abs=1e-5)  # a mean with zeros would halve every depth
    assert result.facts["pixels_without_measured_neighbour"] == 0
    assert result.facts["constant_depth"] == pytest.approx(float(depths(data.train).mean()), rel=1e-6)
    # rows that the memory never measured are answered with its mean depth
    found, result, _ = measure(toys.OneHotBackbone(), Data(Holes(None, "train"), data.val))
    assert result.facts["pixels_without_measured_neighbour"] == 10 * SIDE * SIDE // 2
    assert found["rmse"].value == pytest.approx(result.facts["constant"]["rmse"] / 2**0.5, rel=1e-5)


def test_augmented_memory_images_carry_their_depth_along(data):
    found, result, _ = measure(toys.OneHotBackbone(), data, augmentation_epochs=2)
    assert result.facts["bank"]["rows"] == 2 * 16 * 64
    # patches that a crop's edge has mixed have mixed colours: not exact, but far from guessing
    assert found["rmse"].value < 0.65 * result.facts["constant"]["rmse"]


def test_a_run_is_a_function_of_its_seed_alone(data):
    settings = {"memory_size": 300, "augmentation_epochs": 2, "temperature": 0.5}
    once, _, _ = measure(toys.ColorBackbone(), data, **settings)
    for batch_size, workers in ((7, 0), (2, 2)):
        again, _, _ = measure(toys.ColorBackbone(), data, batch_size=batch_size, workers=workers, **settings)
        assert {k: m.value for k, m in again.items()} == {k: m.value for k, m in once.items()}
    other, _, _ = measure(toys.ColorBackbone(), data, seed=1, **settings)
    assert other["rmse"].value != once["rmse"].value


@pytest.mark.parametrize("preset", ["paper", "dip"])
def test_exact_backends_agree(preset, data):
    pytest.importorskip("faiss")
    one, two = (measure(toys.ShuffledBackbone(), data, preset, backend=b)[0] for b in ("torch", "faiss"))
    assert one["rmse"].value == pytest.approx(two["rmse"].value, rel=1e-6)


def test_bins_of_depth_are_drawn_as_classes():
    patches = patchify_labels(torch.from_numpy(np.stack([Blocks().depth(i) for i in range(3)])), 8)
    found = binned_scores(patches, 255)
    assert found.shape == (3, 8, 8)
    for image, scores in zip(patches, found, strict=True):
        bins = ops.histogram_bins(image[None], 255)
        expected = patch_scores(ops.unpatchify(bins, 8), 8, 256, void=-1)
        assert torch.equal(scores, expected[0])
    # the range is the image's own: its companions in the batch do not matter
    assert torch.equal(binned_scores(patches[:1], 255)[0], found[0])


def test_defaults_follow_backbone_and_dataset():
    protocol, nyu = InContextDepth(), dataclasses.replace(Blocks.info, name="nyu", input_size=None)
    fourteen = BackboneInfo(name="b", patch=14, width=384)
    config = protocol.resolve(protocol.configure(), fourteen, nyu)
    assert (config.input_size, config.memory_size, config.augmentation_epochs) == (504, 10_240_000, 2)
    assert (config.max_depth, config.temperature, config.neighbours) == (10.0, 0.07, 30)
    assert (config.similarity, config.memory_dtype, config.std, config.eigen_crop) == ("cosine", "float32", None, False)
    dip = protocol.resolve(protocol.configure("dip"), fourteen, nyu)
    assert (dip.similarity, dip.memory_dtype, dip.std) == ("l2", "float16", (0.229, 0.224, 0.255))
    sixteen = dataclasses.replace(fourteen, patch=16)
    assert protocol.resolve(protocol.configure(), sixteen, nyu).input_size == 496
    scenes = dataclasses.replace(Blocks.info, embedded=True, input_size=160)
    small = protocol.resolve(protocol.configure("embedded"), sixteen, scenes)
    assert (small.input_size, small.memory_size, small.augmentation_epochs, small.max_depth) == (160, 25_600, 1, 20.0)
    paper = protocol.resolve(protocol.configure("paper"), sixteen, scenes)
    assert (paper.memory_size, paper.augmentation_epochs, paper.max_depth) == (10_240_000, 2, 10.0)


def test_the_estimate_counts_the_memory(data):
    protocol, info = InContextDepth(), toys.ColorBackbone.info
    for preset, each in (("paper", 4), ("dip", 2)):
        config = protocol.resolve(protocol.configure(preset, {**FAST, "augmentation_epochs": 2}), info, data.info)
        estimate = protocol.estimate(config, info, data)
        assert estimate.features["train"][1] == 32
        assert estimate.features["val"][1] == 10
        assert estimate.bank_bytes == 32 * 64 * (each * (4 + 8 * 8) + 4)
        assert estimate.search_flops == 2.0 * 4 * 10 * 64 * 32 * 64


def test_settings_that_cannot_work_say_why(data):
    protocol = InContextDepth()
    for settings, message in (
        ({"max_depth": 1e-4}, r"in_context_depth\.max_depth="),
        ({"neighbours": 0}, r"in_context_depth\.neighbours=0"),
        ({"temperature": 0.0}, r"in_context_depth\.temperature=0\.0"),
        ({"memory_size": 0}, r"in_context_depth\.memory_size=0"),
        ({"bins": 0}, r"in_context_depth\.bins=0"),
        ({"input_size": 60}, "not a multiple of the patch"),
        ({"search": "scann", "similarity": "l2"}, "similarity=cosine only"),
    ):
        with pytest.raises(UsageError, match=message):
            protocol.resolve(protocol.configure("paper", settings), toys.ColorBackbone.info, data.info)
    assert protocol.missing_targets(VOC.info) == "in_context_depth needs depth, which voc does not have"
    assert protocol.missing_targets(data.info) == ""


def test_data_that_cannot_work_says_why(data):
    with pytest.raises(DatasetError, match=r"no pixel of any image lies between 0\.001 and 0\.5 m"):
        measure(toys.ColorBackbone(), data, max_depth=0.5)
    blind = type("Blind", (Blocks,), {"depth": lambda self, index: np.zeros((SIDE, SIDE), np.float32)})
    with pytest.raises(DatasetError, match="no pixel of the training images has a depth"):
        measure(toys.ColorBackbone(), Data(blind(None, "train"), data.val))
    with pytest.raises(FeatureError, match=r"not finite for image train_\d+"):
        measure(toys.NaNBackbone(), data)


def test_images_without_a_valid_pixel_do_not_count(data):
    class Some(Blocks):
        def depth(self, index):
            return super().depth(index) * (index != 2)

    found, result, _ = measure(toys.OneHotBackbone(), Data(data.train, Some(None, "val")))
    assert result.facts["images_without_valid_pixel"] == 1
    assert found["rmse"].value == pytest.approx(0.0, abs=1e-5)


def test_the_eigen_crop_leaves_the_rim_out(data):
    class Framed(Blocks):
        def depth(self, index):
            depth = super().depth(index)
            inner = depth[ops.eigen_crop(SIDE, SIDE)].copy()
            depth[:] = 9.5
            depth[ops.eigen_crop(SIDE, SIDE)] = inner
            return depth

    framed = Data(data.train, Framed(None, "val"))
    assert measure(toys.OneHotBackbone(), framed, eigen_crop=True)[0]["rmse"].value == pytest.approx(0.0, abs=1e-5)
    assert measure(toys.OneHotBackbone(), framed)[0]["rmse"].value > 1
