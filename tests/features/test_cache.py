import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from densebench.core.errors import DatasetError, FeatureError, ModelError
from densebench.core.progress import Progress
from densebench.datasets.sets.voc import VOC
from densebench.features import cache as feature_cache
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.features.spec import FeatureSpec
from densebench.model_zoo.backbone import FeatureKey
from densebench.views.augment import Augment
from densebench.views.squash import Labels, resize_mask
from tests import toys

SPEC = FeatureSpec(size=(64, 64))


class Counting(toys.ColorBackbone):
    images = 0

    def tokens(self, pixels, keys):
        Counting.images += len(pixels)
        return super().tokens(pixels, keys)


@pytest.fixture
def data(tmp_path):
    Counting.images = 0
    return VOC(toys.write_voc(tmp_path / "data", n_train=12, n_val=5), "trainaug")


def source(tmp_path, limit=10**8, **options) -> FeatureSource:
    options = {"cache": FeatureCache(tmp_path / "cache", limit), "batch_size": 4, **options}
    return FeatureSource(Counting(), **options)


def told(tmp_path) -> FeatureSource:
    """The same, saying what it meets."""
    progress = Progress()
    return source(tmp_path, progress=progress, cache=FeatureCache(tmp_path / "cache", 10**8, progress))


def maps_of(stream) -> torch.Tensor:
    return torch.cat([b.maps for b in stream])


def test_a_second_pass_reads_the_cache_and_is_equal(tmp_path, data):
    first = maps_of(source(tmp_path).stream(data, SPEC))
    assert Counting.images == 12
    again = list(source(tmp_path).stream(data, SPEC, labels=Labels((64, 64))))
    assert Counting.images == 12
    assert torch.equal(first, torch.cat([b.maps for b in again]))
    expected = np.stack([data.mask(i) for i in range(12)])
    assert np.array_equal(torch.cat([b.labels for b in again]).numpy(), expected)


def test_features_do_not_depend_on_the_cache_or_the_batch(tmp_path, data):
    cached = maps_of(source(tmp_path).stream(data, SPEC))
    bare = FeatureSource(Counting(), batch_size=5)
    assert torch.equal(cached, maps_of(bare.stream(data, SPEC)))


def test_subsets_and_orders_mix_cached_and_missing(tmp_path, data):
    whole = maps_of(FeatureSource(Counting()).stream(data, SPEC))
    mixed = source(tmp_path)
    list(mixed.stream(data, SPEC, [3, 7]))
    Counting.images = 0
    wanted = [0, 3, 11, 7, 1, 3]
    found = list(mixed.stream(data, SPEC, wanted, labels=Labels((64, 64))))
    assert Counting.images == 3
    assert [i for b in found for i in b.indices] == wanted
    assert torch.equal(torch.cat([b.maps for b in found]), whole[wanted])
    masks = np.stack([data.mask(i) for i in wanted])
    assert np.array_equal(torch.cat([b.labels for b in found]).numpy(), masks)


