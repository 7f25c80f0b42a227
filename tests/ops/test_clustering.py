import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops.clustering import (
    StreamingMoments,
    kmeans,
    kmeans_training_rows,
    permutation_head,
)
from densebench.ops.confusion import confusion
from densebench.ops.faiss_calls import faiss_installed
from densebench.ops.lloyd import assign
from densebench.ops.matching import hungarian

needs_faiss = pytest.mark.skipif(not faiss_installed(), reason="compares with faiss")
BACKENDS = ["torch", pytest.param("faiss", marks=needs_faiss)]


def blobs(n: int, k: int, dim: int = 6, spread: float = 0.3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 8 * torch.eye(k, dim) - 2
    truth = torch.randint(0, k, (n,), generator=generator)
    return centres[truth] + spread * torch.randn(n, dim, generator=generator), truth


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(-1e4, 1e4))
@settings(max_examples=30)
def test_moments_do_not_depend_on_batches(sizes, offset):
    x = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    stream, whole = StreamingMoments(4), StreamingMoments(4)
    for part in x.split(sizes):
        stream.update(part, chunk=7)
    whole.update(x[:0])
    whole.update(x)
    expected = np.atleast_2d(np.cov(x.numpy().T, bias=True))
    for moments in (stream, whole):
        assert moments.count == len(x)
        np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.covariance, expected, rtol=1e-9, atol=1e-9)


def test_standardisation_and_pca():
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10, 100, 1, 0]) + 1000
    x[:, 3] += 0.5 * x[:, 0]
    moments = StreamingMoments(5)
    moments.update(x)
    mean, scale = moments.standardise()
    assert float(scale[4]) == 1  # constant
    standard = (x.double() - mean) / scale
    _, singular, directions = torch.linalg.svd(standard, full_matrices=False)
    projection = moments.pca(2)
    found = projection(x)
    torch.testing.assert_close(found.double().norm(dim=0), singular[:2], rtol=1e-4, atol=1e-4)
    cosine = (directions[:2].T * projection.components.double()).sum(0).abs()
    torch.testing.assert_close(cosine, torch.ones(2, dtype=torch.float64))
    assert bool((projection.components.gather(0, projection.components.abs().argmax(0)[None]) > 0).all())
    assert moments.pca(50).components.shape == (5, 5)


@needs_faiss
def test_pca_spans_the_subspace_of_faiss():
    import faiss

    x = torch.randn(3000, 12, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.linspace(0.2, 3, 12))
    x[:, 1] += x[:, 0]
    moments = StreamingMoments(12)
    moments.update(x)
    mean, scale = moments.standardise()
    standard = ((x.double() - mean) / scale).float()
    matrix = faiss.PCAMatrix(12, 3)
    matrix.train(standard.numpy())
    theirs, ours = torch.from_numpy(matrix.apply(standard.numpy())), moments.pca(3)(x)
    sign = torch.sign((theirs * ours).sum(0))
    torch.testing.assert_close(ours * sign, theirs, rtol=1e-3, atol=5e-3)


def test_empty_moments_say_so():
    with pytest.raises(ValueError, match="no rows"):
        _ = StreamingMoments(3).covariance
    with pytest.raises(ValueError, match="3 dimensions"):
        StreamingMoments(3).update(torch.zeros(2, 4))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_recovers_separated_blobs(backend, spherical):
    x, truth = blobs(900, 4)
    centroids, info = kmeans(x, 4, seed=0, n_iter=20, n_redo=20, backend=backend, spherical=spherical)
    table = confusion(assign(x, centroids), truth, 4, 4)
    assert int(table.gather(0, hungarian(table)[None]).sum()) == 900
    assert (info.n_train, info.backend) == (900, backend)
    if spherical:
        torch.testing.assert_close(centroids.norm(dim=1), torch.ones(4))
    else:
        assert info.objective == pytest.approx(float((x - centroids[assign(x, centroids)]).square().sum()), rel=1e-3)


@needs_faiss
@pytest.mark.parametrize("k", [9, 40])
def test_torch_follows_faiss(k):
    x, _ = blobs(11_000, 6, spread=2)
    ours, mine = kmeans(x, k, seed=3, n_iter=15, n_redo=2, backend="torch")
    theirs, its = kmeans(x, k, seed=3, n_iter=15, n_redo=2, backend="faiss")
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert mine.objective == pytest.approx(its.objective, rel=1e-4)
    assert mine.n_train == its.n_train == min(11_000, 256 * k)


@needs_faiss
@given(st.integers(1, 3000), st.integers(0, 2**31 - 1))
@settings(max_examples=30)
def test_permutation_is_that_of_faiss(n, seed):
    import faiss

    theirs = np.empty(n, np.int32)
    faiss.rand_perm(faiss.swig_ptr(theirs), n, seed)
    m = (n + 1) // 2
    assert permutation_head(n, m, seed).tolist() == theirs[:m].tolist()
    assert permutation_head(n, n, seed).tolist() == theirs.tolist()


@needs_faiss
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_gathered_rows_give_the_centroids_of_the_whole_table(seed):
    import faiss

    x, _ = blobs(5000, 5, spread=2)
    rows = kmeans_training_rows(len(x), 8, seed)
    assert rows is not None
    assert len(rows) == 2048
    whole = faiss.Kmeans(6, 8, niter=12, nredo=2, seed=seed)
    whole.train(x.numpy())
    gathered, info = kmeans(x[rows], 8, seed, 12, 2, "faiss")
    assert np.array_equal(whole.centroids, gathered.numpy())
    assert torch.equal(kmeans(x, 8, seed, 12, 2, "faiss")[0], gathered)
    assert info.n_train == 2048


def test_no_subsampling_up_to_the_limit():
    assert kmeans_training_rows(2048, 8, 0) is None
    assert kmeans_training_rows(2049, 8, 0) is not None
    assert len(set(kmeans_training_rows(9000, 8, 0, 100).tolist())) == 800


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeds_decide(backend):
    x, _ = blobs(800, 6, spread=3)
    first, again, other = (kmeans(x, 12, seed, 5, 1, backend)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_duplicate_rows_still_give_k_clusters():
    x = torch.tensor([[0.0, 1], [5, 5], [9, 0]]).repeat(20, 1)
    centroids, info = kmeans(x, 7, seed=0, n_iter=10, n_redo=1, backend="torch")
    assert bool(centroids.isfinite().all())
    assert centroids.unique(dim=0).shape == (7, 2)
    assert info.objective < 1


def test_bad_clusterings_are_refused():
    with pytest.raises(ValueError, match="3 rows cannot form 4"):
        kmeans(torch.zeros(3, 2), 4, 0)
    with pytest.raises(ValueError, match="not finite"):
        kmeans(torch.full((3, 2), torch.nan), 2, 0)
    with pytest.raises(ValueError, match="scikit"):
        kmeans(torch.zeros(3, 2), 2, 0, backend="scikit")
    with pytest.raises(ValueError, match="at least 1"):
        kmeans(torch.zeros(3, 2), 0, 0)


@pytest.mark.parametrize("chunk", [1, 17, None])
def test_assignment_is_the_nearest_centroid(chunk):
    x, _ = blobs(100, 4, spread=3)
    centroids = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(assign(x, centroids, chunk), torch.cdist(x.double(), centroids.double()).argmin(1))
