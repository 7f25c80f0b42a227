"""faiss on a GPU: through a stand-in that computes on the CPU from the addresses it is given, and on a real one.

The stand-in has the names and the pointer types of faiss-gpu-cuvs 1.15. It answers as faiss may: rounded in another
way, ties in any order.
"""

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from densebench.core.errors import UsageError
from densebench.ops import clustering, faiss_calls, lloyd, search
from densebench.protocols.common import clusters, memory
from densebench.protocols.common.kmeans_config import KMeansConfig
from densebench.protocols.hummingbird.config import HummingbirdConfig
from densebench.verify.folder import pick_backends
from tests import toys

STREAM = 77
FIELDS = {
    "metric": None,
    "k": None,
    "dims": None,
    "vectors": ("float", "void"),
    "queries": ("float", "void"),
    "outDistances": ("float",),
    "outIndices": ("float", "void", "idx_t"),
    **dict.fromkeys(("numVectors", "numQueries", "vectorType", "queryType", "vectorsRowMajor", "queriesRowMajor")),
    **dict.fromkeys(("outIndicesType", "device", "use_cuvs")),
}


class Params:
    def __setattr__(self, name, value):
        kinds = FIELDS[name]  # of another name there is no field
        assert kinds is None or value[0] in kinds
        self.__dict__[name] = value


class Resources:
    def __init__(self):
        self.streams, self.pinned = {}, None

    def setPinnedMemory(self, size):  # noqa: N802
        self.pinned = size

    def setDefaultStream(self, device, stream):  # noqa: N802
        self.streams[device] = stream


class Standin:
    """The faiss module, and what was asked of it."""

    METRIC_INNER_PRODUCT, METRIC_L2, DistanceDataType_F32, IndicesDataType_I64 = 0, 1, 1, 0
    GpuDistanceParams, StandardGpuResources = Params, Resources

    def __init__(self):
        self.calls, self.n_gpus = [], 1

    def get_num_gpus(self):
        return self.n_gpus

    def cast_integer_to_float_ptr(self, address):
        return "float", address

    def cast_integer_to_idx_t_ptr(self, address):
        return "idx_t", address

    def cast_integer_to_cudastream_t(self, stream):
        return "stream", stream

    def bfKnn(self, resources, args):  # noqa: N802
        assert resources.streams == {args.device: ("stream", STREAM)}
        assert resources.pinned == 0
        assert (args.use_cuvs, args.vectorsRowMajor, args.queriesRowMajor) == (False, True, True)
        assert (args.vectorType, args.queryType, args.outIndicesType) == (1, 1, 0)
        assert min(args.numQueries, args.k) > 0
        assert args.k <= min(2048, args.numVectors)
        self.calls.append(args)
        x = at(args.vectors, ctypes.c_float, torch.float32, args.numVectors, args.dims)
        q = at(args.queries, ctypes.c_float, torch.float32, args.numQueries, args.dims)
        scores = q @ x.T if args.metric == 0 else -(q.square().sum(1)[:, None] + x.square().sum(1) - 2 * (q @ x.T))
        dice = torch.Generator().manual_seed(len(self.calls))
        norms = q.norm(dim=1, keepdim=True)
        reach = norms * x.norm(dim=1) if args.metric == 0 else (norms + x.norm(dim=1)).square()
        scores += (2 * torch.rand(scores.shape, generator=dice) - 1) * args.dims * 2.0**-25 * reach
        best, rows = scores.topk(args.k, dim=1)
        at(args.outDistances, ctypes.c_float, torch.float32, args.numQueries, args.k).copy_(
            best if args.metric == 0 else -best
        )
        at(args.outIndices, ctypes.c_int64, torch.int64, args.numQueries, args.k).copy_(rows)


def at(pointer, kind, dtype, n_rows: int, n_columns: int) -> torch.Tensor:
    """Return the table at an address, without a copy."""
    memory = (kind * (n_rows * n_columns)).from_address(pointer[1])
    return torch.frombuffer(memory, dtype=dtype).view(n_rows, n_columns)


