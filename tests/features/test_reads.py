"""Streams of several reads and of attention: the values of single requests, rounded and checked alike."""

import pytest
import torch

from densebench.core.errors import FeatureError, ModelError
from densebench.datasets.sets.voc import VOC
from densebench.features.source import FeatureSource
from densebench.features.spec import FeatureSpec
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import Backbone, FeatureKey
from densebench.views.squash import Labels
from tests import toys

READS = [FeatureKey(0), FeatureKey(5, "key"), FeatureKey(5), FeatureKey(5, "token", False), FeatureKey(2, "value")]
SPEC = FeatureSpec(size=(32, 48))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return VOC(toys.write_voc(tmp_path_factory.mktemp("voc")), "val")


@pytest.fixture(scope="module")
def pico():
    return load_model("pico?random")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_many_reads_are_those_of_single_streams(data, pico, dtype):
    source = FeatureSource(pico, batch_size=4, dtype=dtype)
    many = list(source.stream_many(data, SPEC, READS, [4, 1, 1, 0, 5], labels=Labels((64, 64))))
    assert [batch.indices for batch in many] == [[4, 1, 1, 0], [5]]
    for r, (layer, facet, norm) in enumerate(READS):
        spec = FeatureSpec(size=SPEC.size, layer=layer, facet=facet, norm=norm)
        for one, batch in zip(source.stream(data, spec, [4, 1, 1, 0, 5], labels=Labels((64, 64))), many, strict=True):
            assert batch.maps[r].dtype == getattr(torch, dtype)
            assert torch.equal(batch.maps[r].float(), one.maps)
            assert torch.equal(batch.labels, one.labels)


def test_features_that_are_not_finite_name_the_image(data):
    source = FeatureSource(toys.NaNBackbone(), batch_size=2)
    with pytest.raises(FeatureError, match=f"not finite for image {data.ids[1]}"):
        list(source.stream_many(data, FeatureSpec(size=(64, 64)), [FeatureKey()]))


def test_attention_is_streamed_layer_by_layer(data, pico):
    source = FeatureSource(pico, batch_size=4)
    pixels = next(source._load(data, SPEC, [3, 0], None, 2))[1].float() / 255
    (batch,) = source.stream_attention(data, SPEC, [5, 1], [3, 0])
    first = next(batch.layers)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert torch.equal(first, pico.attention(pixels, 5))
        assert torch.equal(next(batch.layers), pico.attention(pixels, 1))
    assert list(batch.layers) == []


def test_attention_that_is_not_there_or_not_finite_says_so(data):
    class Broken(toys.ColorBackbone):
        def attention(self, images, layer):
            found = torch.ones(len(images), 1, 5, 5)
            found[1, 0, 0, 0] = torch.nan
            return found

    def run(backbone: Backbone) -> None:
        for batch in FeatureSource(backbone, batch_size=3).stream_attention(data, SPEC, [0]):
            list(batch.layers)

    with pytest.raises(ModelError, match="color gives no attention maps"):
        run(toys.ColorBackbone())
    with pytest.raises(FeatureError, match=f"for image {data.ids[1]}"):
        run(Broken())


def test_a_source_says_whether_attention_can_be_read(pico):
    assert FeatureSource(pico).info.attention is True
    assert FeatureSource(toys.ColorBackbone()).info.attention is False
