"""The few calls into faiss: exact search on a CPU and on an NVIDIA GPU, in float32 on both.

On a GPU faiss reads and writes torch's own memory: it is given the addresses of the tensors, the GPU they lie on and
torch's current stream, so that nothing is copied to the host and nothing has to wait. Its brute-force kernels multiply
in float32 with float32 sums (the cuBLAS handle of ``StandardGpuResources`` allows no reduced precision); cuVS, which
some builds would take instead and whose numerics are its own, is switched off. Which keys come first among near ties is
not settled here: see :mod:`densebench.ops.ties`.

Not run on a GPU so far. Checked without one: the names, types and pointers against faiss-gpu-cuvs 1.15.0 and 1.15.1
beside torch 2.15 for CUDA 13, and the rest by tests in which a stand-in computes on the CPU. Tests marked ``gpu``
compare with the torch path.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

MOST_ON_GPU = 2048
"""Neighbours that faiss's selection on a GPU can return."""


def faiss_installed() -> bool:
    """Return whether faiss can be imported, without importing it."""
    return importlib.util.find_spec("faiss") is not None


def load_faiss() -> Any:
    """Return the faiss module, set to as many threads as torch uses."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def on_gpu(device: torch.device) -> bool:
    """Return whether tensors on ``device`` are searched by faiss's GPU part."""
    return device.type == "cuda"


def why_not(device: torch.device, k: int = 1) -> str:
    """Return why faiss cannot find ``k`` neighbours of tensors on ``device`` and what helps; nothing if it can."""
    if device.type != "cpu" and not on_gpu(device):
        return f"faiss searches on a CPU or an NVIDIA GPU, not on {device}"
    if k > MOST_ON_GPU and on_gpu(device):
        return f"faiss on a GPU finds at most {MOST_ON_GPU} neighbours, not {k}"
    if not faiss_installed():
        return f"faiss is not installed: pip install 'densebench[{'gpu' if on_gpu(device) else 'cpu'}]'"
    if not on_gpu(device):
        return ""
    faiss = load_faiss()
    if not hasattr(faiss, "GpuDistanceParams"):
        return "the installed faiss has no GPU part: pip uninstall faiss-cpu, then pip install 'densebench[gpu]'"
    if not faiss.get_num_gpus():
        return "the installed faiss finds no GPU: the driver may be older than its CUDA version"
    return ""


def knn(keys: Tensor, queries: Tensor, k: int, metric: Literal["ip", "l2"]) -> tuple[Tensor, Tensor]:
    """Return scores (Q, k) and int64 rows of keys (Q, k) of the k nearest keys of each query, best first.

    Args:
        keys: (N, D) float32, contiguous.
        queries: (Q, D) on the same device, likewise.
        k: at most N, and `MOST_ON_GPU` on a GPU.
        metric: ``ip``, dot products, descending; ``l2``, squared distances, ascending.
    """
    for table in (keys, queries):
        if table.dtype != torch.float32 or not table.is_contiguous() or table.device != keys.device:
            raise ValueError("faiss reads contiguous float32 tables on one device")
    faiss = load_faiss()
    kind = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    if on_gpu(keys.device):
        if k > MOST_ON_GPU:
            raise ValueError(why_not(keys.device, k))
        return _knn_gpu(faiss, keys, queries, k, kind)
    scores, indices = faiss.knn(queries.numpy(), keys.numpy(), k, metric=kind)
    return torch.from_numpy(scores), torch.from_numpy(indices)


def _knn_gpu(faiss: Any, keys: Tensor, queries: Tensor, k: int, metric: int) -> tuple[Tensor, Tensor]:
    scores = keys.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=keys.device)
    if not len(queries):
        return scores, indices  # which faiss refuses
    args = faiss.GpuDistanceParams()
    args.metric, args.k, args.dims = metric, k, keys.shape[1]
    args.vectors, args.numVectors = faiss.cast_integer_to_float_ptr(keys.data_ptr()), len(keys)
    args.queries, args.numQueries = faiss.cast_integer_to_float_ptr(queries.data_ptr()), len(queries)
    args.vectorType = args.queryType = faiss.DistanceDataType_F32
    args.vectorsRowMajor = args.queriesRowMajor = True
    args.outDistances = faiss.cast_integer_to_float_ptr(scores.data_ptr())
    args.outIndices = faiss.cast_integer_to_idx_t_ptr(indices.data_ptr())
    args.outIndicesType = faiss.IndicesDataType_I64
    args.device = keys.get_device()
    args.use_cuvs = False  # the default of some versions
    resources = _resources(keys.device)
    # work is ordered on the stream that wrote the tensors, will read the results and knows when memory is free again
    stream = torch.cuda.current_stream(keys.device).cuda_stream
    resources.setDefaultStream(args.device, faiss.cast_integer_to_cudastream_t(stream))
    faiss.bfKnn(resources, args)
    return scores, indices


@cache
def _resources(device: torch.device) -> Any:
    """Return faiss's handles and scratch memory on one GPU (1.5 GiB at most), which are not for several threads."""
    resources = load_faiss().StandardGpuResources()
    resources.setPinnedMemory(0)  # for copies from the host, of which there are none
    return resources