def test_a_torn_shard_is_redone(tmp_path, data):
    whole = maps_of(source(tmp_path).stream(data, SPEC))
    shard = next((tmp_path / "cache").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    Counting.images = 0
    assert torch.equal(whole, maps_of(source(tmp_path).stream(data, SPEC)))
    assert Counting.images == 12


@pytest.mark.parametrize(
    "other",
    [
        FeatureSpec(size=(48, 64)),
        FeatureSpec(size=(64, 64), interpolation="bicubic"),
        FeatureSpec(size=(64, 64), std=(0.5, 0.5, 0.5)),
        FeatureSpec(size=(64, 64), keys=(FeatureKey(0),)),
        FeatureSpec(size=(64, 64), keys=(FeatureKey(facet="key"),)),
        FeatureSpec(size=(64, 64), keys=(FeatureKey(norm=False),)),
        FeatureSpec(size=(64, 64), augment=Augment()),
        FeatureSpec(size=(64, 64), augment=Augment(epoch=1)),
    ],
)
def test_every_part_of_a_request_is_its_own_entry(tmp_path, data, other):
    list(source(tmp_path).stream(data, SPEC))
    list(source(tmp_path).stream(data, other))
    assert Counting.images == 24


def test_other_weights_and_other_files_are_other_entries(tmp_path, data):
    list(source(tmp_path).stream(data, SPEC))
    changed = source(tmp_path)
    changed.backbone.scale.data.fill_(2.0)
    list(changed.stream(data, SPEC))
    assert Counting.images == 24
    image = data.files(0)[0]
    image.write_bytes(data.files(1)[0].read_bytes())
    list(source(tmp_path).stream(VOC(data.root, "trainaug"), SPEC))
    assert Counting.images == 36


def test_the_cache_stays_below_its_limit_and_drops_the_oldest(tmp_path, data):
    one = SPEC.nbytes(Counting.info, 12)
    for layer in (0, 1):
        spec = FeatureSpec(size=(64, 64), keys=(FeatureKey(layer),))
        list(source(tmp_path, limit=int(2.5 * one)).stream(data, spec))
    entries = {p for p in (tmp_path / "cache").iterdir() if p.is_dir()}
    spec = FeatureSpec(size=(64, 64), keys=(FeatureKey(facet="key"),))
    list(source(tmp_path, limit=int(2.5 * one)).stream(data, spec))
    used = sum(f.stat().st_size for f in (tmp_path / "cache").rglob("*.safetensors"))
    assert used <= 2.5 * one + 4096
    assert len(entries - {p for p in (tmp_path / "cache").iterdir() if p.is_dir()}) == 1


def test_a_pass_that_does_not_fit_goes_on_without_the_cache(tmp_path, data):
    small = source(tmp_path, limit=10)
    assert torch.equal(maps_of(small.stream(data, SPEC)), maps_of(FeatureSource(Counting()).stream(data, SPEC)))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_full_disk_costs_the_cache_but_not_the_features(tmp_path, data, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    whole = maps_of(FeatureSource(Counting()).stream(data, SPEC))
    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr(data, "digest", lambda: "fixed")
    assert torch.equal(whole, maps_of(source(tmp_path).stream(data, SPEC)))


def test_augmentation_is_a_function_of_seed_epoch_and_image(data):
    spec = FeatureSpec(size=(64, 64), augment=Augment(seed=1))
    orders = ([0, 1, 2, 3], [3, 2, 1, 0])
    forward, backward = (
        list(FeatureSource(Counting(), batch_size=n).stream(data, spec, o, labels=Labels((64, 64))))
        for n, o in zip((4, 3), orders, strict=True)
    )
    assert torch.equal(torch.cat([b.maps for b in forward]), torch.cat([b.maps for b in backward]).flip(0))
    assert torch.equal(torch.cat([b.labels for b in forward]), torch.cat([b.labels for b in backward]).flip(0))
    masks_only = list(FeatureSource(Counting()).stream(data, None, orders[0], labels=Labels((64, 64))))
    assert not torch.equal(masks_only[0].labels, torch.cat([b.labels for b in forward]))


def test_nan_features_name_the_image(data):
    with pytest.raises(FeatureError, match=f"not finite for image {data.ids[3]}"):
        list(FeatureSource(toys.NaNBackbone(), batch_size=4).stream(data, SPEC))


def test_features_beyond_float16_say_what_to_do(data):
    backbone = Counting()
    backbone.scale.data.fill_(1e6)
    with pytest.raises(FeatureError, match="--feature-dtype float32"):
        list(FeatureSource(backbone).stream(data, SPEC))
    assert len(list(FeatureSource(backbone, dtype="float32").stream(data, SPEC))) == 1


@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1e-30])
def test_features_that_float16_rounds_away_say_what_to_do(data, scale):
    backbone = Counting()
    backbone.scale.data.fill_(scale)
    with pytest.raises(FeatureError, match=rf"too small .*{data.ids[0]}.*--feature-dtype float32"):
        list(FeatureSource(backbone).stream(data, SPEC))
    assert len(list(FeatureSource(backbone, dtype="float32").stream(data, SPEC))) == 1


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_features_that_float16_holds_pass(data, scale):
    backbone = Counting()
    backbone.scale.data.fill_(scale)
    (batch,) = FeatureSource(backbone).stream(data, SPEC)
    assert bool(batch.maps.isfinite().all())


