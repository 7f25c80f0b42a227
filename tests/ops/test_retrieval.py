import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops import faiss_calls, retrieval, topk
from densebench.ops.retrieval import attend, attention, normalise_keys, upsample_argmax
from densebench.ops.search import ExactIndex, choose_backend, make_index, recall_at_k, search, shrink_tree

BACKENDS = [
    "torch",
    pytest.param("faiss", marks=pytest.mark.skipif(not faiss_calls.faiss_installed(), reason="faiss is not installed")),
]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(keys: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores, order = (queries @ keys.T).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], order[:, :k]


@given(
    n=st.integers(1, 300),
    n_queries=st.integers(1, 20),
    k=st.integers(1, 40),
    rows=st.integers(1, 9),
    columns=st.integers(1, 200),
    spread=st.sampled_from([1, 3, 50]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_topk_is_brute_force_with_ties_to_the_lower_index(n, n_queries, k, rows, columns, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(-spread, spread + 1, (n, 3), generator=generator).float()  # whole scores: exact, many ties
    queries = torch.randint(-spread, spread + 1, (n_queries, 3), generator=generator).float()
    k = min(k, n)
    scores, indices = topk.blockwise_topk(keys, queries, k, None, rows, columns)
    expected = brute_force(keys, queries, k)
    assert torch.equal(scores, expected[0])
    assert torch.equal(indices, expected[1])


@pytest.mark.parametrize("order", ["ascending", "descending", "equal", "clustered"])
def test_topk_survives_any_order_of_keys(order):
    keys = randn(5000, 8)
    query = randn(1, 8, seed=1)
    if order == "equal":
        keys = keys[:1].repeat(5000, 1)
    elif order == "clustered":
        keys = keys.sort(0).values
    else:
        keys = keys[(keys @ query[0]).argsort(descending=order == "descending")]
    queries = torch.cat([query, randn(50, 8, seed=2)])
    scores, indices = topk.blockwise_topk(keys, queries, 30, None, 51, 256)
    torch.testing.assert_close(scores, brute_force(keys, queries, 30)[0])
    torch.testing.assert_close((queries @ keys.T).gather(1, indices), scores)
    assert all(len(set(row)) == 30 for row in indices.tolist())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_distances_are_squared_and_ascending(backend, dtype):
    keys, queries = randn(700, 12).to(dtype), randn(40, 12, seed=1)
    found = search(keys, queries, 9, backend, "l2")
    expected = torch.cdist(queries, keys.float()).square().sort(1)
    torch.testing.assert_close(found.scores, expected.values[:, :9], rtol=1e-4, atol=1e-4)
    assert torch.equal(found.indices, expected.indices[:, :9])


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_neighbours_than_keys_means_all_keys(backend):
    found = search(randn(7, 4), randn(3, 4, seed=1), 30, backend)
    assert found.indices.sort(1).values.tolist() == [list(range(7))] * 3


@pytest.mark.skipif(not faiss_calls.faiss_installed(), reason="compares with faiss")
def test_backends_agree():
    keys, queries = normalise_keys(randn(3000, 32)), randn(200, 32, seed=1)
    ours, theirs = search(keys, queries, 30, "torch"), search(keys, queries, 30, "faiss")
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=1e-5)
    assert recall_at_k(ours.indices, theirs.indices) > 0.9999


def test_temporaries_do_not_grow_with_the_bank(monkeypatch):
    """Neither the score tables nor the gathered candidates depend on the number of keys."""
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor._base is None:
                    sizes.append(tensor.numel() * tensor.element_size())
            return out

    peaks = []
    for n in (2_000, 40_000):
        keys, queries = randn(n, 8), randn(64, 8, seed=1)
        keys = keys[(keys @ queries[0]).argsort()]  # the worst order for the first query
        sizes.clear()
        with Watch():
            topk.blockwise_topk(keys, queries, 10, None, 64, 512)
        peaks.append(max(sizes))
    assert peaks[1] <= 1.2 * peaks[0]
    assert peaks[1] < keys.numel() * keys.element_size()


def test_bad_tables_name_the_row():
    keys = randn(10, 4)
    keys[3] = 0
    with pytest.raises(ValueError, match="row 3"):
        normalise_keys(keys)
    keys[3] = torch.nan
    with pytest.raises(ValueError, match="row 3"):
        normalise_keys(keys)
    with pytest.raises(ValueError, match="keys: row 3"):
        ExactIndex(keys)
    with pytest.raises(ValueError, match="queries: row 3"):
        search(randn(10, 4), keys, 2)
    with pytest.raises(ValueError, match=r"queries \(10, 5\)"):
        search(randn(10, 4), randn(10, 5), 2)
    with pytest.raises(ValueError, match="non-empty"):
        ExactIndex(torch.empty(0, 4))


def test_unit_keys_have_no_epsilon():
    tiny = torch.full((1, 4), 1e-15)
    torch.testing.assert_close(normalise_keys(tiny), torch.full((1, 4), 0.5))


def test_names_of_indexes():
    keys = randn(10, 4)
    assert make_index(keys, "exact", "torch").backend == "torch"
    for arguments, message in [
        (("nearest",), "nearest"),
        (("exact", "annoy"), "annoy"),
        (("exact", "torch", "l1"), "l1"),
        (("scann", "auto", "l2"), "dot product"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_index(keys, *arguments)


def test_missing_libraries_say_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(ImportError, match=r"densebench\[scann\]"):
        make_index(randn(10, 4), "scann")
    monkeypatch.setattr(faiss_calls, "faiss_installed", lambda: False)
    assert choose_backend("auto", torch.device("cpu")) == "torch"
    with pytest.raises(ImportError, match=r"densebench\[cpu\]"):
        choose_backend("faiss", torch.device("cpu"))


def test_backend_follows_the_device(monkeypatch):
    monkeypatch.setattr(faiss_calls, "faiss_installed", lambda: True)
    assert choose_backend("auto", torch.device("cpu")) == "faiss"
    assert choose_backend("auto", torch.device("cuda")) == "torch"
    with pytest.raises(ImportError, match="not on mps"):
        choose_backend("faiss", torch.device("mps"))


def test_small_banks_get_small_trees():
    assert shrink_tree(10**6, 512, 32) == (512, 32)
    assert shrink_tree(102_400, 512, 32) == (512, 32)  # the smallest published memory keeps the published tree
    assert shrink_tree(3200, 512, 32) == (100, 32)
    assert shrink_tree(1, 512, 32) == (1, 1)


def test_scann_finds_most_neighbours():
    pytest.importorskip("scann")
    centres = randn(40, 16)
    keys = normalise_keys(centres.repeat(100, 1) + 0.3 * randn(4000, 16, seed=1))
    queries = centres.repeat(3, 1) + 0.3 * randn(120, 16, seed=2)
    found, exact = make_index(keys, "scann", n_neighbours=30).search(queries, 30), search(keys, queries, 30)
    assert recall_at_k(found.indices, exact.indices) > 0.8
    torch.testing.assert_close((queries[:, None] * keys[found.indices]).sum(-1), found.scores, rtol=1e-4, atol=1e-4)


def test_scann_over_fewer_keys_than_neighbours():
    pytest.importorskip("scann")
    keys = normalise_keys(randn(20, 16))
    found = make_index(keys, "scann", n_neighbours=30).search(keys, 30)
    assert found.indices.sort(1).values.tolist() == [list(range(20))] * 20


class FakeScann:
    """Stands in for ScaNN's builder and searcher: records the settings, finds what it is told to."""

    def __init__(self, indices: list[list[int]], scores: list[list[float]]) -> None:
        self.settings: dict[str, object] = {}
        self.found = np.array(indices, np.uint32), np.array(scores, np.float32)
        self.scann_ops_pybind = self

    def builder(self, keys, n_neighbours, distance):
        self.settings |= {"n_neighbours": n_neighbours, "distance": distance}
        return self

    def tree(self, **settings):
        self.settings |= settings
        return self

    def score_ah(self, dimensions_per_block, anisotropic_quantization_threshold):
        self.settings |= {"dimensions_per_block": dimensions_per_block, "threshold": anisotropic_quantization_threshold}
        return self

    def reorder(self, n):
        self.settings["reorder"] = n
        return self

    def build(self):
        return self

    def search_batched(self, queries, k):
        return self.found[0][:, :k], self.found[1][:, :k]


def test_scann_is_set_as_published(monkeypatch):
    fake = FakeScann([], [])
    monkeypatch.setitem(sys.modules, "scann", fake)
    make_index(randn(20_000, 2), "scann")
    assert fake.settings == {
        "n_neighbours": 30,
        "distance": "dot_product",
        "num_leaves": 512,
        "num_leaves_to_search": 32,
        "training_sample_size": 20_000,
        "dimensions_per_block": 2,
        "threshold": 0.2,
        "reorder": 120,
    }


def test_neighbours_that_scann_misses_have_no_weight(monkeypatch):
    nan = float("nan")  # ScaNN reports a missing neighbour as index 0 with score NaN
    monkeypatch.setitem(sys.modules, "scann", FakeScann([[2, 1, 0, 0]], [[0.9, 0.8, nan, nan]]))
    keys, query, labels = randn(3, 4), randn(1, 4, seed=1), torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    found = make_index(keys, "scann").search(query, 4)
    assert found.scores.isfinite().tolist() == [[True, True, False]]
    assert attend(query, found.indices, labels, scores=found.scores).tolist() == [[0, 1]]
    monkeypatch.setitem(sys.modules, "scann", FakeScann([[0, 0]], [[nan, nan]]))
    with pytest.raises(ValueError, match="no neighbour at all"):
        make_index(keys, "scann").search(query, 2)


def test_recall_counts_shared_neighbours():
    exact = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
    assert recall_at_k(exact.flip(1), exact) == 1
    assert recall_at_k(torch.tensor([[0, 9, 8, 3], [9, 9, 9, 4]]), exact) == 3 / 8


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
def test_attention_through_scores_equals_attention_through_keys(temperature):
    keys, queries, labels = normalise_keys(randn(400, 16)), 7 * randn(90, 16, seed=1), torch.rand(400, 5)
    found = search(keys, queries, 30, "torch")
    fast = attend(queries, found.indices, labels, scores=found.scores, temperature=temperature)
    slow = attend(queries, found.indices, labels, keys=3 * keys, temperature=temperature, chunk=8)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    cosine = F.cosine_similarity(queries[:, None], keys[found.indices], dim=-1)
    weights = (cosine / temperature).softmax(1)
    torch.testing.assert_close(fast, (weights[..., None] * labels[found.indices]).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [40, 1 << 21])
def test_labels_can_be_missing_or_of_half_precision(block, monkeypatch):
    monkeypatch.setattr(retrieval, "GATHERED", block)
    keys, queries, labels = normalise_keys(randn(60, 8)), randn(25, 8, seed=1), torch.rand(60, 6) + 0.1
    found = search(keys, queries, 5, "torch")
    given_ = {"scores": found.scores, "temperature": 0.3}
    weights = attention(queries, found.indices, **given_)
    torch.testing.assert_close(weights.sum(1), torch.ones(25))
    half = attend(queries, found.indices, labels.half(), **given_)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, attend(queries, found.indices, labels.half().float(), **given_))
    whole = attend(queries, found.indices, labels, missing=0.0, **given_)
    torch.testing.assert_close(whole, attend(queries, found.indices, labels, **given_))
    labels[::3, :4] = 0.0
    labels[:, 5] = 0.0
    known = (labels[found.indices] != 0) * weights[..., None]
    expected = (known * labels[found.indices]).sum(1) / known.sum(1)  # 0 / 0 where no neighbour has a label
    torch.testing.assert_close(attend(queries, found.indices, labels, missing=0.0, **given_), expected, equal_nan=True)
    assert expected[:, 5].isnan().all()
    assert expected[:, :4].isfinite().any()


@pytest.mark.parametrize("missing", [None, -1.0])
def test_float64_features_are_answered_in_float64(missing):
    queries, keys, labels = (randn(n, d, seed=d).double() for n, d in ((4, 5), (20, 5), (20, 3)))
    indices = torch.arange(12).view(4, 3)
    cosine = (F.normalize(queries, dim=1)[:, None] * F.normalize(keys, dim=1)[indices]).sum(2)
    expected = (torch.softmax(cosine / 0.02, dim=1)[..., None] * labels[indices]).sum(1)
    found = attend(queries, indices, labels, keys=keys, missing=missing)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
    coarse = attend(queries, indices, labels.float(), keys=keys, missing=missing)
    assert coarse.dtype == torch.float64


def test_attention_needs_one_source_of_cosines():
    queries, indices, labels = randn(2, 4), torch.zeros(2, 1, dtype=torch.int64), torch.ones(1, 3)
    for given_ in ({}, {"scores": torch.zeros(2, 1), "keys": randn(1, 4)}):
        with pytest.raises(ValueError, match="and not both"):
            attend(queries, indices, labels, **given_)
    with pytest.raises(ValueError, match="temperature"):
        attend(queries, indices, labels, scores=torch.zeros(2, 1), temperature=0)


@pytest.mark.parametrize("kind", ["soft", "logits", "empty patch"])
@pytest.mark.parametrize("class_block", [1, 8, 64])
def test_upsampled_argmax_is_the_direct_one(kind, class_block):
    maps = randn(3, 30, 6, 5)
    if kind != "logits":
        maps = maps.relu() * (torch.arange(30) % 4 == 1).view(30, 1, 1)
        maps[:, 1] += 0.1
    if kind == "empty patch":
        maps[1, :, :3, :3] = 0  # pixels that nothing claims belong to class 0
    direct = F.interpolate(maps, (48, 41), mode="bilinear").argmax(1)
    found = upsample_argmax(maps, (48, 41), class_block)
    assert torch.equal(found, direct)
    assert kind != "empty patch" or bool((found[1] == 0).any())


@pytest.mark.parametrize("label", [0, 2])
def test_an_image_of_one_class_is_of_that_class(label):
    maps = torch.zeros(1, 3, 4, 5)
    maps[:, label] = 1.0
    torch.testing.assert_close(upsample_argmax(maps, (9, 11)), torch.full((1, 9, 11), label))
