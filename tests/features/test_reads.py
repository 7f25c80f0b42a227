"""Streams of several keys and of attention: the values of single requests, rounded and checked alike."""

from dataclasses import replace

import pytest
import torch

from densebench.core.errors import FeatureError, ModelError
from densebench.datasets.sets.voc import VOC
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.features.spec import FeatureSpec
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import Backbone, FeatureKey
from densebench.views.order import load_views
from densebench.views.squash import Labels, Squashed
from tests import toys

KEYS = [FeatureKey(0), FeatureKey(5, "key"), FeatureKey(5), FeatureKey(5, "token", False), FeatureKey(2, "value")]
SPEC = FeatureSpec(size=(32, 48), keys=tuple(KEYS))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return VOC(toys.write_voc(tmp_path_factory.mktemp("voc")), "val")


def pixels_of(data, indices):
    """Return images as a source gives them to the backbone."""
    (batch,) = load_views(Squashed(data, SPEC.size, SPEC.interpolation, None, None), [indices], 0)
    return batch[1].float() / 255


@pytest.fixture(scope="module")
def pico():
    return load_model("pico?random")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_many_keys_are_those_of_single_streams(data, pico, dtype, tmp_path):
    source = FeatureSource(pico, batch_size=4, dtype=dtype)
    many = list(source.stream(data, SPEC, [4, 1, 1, 0, 5], labels=Labels((64, 64))))
    assert [batch.indices for batch in many] == [[4, 1, 1, 0], [5]]
    for k, key in enumerate(KEYS):
        spec = FeatureSpec(size=SPEC.size, keys=(key,))
        for one, batch in zip(source.stream(data, spec, [4, 1, 1, 0, 5], labels=Labels((64, 64))), many, strict=True):
            assert batch.by_key[k].dtype == getattr(torch, dtype)
            assert one.maps.dtype == torch.float32
            assert torch.equal(batch.by_key[k].float(), one.maps)
            assert batch.by_key[k].stride() == one.by_key[0].stride()
            assert torch.equal(batch.labels, one.labels)
    with pytest.raises(ValueError, match="too many values"):
        _ = many[0].maps


def test_what_is_cached_are_requests_of_one_key_without_attention(data, pico, tmp_path):
    source = FeatureSource(pico, cache=FeatureCache(tmp_path, 10**8), batch_size=4)
    for keys, attention in (KEYS, ()), (KEYS[:1], (0,)), ((), (0,)):
        list(source.stream(data, replace(SPEC, keys=tuple(keys), attention=attention)))
        assert not list(tmp_path.rglob("*.safetensors"))
    list(source.stream(data, replace(SPEC, keys=(KEYS[0],))))
    assert list(tmp_path.rglob("*.safetensors"))


def test_features_that_are_not_finite_name_the_image(data):
    source = FeatureSource(toys.NaNBackbone(), batch_size=2)
    for keys in ((FeatureKey(),), (FeatureKey(), FeatureKey())):
        with pytest.raises(FeatureError, match=f"not finite for image {data.ids[1]}"):
            list(source.stream(data, FeatureSpec(size=(64, 64), keys=keys)))


@pytest.mark.parametrize("class_tokens", [False, True])
def test_class_tokens_come_where_asked_for_in_the_type_of_the_source(pico, class_tokens):
    images, keys = torch.rand(2, 3, 32, 48), [FeatureKey(0), FeatureKey()]
    found = FeatureSource(pico).dense(images, ["a", "b"], keys, class_tokens=class_tokens)
    expected = pico.dense(images, keys)
    assert all(torch.equal(a, b.half()) for a, b in zip(found.maps, expected.maps, strict=True))
    if class_tokens:
        assert all(torch.equal(a, b.half()) for a, b in zip(found.class_tokens, expected.class_tokens, strict=True))
    else:
        assert found.class_tokens == (None, None)


@pytest.mark.parametrize("keys", [(), (FeatureKey(2),)])
def test_attention_is_streamed_layer_by_layer(data, pico, keys):
    source = FeatureSource(pico, batch_size=4)
    pixels = pixels_of(data, [3, 0])
    (batch,) = source.stream(data, replace(SPEC, keys=keys, attention=(5, 1)), [3, 0])
    assert len(batch.by_key) == len(keys)
    first = next(batch.attention)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        expected = list(pico.attentions(pixels, [5, 1]))
    assert torch.equal(first, expected[0])
    assert torch.equal(next(batch.attention), expected[1])
    assert list(batch.attention) == []
    (plain,) = source.stream(data, SPEC, [3, 0])
    assert list(plain.attention) == []


def test_attention_is_of_pixels_normalised_as_the_features_are(data, pico):
    spec = FeatureSpec(size=(32, 48), keys=(), attention=(0,), std=(0.5, 0.5, 0.5))
    source = FeatureSource(pico)
    pixels = pixels_of(data, [3])
    (batch,) = source.stream(data, spec, [3])
    with torch.no_grad():
        assert torch.equal(next(batch.attention), next(pico.attentions(pixels, [0], std=(0.5, 0.5, 0.5))))


def test_attention_that_is_not_there_or_not_finite_says_so(data):
    class Broken(toys.ColorBackbone):
        def attention(self, pixels, layers):
            found = torch.ones(len(pixels), 1, 25, 25)
            found[1, 0, 0, 0] = torch.nan
            yield found

    def run(backbone: Backbone) -> None:
        spec = FeatureSpec(size=(32, 48), keys=(), attention=(0,))
        for batch in FeatureSource(backbone, batch_size=3).stream(data, spec):
            list(batch.attention)

    with pytest.raises(ModelError, match="color gives no attention maps"):
        run(toys.ColorBackbone())
    with pytest.raises(FeatureError, match=f"for image {data.ids[1]}"):
        run(Broken())


def test_a_source_says_whether_attention_can_be_read(pico):
    assert FeatureSource(pico).info.attention is True
    assert FeatureSource(toys.ColorBackbone()).info.attention is False
