"""Near ties fall by rule: whatever a product's shape, the threads and the last digits of its scores."""

import pytest
import torch
import torch.nn.functional as F

from densebench.ops import (
    clustering,
    correspondence,
    cosine_kmeans,
    faiss_calls,
    lloyd,
    matching,
    retrieval,
    search,
    ties,
    topk,
)
from densebench.ops.cbfe import attention_mask

BACKENDS = [
    "torch",
    pytest.param("faiss", marks=pytest.mark.skipif(not faiss_calls.faiss_installed(), reason="faiss is not installed")),
]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(scores: torch.Tensor, scale: float | torch.Tensor, n_terms: int, dice: torch.Generator) -> torch.Tensor:
    """Return scores off by up to what float32 rounding may do to a dot product of that many terms."""
    noise = 2 * torch.rand(scores.shape, generator=dice) - 1
    return scores + noise.to(scores.dtype) * n_terms * 2.0**-24 * scale


def duplicated(n: int, dim: int, times: int, seed: int = 0) -> torch.Tensor:
    """Return unit rows of which each occurs `times` times, far from itself."""
    return F.normalize(randn(n, dim, seed=seed), dim=1).repeat(times, 1)


def by_rule(keys: torch.Tensor, queries: torch.Tensor, k: int, metric: str) -> torch.Tensor:
    """Return the k nearest keys, in float64 and without blocks."""
    q, x = queries.double(), keys.double()
    scores = q @ x.T if metric == "ip" else -(q[:, None] - x).square().sum(2)
    scores = (scores * 2.0**26).round()
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "times", "k"), [(40, 3, 30), (40, 3, 31), (10, 12, 5), (1, 100, 30), (5, 1, 30)])
def test_neighbours_fall_by_rule(metric, backend, n, times, k):
    keys, queries = duplicated(n, 24, times), 3 * randn(33, 24, seed=1)
    queries[:5] = keys[:5]
    expected = by_rule(keys, queries, k, metric)
    for blocks in ((None, None), (1, 32), (7, 64), (33, 4096)):
        index = search.ExactIndex(keys, backend, metric, query_block=blocks[0], key_block=blocks[1])
        found = index.search(queries, k)
        assert torch.equal(found.indices, expected)
        alone = [index.search(query[None], k).indices[0] for query in queries]
        assert torch.equal(torch.stack(alone), expected)
    worse = found.scores.diff(dim=1)
    assert bool((worse <= 0).all() if metric == "ip" else (worse >= 0).all())


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize(("n", "times"), [(60, 2), (12, 11), (1, 120)])
def test_neighbours_survive_the_rounding_of_the_first_pass(metric, n, times, monkeypatch):
    keys, queries = duplicated(n, 24, times), 3 * randn(20, 24, seed=1)
    index = search.ExactIndex(keys, "torch", metric)
    expected, dice = index.search(queries, 30), torch.Generator().manual_seed(0)

    def rounded_otherwise(keys, queries, k, bias=None, rows=None, columns=None, step=None):
        if step is not None:  # the second look, in float64
            return topk.blockwise_topk(keys, queries, k, bias, rows, columns, step)
        scores = queries @ keys.T + (0 if bias is None else bias)
        scores, order = shaken(scores, queries.norm(dim=1, keepdim=True), 24, dice).sort(dim=1, descending=True)
        return scores[:, :k], order[:, :k]

    monkeypatch.setattr(search, "blockwise_topk", rounded_otherwise)
    for _ in range(5):
        found = index.search(queries, 30)
        assert torch.equal(found.indices, expected.indices)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_features_find_the_first_keys_in_bounded_memory(backend, monkeypatch):
    most = []
    step = topk._Candidates.add
    monkeypatch.setattr(topk._Candidates, "add", lambda self, q, *rest: most.append(len(q)) or step(self, q, *rest))
    keys = F.normalize(torch.ones(20_000, 24), dim=1)
    found = search.ExactIndex(keys, backend, query_block=16, key_block=256).search(torch.ones(40, 24), 30)
    assert torch.equal(found.indices, torch.arange(30).expand(40, -1))
    assert max(most) <= 16 * 256
    assert sum(1 for n in most if n) <= 2 * 3 * 2  # only the first blocks of keys have anything to offer


