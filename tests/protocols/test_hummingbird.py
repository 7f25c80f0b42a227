"""What goes into the memory of hummingbird, what its presets say, where memory and queries may come from, pictures.

Known answers are in test_known_answers.py.
"""

import dataclasses
import gc
from functools import partial

import numpy as np
import pytest
import torch

from densebench.core.errors import UsageError
from densebench.core.progress import Progress
from densebench.datasets.sets.voc import VOC
from densebench.features.source import FeatureSource
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import jackknife, sampling
from densebench.protocols.common import memory
from densebench.protocols.hummingbird.pictures import central_patch, memory_view
from densebench.protocols.hummingbird.protocol import Hummingbird, _subsets
from densebench.protocols.in_context_depth.protocol import InContextDepth
from densebench.protocols.protocol import Context, Data
from densebench.views.augment import Augment
from tests import toys
from tests.protocols.test_in_context_depth import Blocks

FAST = {
    "input_size": 64, "augmentation_epochs": 0, "fractions": (1,), "neighbours": 5, "absent": "skip",
}  # fmt: skip
FOUR = dataclasses.replace(VOC.info, classes=VOC.info.classes[:4], palette=VOC.info.palette[:4])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toys.write_voc(tmp_path_factory.mktemp("voc"), n_train=10, n_val=8)


@pytest.fixture(scope="module")
def data(root):
    four = type("Four", (VOC,), {"info": FOUR})
    return Data(four(root, "trainaug"), four(root, "val"))


def resolve(preset="paper", backbone=None, info=FOUR, **settings):
    protocol = Hummingbird()
    return protocol.resolve(protocol.configure(preset, settings), (backbone or toys.ColorBackbone).info, info)


def context_of(backbone, seed=0, **settings):
    return Context(FeatureSource(backbone, **settings), Progress(quiet=True), seed)


def measure(backbone, data, preset="paper", pictures=0, **settings):
    config = resolve(preset, type(backbone), data.val.info, **{**FAST, **settings})
    result = Hummingbird().run(config, data, dataclasses.replace(context_of(backbone, batch_size=3), pictures=pictures))
    return {m.label: m.value for m in result.metrics}, result


def content(config, patch=8):
    of = partial(sampling.soft_labels, patch=patch, n_classes=4, void_to=config.void_to)
    return memory.Content(4, of, sampling.scores_of)


def build(config, data, indices, batch_size=3, seed=7, backbone=None):
    backbone = backbone or toys.ColorBackbone()
    context = context_of(backbone, seed, batch_size=batch_size)
    return memory.fit(config, backbone.info, data.train, indices, content(config), context, "memory")


def test_two_passes_fill_the_memory_with_new_views_and_draws(data):
    config = resolve(**{**FAST, "augmentation_epochs": 2, "memory_size": 100})
    indices = [1, 4, 5, 8]
    bank = build(config, data, indices)
    assert bank.size == memory.MemorySize(images=4, epochs=2, patches=64, per_image=12)  # 100 // (4 images * 2 epochs)
    assert len(bank.keys) == len(bank.labels) == 96
    backbone, noise, row = toys.ColorBackbone(), torch.Generator().manual_seed(7), 0
    for epoch in range(2):
        for index in indices:
            view, mask = Augment(seed=7, epoch=epoch)(data.train.image(index), data.train.mask(index), (64, 64), index)
            with torch.no_grad():
                features = backbone.dense(view[None]).maps[0][0].half().float().flatten(1).T
            soft = sampling.soft_labels(mask[None], 8, 4)
            # one draw per image from one generator, pass after pass (HBIRD `_sample_features`)
            draw = torch.rand(1, 64, generator=noise)
            chosen = sampling.sample_patches(sampling.scores_of(soft), 12, draw)[0]
            torch.testing.assert_close(bank.keys[row : row + 12], torch.nn.functional.normalize(features[chosen]))
            assert torch.equal(bank.labels[row : row + 12], soft.flatten(0, 2)[chosen])
            for i, patch in enumerate(chosen.tolist()):
                assert bank.origin(row + i) == (epoch, index, patch)
            assert (
                np.abs(memory_view(data.train, bank, bank.origin(row)) / 255 - view.permute(1, 2, 0).numpy()).max()
                < 0.01
            )
            row += 12
    first, second = bank.keys[:48], bank.keys[48:]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("memory_size", [None, 100, 10_000])
def test_a_memory_does_not_depend_on_the_batch_size(memory_size, data):
    config = resolve(**{**FAST, "augmentation_epochs": 2, "memory_size": memory_size})
    one, other = (build(config, data, [0, 2, 3, 7, 9], size) for size in (2, 5))
    assert torch.equal(one.keys, other.keys)
    assert torch.equal(one.labels, other.labels)
    if memory_size != 100:  # every patch: bounded by what the images have
        assert one.chosen is None
        assert one.size.rows == 5 * 2 * 64
        assert one.origin(64 * 6 + 5) == (1, 2, 5)


