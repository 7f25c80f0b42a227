import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops import lloyd as module
from densebench.ops.clustering import permutation_head
from densebench.ops.faiss_calls import faiss_installed
from densebench.ops.lloyd import _Bounds, _group, assign, lloyd


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Several groups and blocks on little data."""
    monkeypatch.setattr(module, "GROUP_SIZE", 4)
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


@pytest.mark.parametrize("kind", ["random", "blobs", "far", "duplicates", "lattice"])
@pytest.mark.parametrize(
    ("n", "k", "dim"), [(700, 40, 8), (650, 25, 50), (300, 7, 1), (60, 60, 3), (50, 1, 4), (1, 1, 1)]
)
@pytest.mark.parametrize("spherical", [False, True])
def test_pruning_changes_nothing(kind, n, k, dim, spherical):
    x = rows(kind, n, dim)
    for n_iter in (1, 2, 3, 4, 8, 40):
        pruned, objective = lloyd(x, start(x, k), n_iter, spherical, prune=True)
        plain, expected = lloyd(x, start(x, k), n_iter, spherical, prune=False)
        torch.testing.assert_close(pruned, plain, rtol=1e-6, atol=1e-6)
        assert torch.equal(assign(x, pruned), assign(x, plain))
        assert objective == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.integers(0, 10**6), st.sampled_from(["random", "blobs", "far", "duplicates", "lattice"]), st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_bounds_survive_any_walk_of_the_centroids(seed, kind, k):
    x = rows(kind, 400, 6, seed)
    generator = torch.Generator().manual_seed(seed)
    centroids = start(x, k)
    bounds = _Bounds(x, assign(x, centroids), centroids)
    for step in range(8):
        found, expected = bounds.nearest(centroids), assign(x, centroids)
        if kind == "far":  # which of two is nearer is itself a matter of rounding, and of how many rows are multiplied
            distances = torch.cdist(x.double(), centroids.double()).square()
            error = (6 + 4) * 2.0**-23 * (x.norm(dim=1) + centroids.norm(dim=1).max()).square()
            assert bool((distances.gather(1, found[:, None]).squeeze(1) <= distances.amin(1) + error).all())
        else:
            assert torch.equal(found, expected)
        pace = 0.3 * 0.5**step * torch.rand(k, 1, generator=generator) * (torch.rand(k, 1, generator=generator) < 0.7)
        jump = (torch.rand(k, 1, generator=generator) < 0.03) * 5.0
        centroids = centroids + (pace + jump) * torch.randn(k, 6, generator=generator)


def test_bounds_spare_most_rows_once_centroids_are_slow(monkeypatch):
    x = rows("random", 2000, 16)
    centroids = start(x, 40)
    bounds = _Bounds(x, assign(x, centroids), centroids)
    bounds.nearest(centroids)
    looked_at = []
    monkeypatch.setattr(module, "assign", lambda x, c: looked_at.append(len(x)) or assign(x, c))
    bounds.nearest(centroids + 1e-4)
    assert looked_at[0] < 20


@pytest.mark.parametrize("inference", [False, True])
def test_threads_change_nothing(inference):
    x, before = rows("random", 900, 6), torch.get_num_threads()
    try:
        found = []
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            with torch.inference_mode(inference):
                found.append(lloyd(x, start(x, 30), 12, prune=True))
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
    found, objective = lloyd(x, start(x, 12), 6, prune=True)
    torch.testing.assert_close(found.double(), centroids, rtol=1e-5, atol=1e-5)
    assert objective == pytest.approx(float(expected), rel=1e-6)


def test_it_stops_when_no_row_moves(monkeypatch):
    x = rows("blobs", 400, 3)
    calls = []
    monkeypatch.setattr(module, "assign", lambda x, c, chunk=None: calls.append(len(x)) or assign(x, c, chunk))
    lloyd(x, start(x, 5), 10_000, prune=False)
    assert len(calls) < 100


@pytest.mark.skipif(not faiss_installed(), reason="compares with faiss")
@pytest.mark.parametrize("n_iter", [1, 2, 5])
@pytest.mark.parametrize("prune", [False, True])
def test_empty_clusters_are_split_as_in_faiss(n_iter, prune):
    import faiss

    points = 10 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    x = points[torch.randint(40, (900,), generator=torch.Generator().manual_seed(1))]
    begin = start(x, 30)
    assert len(begin.unique(dim=0)) < 30  # equal starts leave clusters empty
    theirs = faiss.Kmeans(4, 30, niter=n_iter, min_points_per_centroid=1)
    objective = theirs.train(x.numpy(), init_centroids=begin.numpy())
    found, ours = lloyd(x, begin, n_iter, prune=prune)
    np.testing.assert_allclose(found, theirs.centroids, rtol=1e-4, atol=1e-4)
    assert ours == pytest.approx(objective, rel=1e-4, abs=1e-2)


def test_groups_have_no_gaps():
    for k in (1, 4, 9, 33):
        group = _group(rows("duplicates", k, 3))
        assert sorted(set(group.tolist())) == list(range(int(group.max()) + 1))
