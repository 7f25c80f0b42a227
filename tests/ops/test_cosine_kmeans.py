import pytest
import torch
import torch.nn.functional as F

from densebench.ops.clustering import StreamingMoments
from densebench.ops.cosine_kmeans import CosineKMeans, assign_cosine, principal_directions


def test_principal_directions_are_those_of_centred_rows():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 2, 0.1]) + 30
    moments = StreamingMoments(4)
    moments.update(x)
    found = principal_directions(moments, 3)
    expected = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:3]
    torch.testing.assert_close((found * expected).sum(1).abs(), torch.ones(3), rtol=1e-4, atol=1e-4)
    assert found[0].argmax() == 1
    with pytest.raises(ValueError, match="5 principal"):
        principal_directions(moments, 5)


def test_fit_finds_directions():
    generator = torch.Generator().manual_seed(0)
    truth = F.normalize(torch.randn(3, 8, generator=generator), dim=1)
    x = truth.repeat(50, 1) * (1 + torch.rand(150, 1, generator=generator))
    start = truth + 0.1 * torch.randn(3, 8, generator=generator)
    kept = start.clone()
    fit = CosineKMeans(start, lr=2e-2)
    losses = [float(fit.step(x)) for _ in range(400)]
    assert losses[-1] == pytest.approx(-1, abs=1e-3)
    assert losses[0] > losses[-1] + 0.01
    torch.testing.assert_close(F.normalize(fit.centroids, dim=1), truth, rtol=0, atol=0.03)
    assert torch.equal(start, kept)


def test_upsampling_products_equals_upsampling_features():
    generator = torch.Generator().manual_seed(0)
    maps, centroids = torch.randn(2, 10, 5, 7, generator=generator), 3 * torch.randn(6, 10, generator=generator)
    pixels = F.normalize(F.interpolate(maps, (31, 40), mode="bilinear"), dim=1)
    direct = torch.einsum("bdhw,kd->bkhw", pixels, F.normalize(centroids, dim=1)).argmax(1)
    assert torch.equal(assign_cosine(maps, centroids, (31, 40)), direct)