def test_shares_of_the_published_memory_sizes():
    fourteen = BackboneInfo(name="b", patch=14, width=384)
    for preset, epochs, cases in (
        ("open-hummingbird-v2", 2, {10_582: 483, 20_210: 253, 1320: 1296, 80: 1296}),
        ("paper", 1, {10_582: 967, 20_210: 506, 1320: 1296}),
    ):
        config = dataclasses.replace(Hummingbird().configure(preset), input_size=504)
        for images, rows in cases.items():
            assert memory.size_of(config, fourteen, images) == memory.MemorySize(images, epochs, 1296, rows)


def test_presets_say_what_is_published():
    for patch, side in ((14, 504), (16, 512)):
        backbone = type("B", (), {"info": BackboneInfo(name="b", patch=patch, width=8)})
        for preset in Hummingbird.presets:
            assert resolve(preset, backbone).input_size == side
    hbird, dip = resolve("open-hummingbird-v2"), resolve("dip")
    for config in (hbird, dip):
        assert (config.neighbours, config.memory_size, config.augmentation_epochs) == (30, 10_240_000, 2)
        assert (config.std, config.void_to) == ((0.229, 0.224, 0.255), 0)
    assert (hbird.fractions, dip.fractions) == ((1,), (1, 8, 64, 128))
    assert (hbird.similarity, hbird.temperature, hbird.memory_dtype) == ("cosine", 0.02, "float32")
    assert (hbird.absent, hbird.ignore, hbird.search) == ("zero", "dataset", "exact")
    assert (dip.similarity, dip.temperature, dip.memory_dtype) == ("l2", 0.07, "float16")
    assert (dip.absent, dip.ignore, dip.search) == ("skip", "void", "exact")
    paper, scann = resolve("paper"), resolve("paper-scann")
    assert (paper.search, scann) == ("exact", dataclasses.replace(paper, search="scann"))


def test_a_memory_of_half_precision_holds_half_and_answers_alike(data):
    half, full = (
        resolve("dip", **{**FAST, "memory_dtype": dtype, "absent": "skip"}) for dtype in ("float16", "float32")
    )
    small, large = (build(config, data, [0, 1, 2]) for config in (half, full))
    assert (small.keys.dtype, small.labels.dtype) == (torch.float16, torch.float16)
    assert small.index.backend == "torch"
    assert torch.equal(small.keys.float(), large.keys)  # features are of half precision already
    queries = large.keys[::5] + 0.1
    answers = [bank.aggregate(queries, bank.search(queries)) for bank in (small, large)]
    torch.testing.assert_close(*answers, atol=2e-3, rtol=0)
    both = [memory.size_of(c, toys.ColorBackbone.info, 3).nbytes(c, 4, 4) for c in (half, full)]
    assert both == [3 * 64 * (2 * 8 + 4), 3 * 64 * (4 * 8 + 4)]
    for config in (half, full):
        found, _ = measure(toys.ColorBackbone(), data, "dip", memory_dtype=config.memory_dtype, input_size=64)
        assert found["miou@1"] == pytest.approx(100.0)


def test_labels_that_the_dataset_ignores_can_be_classes(root):
    """As ADE20K's other, which HBIRD leaves out and DIP evaluates."""
    other = type("Other", (VOC,), {"info": dataclasses.replace(FOUR, ignored=(0, 255))})
    data = Data(other(root, "trainaug"), other(root, "val"))
    _, without = measure(toys.ColorBackbone(), data, absent="zero")
    _, with_it = measure(toys.ColorBackbone(), data, absent="zero", ignore="void")
    name = FOUR.classes[0]
    assert {m.label: m.per_class for m in without.metrics}["miou@1"][name] == 0.0
    assert {m.label: m.per_class for m in with_it.metrics}["miou@1"][name] == pytest.approx(100.0)


class Swapped(VOC):
    """Another dataset with the same classes: the same images, labels shifted by one."""

    info = dataclasses.replace(FOUR, name="swapped", ignored=(255,))

    def mask(self, index):
        return ((super().mask(index).astype(int) + 1) % 4).astype(np.uint8)