@pytest.fixture
def faiss(monkeypatch):
    """faiss with a GPU part, for tensors that lie on the CPU and must not be copied."""
    standin = Standin()
    monkeypatch.setattr(faiss_calls, "load_faiss", lambda: standin)
    monkeypatch.setattr(faiss_calls, "faiss_installed", lambda: True)
    monkeypatch.setattr(faiss_calls, "on_gpu", lambda device: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
    for name in ("cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda self: pytest.fail("copied to the host"))
    faiss_calls._resources.cache_clear()
    yield standin
    faiss_calls._resources.cache_clear()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table(tied: bool, n: int = 240, dim: int = 24) -> torch.Tensor:
    """Return unit rows; tied: of which each occurs often, and some more often than any search looks ahead."""
    rows = F.normalize(randn(n, dim), dim=1)
    return rows[torch.arange(n) % 7] if tied else rows


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("k", [1, 30, 500])
def test_search_equals_the_torch_path(faiss, metric, tied, k):
    keys, queries = table(tied), 3 * randn(33, 24, seed=1)
    queries[:5] = keys[:5]
    index = search.ExactIndex(keys, "faiss", metric)
    found, expected = index.search(queries, k), search.ExactIndex(keys, "torch", metric).search(queries, k)
    assert index.backend == "faiss"
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-4)
    (call,) = faiss.calls
    assert call.vectors[1] == keys.data_ptr()  # where they are
    assert call.queries[1] == queries.data_ptr()
    assert call.k == min(k + search.SPARE, len(keys))


def test_tables_of_other_types_and_layouts_are_made_float32_rows(faiss):
    keys, queries = table(False).T.contiguous().T, randn(9, 24, seed=1)[::2]
    expected = search.ExactIndex(keys, "torch").search(queries, 5)
    assert torch.equal(search.ExactIndex(keys, "faiss").search(queries, 5).indices, expected.indices)
    half = search.ExactIndex(keys.half(), "faiss").search(queries.half(), 5)
    assert torch.equal(half.indices, search.ExactIndex(keys.half(), "torch").search(queries.half(), 5).indices)
    assert search.ExactIndex(keys, "faiss").search(queries[:0], 5).indices.shape == (0, 5)
    for bad in (keys, keys.half().contiguous()):
        with pytest.raises(ValueError, match="contiguous float32"):
            faiss_calls.knn(bad, bad, 2, "ip")


def test_scratch_memory_is_shared_by_all_searches_of_a_device(faiss):
    device = torch.device("cpu")
    assert faiss_calls._resources(device) is faiss_calls._resources(device)


@pytest.mark.parametrize("k", [1, 9, 40])
@pytest.mark.parametrize("tied", [False, True])
def test_assignment_equals_the_torch_path(faiss, k, tied):
    x = table(tied) * 2
    centroids = x[torch.arange(k) * 5 % len(x)] + (0 if tied else 0.1)
    assert torch.equal(lloyd.assign_with_faiss(x, centroids), lloyd.assign(x, centroids))


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("k", [5, 80])
def test_kmeans_equals_the_torch_path(faiss, spherical, k):
    """Same rows, starts and splits, and nearest centroids by the same rule: the same centroids, to the last digit."""
    x = torch.cat([table(True), 2 * randn(3000, 24, seed=2)])
    args = (x, k, 3, 8, 2)
    expected, info = clustering.kmeans(*args, "torch", spherical, 20)
    assert not faiss.calls
    found, mine = clustering.kmeans(*args, "faiss", spherical, 20)
    assert torch.equal(found, expected)
    assert mine._replace(objective=0.0) == info._replace(objective=0.0, backend="faiss")
    assert mine.objective == pytest.approx(info.objective, rel=1e-12)  # a sum, rounded as the processor adds
    assert 2 < len(faiss.calls) <= 16
    assert {(call.k, call.metric, call.numVectors) for call in faiss.calls} == {(2, 1, k)}


def test_protocols_gather_the_rows_where_faiss_is(faiss, monkeypatch):
    rows, config = randn(600, 4), KMeansConfig(kmeans="faiss", pca=None, n_iter=3, n_redo=1)
    track = SimpleNamespace(track=lambda todo, *_, **__: todo)
    features = SimpleNamespace(device=torch.device("cpu"))
    context = SimpleNamespace(progress=track, features=features, stage=lambda name: nullcontext())
    batches = [(part, torch.arange(len(part))) for part in rows.split(100)]
    (fit,) = clusters.fit_clusters(config, [clusters.KMeansRun(3, 0)], batches, 600, 4, context)
    assert faiss.calls
    assert torch.equal(fit.centroids, clustering.kmeans(rows, 3, 0, 3, 1, "torch")[0])


def test_what_is_missing_is_said(faiss, monkeypatch):
    cuda, settings = torch.device("cuda"), HummingbirdConfig(backend="faiss", input_size=28)
    assert faiss_calls.why_not(cuda) == ""
    assert search.choose_backend("faiss", cuda) == "faiss"
    assert search.choose_backend("auto", cuda) == "torch"
    assert pick_backends("all", "cuda") == ("torch", "faiss")
    assert "2048 neighbours, not 2049" in faiss_calls.why_not(cuda, 2049)
    with pytest.raises(ValueError, match="2048"):
        faiss_calls.knn(table(False).repeat(9, 1), table(False), 2049, "ip")
    faiss.n_gpus = 0
    assert "finds no GPU" in faiss_calls.why_not(cuda)
    monkeypatch.delattr(Standin, "GpuDistanceParams")
    assert "no GPU part" in faiss_calls.why_not(cuda)
    context = SimpleNamespace(features=SimpleNamespace(device=cuda))
    backbone = toys.ShuffledBackbone().info
    with pytest.raises(UsageError, match=r"no GPU part.*densebench\[gpu\].*backend=torch"):
        memory.fit(settings, backbone, SimpleNamespace(), [0], SimpleNamespace(), context, "")
    with pytest.raises(ImportError, match=r"densebench\[gpu\]"):
        search.ExactIndex(table(False), "faiss")
    with pytest.raises(ImportError, match=r"densebench\[gpu\]"):
        clustering.kmeans(table(False), 2, 0, backend="faiss")
    assert pick_backends("all", "cuda") == ("torch",)
    monkeypatch.setattr(faiss_calls, "faiss_installed", lambda: False)
    assert "not installed: pip install 'densebench[gpu]'" in faiss_calls.why_not(cuda)


@pytest.fixture
def cuda() -> torch.device:
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cuda")
    reason = "no GPU" if not torch.cuda.is_available() else faiss_calls.why_not(device)
    if reason:
        pytest.skip(reason)
    return device


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("k", [1, 30, 500, 2040])
def test_search_on_a_gpu_equals_the_torch_path(cuda, metric, tied, k):
    keys = table(tied, 9000, 384).to(cuda)
    queries = (3 * randn(700, 384, seed=1)).to(cuda)
    queries[:9] = keys[:9]
    found = search.ExactIndex(keys, "faiss", metric).search(queries, k)
    expected = search.ExactIndex(keys, "torch", metric, query_block=64, key_block=1000).search(queries, k)
    assert found.indices.device == cuda
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_products_on_a_gpu_are_float32(cuda, metric):
    """The first pass, which TF32 or float16 would put off by a thousand times the bound."""
    keys, queries = table(False, 5000, 384).to(cuda), F.normalize(randn(300, 384, seed=1), dim=1).to(cuda)
    scores, rows = faiss_calls.knn(keys, queries, 20, metric)
    x, q = keys[rows].double(), queries.double()[:, None]
    exact = (x * q).sum(2) if metric == "ip" else (x - q).square().sum(2)
    assert float((scores - exact).abs().max()) <= (1 if metric == "ip" else 4) * (384 + 4) * 2.0**-24


@pytest.mark.gpu
def test_a_search_on_a_gpu_waits_for_its_tensors_and_is_waited_for(cuda):
    """On a stream of one's own, keys are written just before and results read just after, without synchronisation."""
    keys, queries = table(False, 5000, 384).to(cuda), randn(300, 384, seed=1).to(cuda)
    expected = faiss_calls.knn(keys, queries, 5, "ip")[1]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream(cuda)):
        late = torch.zeros_like(keys)
        torch.cuda._sleep(50_000_000)
        late.copy_(keys)
        found = faiss_calls.knn(late, queries, 5, "ip")[1].clone()
        late.zero_()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_on_a_gpu_follows_the_torch_path(cuda, spherical):
    x = torch.cat([table(True), 2 * randn(30_000, 24, seed=2)]).to(cuda)
    assert torch.equal(lloyd.assign_with_faiss(x, x[:40].clone()), lloyd.assign(x, x[:40].clone()))
    found, mine = clustering.kmeans(x, 80, 3, 10, 2, "faiss", spherical)
    info = clustering.kmeans(x, 80, 3, 10, 2, "torch", spherical)[1]
    assert found.device == cuda
    assert mine.n_train == info.n_train == 80 * 256
    # the sums of clusters are added up in no fixed order on a GPU
    assert mine.objective == pytest.approx(info.objective, rel=1e-5)
