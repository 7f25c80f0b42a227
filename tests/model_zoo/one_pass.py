"""What adapters promise that read everything from one forward pass."""

import torch

from densebench.model_zoo.backbone import FACETS, FeatureKey


def assert_one_pass(backbone, images, calls):
    """All reads come from one pass, and so does all attention; each is what it is alone. `calls` grows with passes."""
    reads = [
        *(FeatureKey(layer, facet) for facet in FACETS for layer in (1, 0)),
        FeatureKey(1, norm=False),
        FeatureKey(1),
        FeatureKey(0, "key"),
    ]
    found = backbone.dense_many(images, reads)
    assert len(calls) == 1
    for read, maps in zip(reads, found, strict=True):
        assert torch.equal(maps, backbone.dense(images, (read.layer,), read.facet, read.norm).maps[0]), read
    calls.clear()
    attentions = list(backbone.attentions(images, [-1, 0, 1]))
    assert len(calls) == 1
    assert torch.equal(attentions[0], attentions[2])
    assert torch.equal(attentions[1], backbone.attention(images, 0))
    assert not torch.equal(attentions[0], attentions[1])