def test_memory_and_queries_may_come_from_different_datasets(root, data):
    shifted = Data(Swapped(root, "trainaug"), data.val)
    found, result = measure(toys.ColorBackbone(), shifted)
    assert found["miou@1"] == 0.0  # every patch is found, and every label is the neighbour's
    assert found["miou_hungarian@1"] == pytest.approx(100.0)
    assert "domain shift: memory from swapped, queries from voc" in result.notes
    assert measure(toys.ColorBackbone(), Data(Swapped(root, "trainaug"), Swapped(root, "val")))[0][
        "miou@1"
    ] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": 0}, r"hummingbird\.neighbours=0: expected at least 1"),
        ({"temperature": -1.0}, r"hummingbird\.temperature=-1\.0"),
        ({"memory_size": 0}, r"hummingbird\.memory_size=0"),
        ({"augmentation_epochs": -1}, r"hummingbird\.augmentation_epochs=-1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        resolve(**settings)


def test_pictures_are_drawn_once_and_change_no_score(data):
    settings = {"fractions": (1, 2), "augmentation_epochs": 1, "memory_size": 300}
    plain, without = measure(toys.ColorBackbone(), data, pictures=0, **settings)
    drawn, result = measure(toys.ColorBackbone(), data, pictures=3, **settings)
    assert plain == drawn
    assert not without.artifacts
    assert {name: png[:4] for name, png in result.artifacts.items()} == {
        "examples.png": b"\x89PNG",
        "neighbours.png": b"\x89PNG",
    }


def test_the_query_is_the_centre_of_an_object():
    mask = np.zeros((32, 48), dtype=np.uint8)
    mask[8:24, 16:40] = 1
    mask[0:4, 0:4] = 2  # smaller than a patch
    shares = [0.6, 0.3, 0.1, 0.0]
    label, patch = central_patch(mask, 8, shares)
    assert label == 1
    assert divmod(patch, 6) in {(1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (2, 4)}
    assert central_patch(mask, 8, [0.6, 0.0, 0.4])[0] == 0  # what the memory lacks is not asked for
    assert central_patch(np.full((32, 48), 255), 8, shares) is None


def bytes_of_tensors():
    return sum(x.untyped_storage().nbytes() for x in gc.get_objects() if type(x) is torch.Tensor)


@pytest.mark.parametrize("name", ["hummingbird", "in_context_depth"])
def test_nothing_is_kept_of_validation_images(name, data, monkeypatch):
    """Bytes in tensors, and in arrays that share their memory, are the same after 3 images and after 30.

    What is kept for the record is in arrays of its own: see `tests/results/test_counts.py` for its size and bound.
    """
    seen = {}
    update = jackknife.GroupSums.update

    def counted(self, image, table):
        update(self, image, table)
        seen[image] = seen.get(image, 0) + 1
        if image in (2, 29):
            gc.collect()
            seen[f"bytes at {image}"] = bytes_of_tensors()

    monkeypatch.setattr(jackknife.GroupSums, "update", counted)
    backbone = toys.ColorBackbone()
    context = dataclasses.replace(context_of(backbone, batch_size=1), pictures=0)
    if name == "hummingbird":
        many = Data(data.train, data.val.select([i % len(data.val) for i in range(30)]))
        Hummingbird().run(resolve(**FAST), many, context)
    else:
        blocks = Data(Blocks(None, "train"), Blocks(None, "val").select([i % 10 for i in range(30)]))
        protocol = InContextDepth()
        config = protocol.configure("paper", {"neighbours": 5, "augmentation_epochs": 0})
        protocol.run(protocol.resolve(config, backbone.info, blocks.info), blocks, context)
    assert [seen[i] for i in range(30)] == [1] * 30
    assert seen["bytes at 29"] == seen["bytes at 2"]


@pytest.mark.parametrize(
    "content",
    [
        "{0}\n{1}",
        "{0}.jpg\r\n{1}.jpg\r\n",
        "\ufeff/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n{1}",
        "{1}\n{0}\n{1}\n# drawn twice",
    ],
)
def test_published_lists_mean_images_whoever_wrote_them(data, tmp_path, content):
    path = tmp_path / "1_div_2" / "trainaug_2_7.txt"
    path.parent.mkdir()
    path.write_text(content.format(data.train.ids[5], data.train.ids[2]))
    config = resolve(subset_dir=tmp_path, subset_seeds=(7,))
    assert list(_subsets(config, 2, data.train, context_of(toys.ColorBackbone()))) == [(7, [2, 5])]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected one list 1_div_2/\*_2_7\.txt below .*, which has none"),
        ({"a": "2007", "b": "2007"}, r"which has a_2_7\.txt, b_2_7\.txt"),
        ({"a": "# nothing"}, r"a_2_7\.txt is empty; expected ids such as 2007_trainaug_0000"),
        ({"a": "2007_trainaug_0001\n2008"}, r"names 1 images that voc lacks \(first: 2008\)"),
    ],
)
def test_lists_that_mean_no_memory_are_refused(data, tmp_path, files, message):
    (tmp_path / "1_div_2").mkdir()
    for name, content in files.items():
        (tmp_path / "1_div_2" / f"{name}_2_7.txt").write_text(content)
    config = resolve(subset_dir=tmp_path, subset_seeds=(7,))
    with pytest.raises(UsageError, match=message):
        list(_subsets(config, 2, data.train, context_of(toys.ColorBackbone())))
