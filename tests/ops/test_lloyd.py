import numpy as np
import pytest
import torch

from densebench.ops import lloyd as module
from densebench.ops.clustering import permutation_head
from densebench.ops.faiss_calls import faiss_installed
from densebench.ops.lloyd import assign, lloyd


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Several blocks on little data."""
    monkeypatch.setattr(module, "ROWS", 101)


def rows(kind: str, n: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator)
    if kind == "blobs":
        centres = 20 * torch.randn(9, dim, generator=generator)
        return centres[torch.randint(9, (n,), generator=generator)] + 0.2 * x
    if kind == "far":  # norms swamp the distances, the worst case for rounding
        return x + 1000
    if kind == "duplicates":
        return x[torch.randint(1 + n // 10, (n,), generator=generator)]
    if kind == "lattice":  # full of ties, all of them exact
        return torch.randint(-2, 3, (n, dim), generator=generator).float()
    return x


def start(x: torch.Tensor, k: int, seed: int = 1) -> torch.Tensor:
    return x[permutation_head(len(x), k, seed)]


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("kind", ["random", "blobs", "duplicates", "lattice"])
def test_updates_by_moved_rows_are_sums_of_all_rows(kind, spherical):
    x = rows(kind, 650, 5)
    centroids = start(x, 25)
    for step in range(1, 9):
        used = torch.nn.functional.normalize(centroids, dim=1) if spherical else centroids
        nearest = assign(x, used)
        if bool((torch.bincount(nearest, minlength=25) == 0).any()):
            break  # a cluster that is empty is filled by the rule of faiss
        centroids = torch.stack([x[nearest == k].double().mean(0) for k in range(25)]).float()
        found, _ = lloyd(x, start(x, 25), step, spherical)
        expected = torch.nn.functional.normalize(centroids, dim=1) if spherical else centroids
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inference", [False, True])
def test_threads_change_nothing(inference):
    x, before = rows("random", 900, 6), torch.get_num_threads()
    try:
        found = []
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            with torch.inference_mode(inference):
                found.append(lloyd(x, start(x, 30), 12))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9)


def test_iterations_are_those_of_the_textbook():
    x = rows("random", 500, 5)
    centroids = start(x, 12)
    for _ in range(6):
        distances = torch.cdist(x.double(), centroids.double())
        nearest, expected = distances.argmin(1), distances.square().amin(1).sum()
        centroids = torch.stack([x[nearest == k].double().mean(0) for k in range(12)])
    found, objective = lloyd(x, start(x, 12), 6)
    torch.testing.assert_close(found.double(), centroids, rtol=1e-5, atol=1e-5)
    assert objective == pytest.approx(float(expected), rel=1e-6)


def test_it_stops_when_no_row_moves(monkeypatch):
    x = rows("blobs", 400, 3)
    calls = []
    monkeypatch.setattr(module, "assign", lambda x, c, chunk=None: calls.append(len(x)) or assign(x, c, chunk))
    lloyd(x, start(x, 5), 10_000)
    assert len(calls) < 100


@pytest.mark.skipif(not faiss_installed(), reason="compares with faiss")
@pytest.mark.parametrize("n_iter", [1, 2, 5])
def test_empty_clusters_are_split_as_in_faiss(n_iter):
    import faiss

    points = 10 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    x = points[torch.randint(40, (900,), generator=torch.Generator().manual_seed(1))]
    begin = start(x, 30)
    assert len(begin.unique(dim=0)) < 30  # equal starts leave clusters empty
    theirs = faiss.Kmeans(4, 30, niter=n_iter, min_points_per_centroid=1)
    objective = theirs.train(x.numpy(), init_centroids=begin.numpy())
    found, ours = lloyd(x, begin, n_iter)
    np.testing.assert_allclose(found, theirs.centroids, rtol=1e-4, atol=1e-4)
    assert ours == pytest.approx(objective, rel=1e-4, abs=1e-2)
