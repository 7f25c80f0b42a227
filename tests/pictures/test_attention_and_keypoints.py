"""Attention among patches, and where a keypoint's feature is found."""

import numpy as np
import pytest
import torch

from densebench.core.errors import UsageError
from densebench.ops import correspondence as ops
from densebench.pictures import attention as attention_module
from densebench.pictures.attention import binarize, patch_attention
from densebench.pictures.keypoints import first_links, heat_map
from densebench.protocols.correspondence.matches import Link


def test_even_attention_is_one_whatever_the_prefix_takes():
    attention = torch.full((3, 6, 6), 0.1)
    attention[..., :2] = 0.3  # registers take more than half
    found = patch_attention(attention, 2)
    assert found.shape == (4, 4)
    torch.testing.assert_close(found, torch.ones(4, 4, dtype=torch.float64))


def test_rows_are_queries_and_heads_are_averaged():
    attention = torch.zeros(2, 3, 3)
    attention[0, 1, 2] = 1.0  # patch 0 looks at patch 1 with one head
    attention[1, 1, 1] = 1.0  # and at itself with the other
    assert patch_attention(attention, 1).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_a_matrix_is_white_above_its_percentile():
    matrix = np.arange(100.0).reshape(10, 10)
    drawn = binarize(matrix)
    assert drawn.shape == (10, 10, 3)
    assert (drawn[..., 0] == 255).sum() == 5
    assert (drawn[9, 5:] == 255).all()
    assert (binarize(np.ones((3, 3))) == 0).all()  # nothing is above what all have


def test_heat_is_the_cosine_of_the_upsampled_map():
    features = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    query, size = torch.randn(5, generator=torch.Generator().manual_seed(1)), (9, 20)
    found = heat_map(query, features, size)
    large = torch.nn.functional.interpolate(features[None], size, mode="bilinear")[0]
    expected = torch.nn.functional.cosine_similarity(large, query[:, None, None], dim=0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    x, y = ops.match(query[None], features, size)[0].tolist()
    assert found[y, x] == found.max()


def test_attention_that_does_not_fit_is_said(monkeypatch):
    monkeypatch.setattr(attention_module, "available_memory", lambda: 10**6)
    attention_module._check_memory(2, 200)
    with pytest.raises(UsageError, match="smaller --input-size"):
        attention_module._check_memory(2, 300)


def test_an_image_that_is_only_found_is_asked_from():
    one, other = Link(0, 1, 5, 2, "cat"), Link(0, 0, 3, 0, "cat")
    assert first_links([one, other]) == {0: one, 5: Link(5, 2, 0, 1, "cat"), 3: Link(3, 0, 0, 0, "cat")}
