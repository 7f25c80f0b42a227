"""What adapters promise that read everything from one forward pass."""

import torch

from densebench.model_zoo.backbone import FACETS, FeatureKey


def assert_one_pass(backbone, images, calls):
    """All keys come from one pass, and so does all attention; each is what it is alone. `calls` grows with passes."""
    keys = [
        *(FeatureKey(layer, facet) for facet in FACETS for layer in (1, 0)),
        FeatureKey(1, norm=False),
        FeatureKey(1),
        FeatureKey(0, "key"),
    ]
    found = backbone.dense(images, keys).maps
    assert len(calls) == 1
    for key, maps in zip(keys, found, strict=True):
        assert torch.equal(maps, backbone.dense(images, [key]).maps[0]), key
    calls.clear()
    attentions = list(backbone.attentions(images, [-1, 0, 1]))
    assert len(calls) == 1
    assert torch.equal(attentions[0], attentions[2])
    assert torch.equal(attentions[1], next(backbone.attentions(images, [0])))
    assert not torch.equal(attentions[0], attentions[1])
