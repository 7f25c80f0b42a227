"""STEGO's cluster probe. Its stored ``centroids`` are not the start of the trace; see tests/golden/README.md."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops.probe import assign_cosine, cosine_kmeans_fit, cosine_kmeans_step

pytestmark = pytest.mark.golden("o_cluster_probe")


def rows(vectors: dict[str, Tensor]) -> Tensor:
    return vectors["features"].permute(0, 2, 3, 1).flatten(0, 2)


@pytest.fixture
def start(vectors) -> Tensor:
    """Return the initial centroids (K, D) that the stored gradient and assignment imply, float64."""
    units, nearest = F.normalize(rows(vectors).double(), dim=1), vectors["assignment"].flatten()
    found = []
    for k, g in enumerate(vectors["grad"].double()):
        s = -units[nearest == k].sum(0) / len(units)
        r = (s @ g) / (g @ g)
        found.append(r * F.normalize(r * g - s, dim=0))
    return torch.stack(found)


def test_one_step(vectors, start, close):
    loss, gradient = cosine_kmeans_step(rows(vectors), start.float())
    close(loss, vectors["loss"], 1e-5)
    close(gradient, vectors["grad"], 1e-5)
    size = tuple(vectors["assignment"].shape[1:])
    assert torch.equal(assign_cosine(vectors["features"], start, size), vectors["assignment"])


def test_gradient_is_that_of_autograd(vectors, start):
    centroids = start.float().requires_grad_()
    x = rows(vectors)
    loss = -(F.normalize(x, dim=1) @ F.normalize(centroids, dim=1).T).max(1).values.mean()
    loss.backward()
    ours, gradient = cosine_kmeans_step(x, centroids.detach())
    torch.testing.assert_close(ours, loss.detach())
    torch.testing.assert_close(gradient, centroids.grad)


def test_twenty_steps(vectors, start, close):
    lr, batches = float(vectors["adam_lr"]), [rows(vectors)] * 20
    centroids, losses = cosine_kmeans_fit(batches, start.float(), lr)
    close(torch.tensor(losses), vectors["loss_trace_20_steps"], 1e-5)
    upsampled = assign_cosine(vectors["features"], centroids, tuple(vectors["upsampled_size"].tolist()))
    assert torch.equal(upsampled, vectors["upsampled_assignment"])
    again, _ = cosine_kmeans_fit(batches, centroids, lr)
    close(again, vectors["centroids_after_20_steps"], 1e-5)
    close(again, vectors["centroids"], 1e-5)