def tiled(side: int, dim: int) -> torch.Tensor:
    """Return a map (D, side, side) of 2 x 2 tiles that are equal: each place occurs at least four times."""
    return randn(dim, side // 2, side // 2).repeat(1, 2, 2)


MAPS = {
    "tiles": tiled(8, 24),
    "constant": torch.ones(24, 8, 8),
    "mirrored": torch.cat([randn(24, 8, 4), randn(24, 8, 4).flip(2)], dim=2),
    "opposite": torch.cat([randn(24, 8, 4), -randn(24, 8, 4)], dim=2),
    "zero": torch.zeros(24, 8, 8),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("size", [(8, 8), (56, 40), (61, 33)])
def test_matches_fall_by_rule(name, size, monkeypatch):
    features = MAPS[name]
    queries = torch.cat([features[:, 1, [0, 3]].T, randn(7, 24, seed=3)])
    up = F.interpolate(features.double()[None], size, mode="bilinear")[0].flatten(1)
    cosines = queries.double() @ F.normalize(up, dim=0, eps=1e-7) / queries.double().norm(dim=1, keepdim=True)
    flat = (cosines.nan_to_num() * 2.0**26).round().argmax(1)
    expected = torch.stack([flat % size[1], flat // size[1]], dim=1)
    for chunk in (1, 4, 16):
        assert torch.equal(correspondence.match(queries, features, size, chunk), expected)
    alone = [correspondence.match(query[None], features, size)[0] for query in queries]
    assert torch.equal(torch.stack(alone), expected)
    cosines, dice = correspondence._cosines, torch.Generator().manual_seed(0)

    def rounded_otherwise(queries, features, lengths):
        found = cosines(queries, features, lengths)
        return shaken(found, queries.norm(dim=1, keepdim=True), 24, dice) if found.dtype == torch.float32 else found

    monkeypatch.setattr(correspondence, "_cosines", rounded_otherwise)
    for _ in range(4):
        assert torch.equal(correspondence.match(queries, features, size), expected)


def test_many_pixels_in_question_and_few_are_scored_alike(monkeypatch):
    features, queries = tiled(8, 24), randn(9, 24, seed=3)
    expected = correspondence.match(queries, features, (56, 40))
    monkeypatch.setattr(correspondence, "FEW", 0)
    assert torch.equal(correspondence.match(queries, features, (56, 40)), expected)


def test_nearest_centroids_fall_by_rule(monkeypatch):
    centroids = randn(8, 24).repeat(3, 1)  # each three times: the first of them is meant
    x = torch.cat([randn(50, 24, seed=1), centroids, (centroids[:1] + centroids[1:8]) / 2])
    distances = torch.cdist(x.double(), centroids.double()).square()
    expected = (distances * 2.0**24).round().argmin(1)
    for chunk in (1, 3, 64, None):
        assert torch.equal(lloyd.assign(x, centroids, chunk), expected)
    addmm, dice = torch.addmm, torch.Generator().manual_seed(0)

    def rounded_otherwise(bias, a, b):
        found = addmm(bias, a, b)
        longest = b.norm(dim=0).max()
        return (
            shaken(found, (a.norm(dim=1, keepdim=True) + longest / 2) * longest, 24, dice)
            if found.dtype == torch.float32
            else found
        )

    monkeypatch.setattr(torch, "addmm", rounded_otherwise)
    for _ in range(5):
        assert torch.equal(lloyd.assign(x, centroids), expected)


def test_k_means_of_duplicates_does_not_depend_on_blocks_or_threads(monkeypatch):
    x = randn(90, 6).repeat(4, 1)
    start, before = x[:70], torch.get_num_threads()
    plain, objective = lloyd.lloyd(x, start, 12)
    try:
        for n_threads, rows in ((1, 37), (2, 101)):
            torch.set_num_threads(n_threads)
            monkeypatch.setattr(lloyd, "ROWS", rows)
            found, again = lloyd.lloyd(x, start, 12)
            assert torch.equal(lloyd.assign(x, found), lloyd.assign(x, plain))
            assert again == pytest.approx(objective, rel=1e-12)
    finally:
        torch.set_num_threads(before)


def test_of_equal_restarts_the_first_wins():
    x = 10 * torch.eye(3).repeat_interleave(5, 0)  # every start that is one of each ends in the same three clusters
    outcomes = [clustering.kmeans(x, 3, seed=s, n_redo=1)[0] for s in (0, clustering.REDO_STRIDE)]
    both = clustering.kmeans(x, 3, seed=0, n_redo=2)
    best = min(float(torch.cdist(x, c).amin(1).square().sum()) for c in outcomes)
    first = next(c for c in outcomes if float(torch.cdist(x, c).amin(1).square().sum()) <= best + 1e-6)
    assert torch.equal(both[0], first)


def test_projected_rows_do_not_depend_on_the_batch():
    moments = clustering.StreamingMoments(24)
    moments.update(randn(100, 24))
    x = randn(7, 24, seed=1).repeat(30, 1)
    projected = moments.pca(10)(x)
    assert torch.equal(projected, projected[:7].repeat(30, 1))
    assert torch.equal(torch.cat([moments.pca(10)(row[None]) for row in x[:7]]), projected[:7])


def test_cosine_clusters_fall_by_rule():
    centroids, x = randn(4, 24).repeat(2, 1), randn(40, 24, seed=1)
    _, gradient = cosine_kmeans.cosine_kmeans_step(x, centroids)
    assert not gradient[4:].any()
    assert bool((gradient[:4] != 0).any())


def test_signs_of_symmetric_eigenvectors_fall_by_rule():
    for tilt in (0.0, 1e-12, -1e-12):
        vectors = clustering.leading_eigenvectors(torch.tensor([[2.0 + tilt, -1.0], [-1.0, 2.0]]).double(), 1)
        assert vectors[0, 0] > 0 > vectors[0, 1]


@pytest.mark.parametrize("class_block", [1, 3, 8])
@pytest.mark.parametrize("kind", ["shares", "logits"])
def test_classes_of_pixels_fall_by_rule(kind, class_block):
    maps = randn(2, 5, 6, 6).repeat(1, 2, 1, 1)  # classes 5 to 9 are 0 to 4 again
    maps = maps.softmax(1) if kind == "shares" else 20 * maps - 3
    expected = retrieval.upsample_argmax(maps, (30, 42), class_block)
    assert int(expected.max()) < 5
    dice = torch.Generator().manual_seed(0)
    for _ in range(5):
        noisy = shaken(maps, float(maps.abs().max()), 16, dice)
        found = retrieval.upsample_argmax(noisy, (30, 42), class_block)
        assert int(found.max()) < 5
        assert float((found != expected).double().mean()) < 1e-3  # others are close by chance
    clear = F.interpolate(maps, (30, 42), mode="bilinear").argmax(1) % 5  # its ties fall by rounding, to 8 for 3
    assert float((clear != expected).double().mean()) < 1e-3


def test_matched_clusters_fall_by_rule():
    table = torch.zeros(4, 6, dtype=torch.int64)
    table[0, 4], table[2, 1] = 10, 10  # classes 1 and 3 are absent: any cluster would do
    assert matching.hungarian(table).tolist() == [1, 2, 3, 0, 0, 0]
    assert matching.hungarian(torch.full((3, 5), 7)).tolist() == [0, 1, 2, 0, 0]
    assert matching.hungarian(torch.full((5, 3), 7)).tolist() == [0, 1, 2]
    assert matching.hungarian(torch.ones(3, 3, dtype=torch.int64)).tolist() == [0, 1, 2]
    assert matching.many_to_one(torch.ones(3, 3, dtype=torch.int64)).tolist() == [0, 0, 0]


def test_equal_attention_is_cut_by_rule():
    flat = torch.full((1, 8, 8), 1 / 64)
    expected = torch.ones(64, dtype=torch.bool)
    expected[:32] = False
    dice = torch.Generator().manual_seed(0)
    for _ in range(5):
        noisy = flat + (torch.rand(1, 8, 8, generator=dice) - 0.5) * 1e-13
        mask = attention_mask(noisy.double(), 0.5, min_component=1)
        assert torch.equal(mask.flatten(), expected)


def test_a_lead_is_that_over_the_second():
    scores = torch.tensor([[1.0, 3.0, 2.5], [4.0, 4.0, 0.0], [0.0, 0.0, 7.0]])
    best, lead = torch.empty(3, dtype=torch.int64), torch.empty(3)
    ties.leader(scores, best, lead)
    assert best.tolist()[::2] == [1, 2]
    assert lead.tolist() == [0.5, 0.0, 7.0]
    assert ties.first_greatest(torch.tensor([[1.0, 1.0 + 1e-12, 0.5]]).double(), torch.ones(1, 1)).tolist() == [0]
