from pathlib import Path

import numpy as np
import pytest
import torch

from densebench import feature_cache
from densebench.datasets.augment import Augment
from densebench.datasets.voc import VOC
from densebench.errors import FeatureError, ModelError
from densebench.feature_cache import FeatureCache
from densebench.features import FeatureSource, FeatureSpec
from densebench.reading import Labels, resize_mask
from tests import toys

SPEC = FeatureSpec(size=(64, 64))


class Counting(toys.ColorBackbone):
    images = 0

    def tokens(self, pixels, layers, facet, norm):
        Counting.images += len(pixels)
        return super().tokens(pixels, layers, facet, norm)


@pytest.fixture
def data(tmp_path):
    Counting.images = 0
    return VOC(toys.write_voc(tmp_path / "data", n_train=12, n_val=5), "trainaug")


def source(tmp_path, limit=10**8, **options) -> FeatureSource:
    return FeatureSource(Counting(), cache=FeatureCache(tmp_path / "cache", limit), batch_size=4, **options)


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
        FeatureSpec(size=(64, 64), layer=0),
        FeatureSpec(size=(64, 64), facet="key"),
        FeatureSpec(size=(64, 64), norm=False),
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
        list(source(tmp_path, limit=int(2.5 * one)).stream(data, FeatureSpec(size=(64, 64), layer=layer)))
    entries = {p for p in (tmp_path / "cache").iterdir() if p.is_dir()}
    list(source(tmp_path, limit=int(2.5 * one)).stream(data, FeatureSpec(size=(64, 64), facet="key")))
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
        def tokens(self, pixels, layers, facet, norm):
            found = super().tokens(pixels, layers, facet, norm)
            for tokens in found:
                tokens[..., :2] *= 1e-9
            return found

    assert len(list(FeatureSource(Sparse()).stream(data, SPEC))) == 1


def test_a_prefix_that_was_forgotten_is_explained(data):
    with pytest.raises(ModelError, match=r"returned features \(12, 65, 4\); expected \(12, 64, 4\).*registers"):
        list(FeatureSource(toys.ForgetfulBackbone()).stream(data, SPEC))


def test_nearest_rules_are_those_of_torch_and_pil():
    from PIL import Image

    mask = np.random.default_rng(0).integers(0, 21, (37, 53)).astype(np.uint8)
    floor = resize_mask(mask, Labels((100, 64), "floor"))
    torch_way = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), (100, 64))[0, 0]
    assert np.array_equal(floor, torch_way.numpy().astype(np.uint8))
    centre = resize_mask(mask, Labels((100, 64), "centre"))
    assert np.array_equal(centre, np.asarray(Image.fromarray(mask).resize((64, 100), Image.Resampling.NEAREST)))
    assert not np.array_equal(floor, centre)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc/self/maps, which only Linux has")
def test_few_shards_stay_mapped_however_many_are_read(tmp_path, monkeypatch):
    """Mapped pages count as memory of the process: they must not grow with the number of images."""
    monkeypatch.setattr(feature_cache, "SHARD_IMAGES", 1)
    entry = FeatureCache(tmp_path, 10**8).open("key", range(12), 1000)
    for i in range(12):
        entry.append([i], np.ones((1, 2, 2, 3), np.float16))
    entry.close()
    entry = FeatureCache(tmp_path, 10**8).open("key", range(12), 1000)
    for i in range(12):
        entry.read([i])
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line}
    assert len(mapped) <= feature_cache.OPEN_SHARDS == 2
