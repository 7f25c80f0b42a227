import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densebench.ops.resize import nearest_index, resize_labels, resize_maps


@given(st.integers(1, 700), st.integers(1, 700))
@settings(max_examples=200)
def test_index_is_that_of_interpolate(n_in, n_out):
    reference = F.interpolate(torch.arange(n_in).float()[None, None], size=n_out, mode="nearest")
    assert torch.equal(nearest_index(n_in, n_out), reference[0, 0].long())


def test_float32_scale_matters_somewhere():
    differing = [n for n in range(1, 700) if not torch.equal(nearest_index(n, 448), torch.arange(448) * n // 448)]
    assert differing  # otherwise integer arithmetic would do


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_keep_dtype_and_values(dtype):
    labels = torch.randint(0, 256, (2, 3, 37, 41), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = resize_labels(labels, (100, 29))
    assert found.dtype == dtype
    assert torch.equal(found, F.interpolate(labels.double(), size=(100, 29), mode="nearest").to(dtype))


def test_pil_nearest_is_another_rule():
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    ours = resize_labels(torch.from_numpy(labels), 2)
    assert ours.tolist() == [[0, 2], [8, 10]]
    assert np.asarray(Image.fromarray(labels).resize((2, 2), Image.Resampling.NEAREST)).tolist() == [[5, 7], [13, 15]]


def test_maps_keep_constants_and_shape():
    torch.testing.assert_close(resize_maps(torch.full((1, 2, 3, 5), 7.0), (11, 4)), torch.full((1, 2, 11, 4), 7.0))