def test_a_few_tiny_values_among_others_are_no_loss(data):
    class Sparse(Counting):
        def tokens(self, pixels, keys):
            found = super().tokens(pixels, keys)
            for tokens in found:
                tokens[..., :2] *= 1e-9
            return found

    assert len(list(FeatureSource(Sparse()).stream(data, SPEC))) == 1


def test_a_prefix_that_was_forgotten_is_explained(data):
    with pytest.raises(ModelError, match=r"returned features \(12, 65, 4\); expected \(12, 64, 4\).*registers"):
        list(FeatureSource(toys.ForgetfulBackbone()).stream(data, SPEC))


def test_nearest_rules_are_those_of_torch_and_pil():
    mask = np.random.default_rng(0).integers(0, 21, (37, 53)).astype(np.uint8)
    floor = resize_mask(mask, Labels((100, 64), "floor"))
    torch_way = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), (100, 64))[0, 0]
    assert np.array_equal(floor, torch_way.numpy().astype(np.uint8))
    centre = resize_mask(mask, Labels((100, 64), "centre"))
    assert np.array_equal(centre, np.asarray(Image.fromarray(mask).resize((64, 100), Image.Resampling.NEAREST)))
    assert not np.array_equal(floor, centre)


def _exchange(shard):
    shard["index"][[0, 1]] = shard["index"][[1, 0]]


def _flip(shard):
    shard["maps"].view(np.uint16)[5, 2, 3, 1] ^= 0x4000  # the highest bit of the exponent


def _halve(shard):
    shard["maps"][6:] = 0


def _int8(shard):
    shard["maps"] = shard["maps"].astype(np.int8)


def _other_grid(shard):
    shard["maps"] = shard["maps"].reshape(12, 4, 16, 4)


def _narrow(shard):
    shard["maps"] = np.ascontiguousarray(shard["maps"][..., :3])


def _shorten(shard):
    shard["index"] = shard["index"][1:]


def _deepen(shard):
    shard["index"] = shard["index"][:, None]


def _without_sums(shard):
    del shard["sums"]


@pytest.mark.parametrize(
    "damage",
    [_exchange, _flip, _halve, _int8, _other_grid, _narrow, _shorten, _deepen, _without_sums],
    ids=lambda f: f.__name__,
)
def test_a_damaged_shard_is_redone_in_words(tmp_path, data, capsys, damage):
    """The same maps, whatever happened to the file, and a new file."""
    whole = maps_of(source(tmp_path).stream(data, SPEC))
    path = next((tmp_path / "cache").rglob("*.safetensors"))
    shard = load_file(path)
    damage(shard)
    save_file(shard, path)
    Counting.images = 0
    found = list(told(tmp_path).stream(data, SPEC, labels=Labels((64, 64))))
    assert torch.equal(whole, torch.cat([b.maps for b in found]))
    assert [i for b in found for i in b.indices] == list(range(12))
    assert np.array_equal(torch.cat([b.labels for b in found]).numpy(), np.stack([data.mask(i) for i in range(12)]))
    assert f"cache shard {path.name}" in capsys.readouterr().err
    assert torch.equal(whole, maps_of(source(tmp_path).stream(data, SPEC)))  # fills in what was read before the damage
    Counting.images = 0
    assert torch.equal(whole, maps_of(source(tmp_path).stream(data, SPEC)))
    assert Counting.images == 0


def test_a_shard_of_another_request_is_redone(tmp_path, data):
    """Two entries of one shape: a file that lies in the wrong one is no answer to it."""
    other = FeatureSpec(size=(64, 64), std=(0.5, 0.5, 0.5))
    whole = maps_of(source(tmp_path).stream(data, SPEC))
    list(source(tmp_path).stream(data, other))
    first, second = sorted((tmp_path / "cache").rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    shutil.copy(second, first)
    assert torch.equal(whole, maps_of(source(tmp_path).stream(data, SPEC)))


@pytest.mark.parametrize("what", ["a shard", "the entry", "the cache"])
def test_features_that_vanish_in_the_middle_of_a_pass_are_extracted_again(tmp_path, data, monkeypatch, capsys, what):
    """As another process does that needs the room, or a hand that empties the cache."""
    monkeypatch.setattr(feature_cache, "SHARD_IMAGES", 4)
    whole = maps_of(source(tmp_path).stream(data, SPEC))
    last = max((tmp_path / "cache").rglob("*.safetensors"))
    reading = told(tmp_path).stream(data, SPEC, labels=Labels((64, 64)))
    found = [next(reading)]
    Counting.images = 0
    if what == "a shard":
        last.unlink()
    else:
        shutil.rmtree(last.parent if what == "the entry" else tmp_path / "cache")
    found += reading
    assert torch.equal(whole, torch.cat([b.maps for b in found]))
    assert Counting.images == (4 if what == "a shard" else 8)
    assert "extracted again" in capsys.readouterr().err


def test_a_cache_that_cannot_be_used_is_said_once(tmp_path, data, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    features = told(tmp_path)
    whole = maps_of(FeatureSource(Counting()).stream(data, SPEC))
    for _ in range(3):
        assert torch.equal(whole, maps_of(features.stream(data, SPEC)))
    assert capsys.readouterr().err.count("cannot be used") == 1


class Static(toys.ColorBackbone):
    """Answers in one buffer, in place, as exported networks do."""

    info = dataclasses.replace(toys.ColorBackbone.info, prefix=0)

    def tokens(self, pixels, keys):
        maps = super().tokens(pixels, keys)[0][:, 1:]
        if not hasattr(self, "buffer"):
            self.buffer = torch.empty_like(maps)
        self.buffer[: len(maps)] = maps
        return [self.buffer[: len(maps)]]


@pytest.mark.parametrize("cached", [False, True])
def test_an_adapter_may_answer_in_one_buffer(tmp_path, data, cached):
    options = {"cache": FeatureCache(tmp_path / "cache", 10**8)} if cached else {}
    expected = maps_of(FeatureSource(Counting(), dtype="float32").stream(data, SPEC))
    for _ in range(2):
        kept = list(FeatureSource(Static(), batch_size=4, dtype="float32", **options).stream(data, SPEC))
        assert torch.equal(expected, torch.cat([b.maps for b in kept]))


def test_what_a_reader_does_to_its_batch_is_not_cached(tmp_path, data):
    expected = maps_of(FeatureSource(Counting(), dtype="float32").stream(data, SPEC))
    for batch in source(tmp_path, dtype="float32").stream(data, SPEC):
        batch.maps.zero_()
    assert torch.equal(expected, maps_of(source(tmp_path, dtype="float32").stream(data, SPEC)))


def test_a_mask_of_another_size_than_its_image_is_an_error_whatever_is_cached(tmp_path, data):
    """Read alone, with its image, and with cached features; squares of another size, and sides exchanged."""
    whole = source(tmp_path)
    list(whole.stream(data, SPEC))
    for size, said in (((48, 64), "48x64"), ((32, 32), "32x32")):
        Image.new("L", size).save(data.files(2)[1])
        for features in (whole, FeatureSource(Counting())):
            for spec in (None, SPEC):
                with pytest.raises(DatasetError, match=f"0002 is 64x64 px but its ground truth {said}"):
                    list(features.stream(data, spec, labels=Labels((64, 64))))
        with pytest.raises(DatasetError, match=said):
            list(whole.stream(data.select([1, 2]), None, labels=Labels()))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc/self/maps, which only Linux has")
def test_few_shards_stay_mapped_however_many_are_read(tmp_path, monkeypatch):
    """Mapped pages count as memory of the process: they must not grow with the number of images."""
    monkeypatch.setattr(feature_cache, "SHARD_IMAGES", 1)
    entry = FeatureCache(tmp_path, 10**8).open("key", range(12), (2, 2, 3))
    for i in range(12):
        entry.append([i], np.ones((1, 2, 2, 3), np.float16))
    entry.close()
    entry = FeatureCache(tmp_path, 10**8).open("key", range(12), (2, 2, 3))
    for i in range(12):
        entry.read([i])
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line}
    assert len(mapped) <= feature_cache.OPEN_SHARDS == 2
