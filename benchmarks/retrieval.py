"""Time exact patch search: the torch path against faiss ``IndexFlatIP`` and ScaNN, interleaved, on this machine.

Run by hand: ``python benchmarks/retrieval.py --threads 2``. Rounds of all backends alternate, so that load from
elsewhere hits all of them; the table gives the median seconds and the ratio to torch in the same rounds (above 1:
torch is faster). Keys are unit vectors around random centres, as patch features cluster.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--neighbours", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--centres", type=int, default=300, help="0: keys without structure")
    parser.add_argument("--device", default="cpu", help="of the torch path")
    parser.add_argument("--clock", choices=["wall", "process"], default="wall", help="process: CPU seconds, summed")
    return parser.parse_args()


def main() -> None:
    args = parse()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import torch

    from densebench.ops.retrieval import ExactIndex, ScannIndex, normalise_keys, recall_at_k
    from densebench.ops.search import faiss_installed

    torch.set_num_threads(args.threads)
    clock = {"wall": time.perf_counter, "process": time.process_time}[args.clock]
    print(
        f"{args.keys} keys, {args.queries} queries, k={args.neighbours}, {args.threads} threads, {args.rounds} rounds"
    )
    print(f"{'dims':>5} {'search':>8} {'seconds':>9} {'GFLOP/s':>9} {'/ torch':>8} {'recall':>8}")
    for dim in args.dims:
        torch.manual_seed(0)
        keys, queries = (cloud(n, dim, args.centres) for n in (args.keys, args.queries))
        keys = normalise_keys(keys)
        indexes = {"torch": ExactIndex(keys.to(args.device), "torch")}
        if faiss_installed():
            indexes["faiss"] = ExactIndex(keys, "faiss")
        try:
            indexes["scann"] = ScannIndex(keys, args.neighbours)
        except ImportError:
            print(f"{dim:>5} {'scann':>8}  not installed")
        seconds: dict[str, list[float]] = {name: [] for name in indexes}
        found = {}
        for _ in range(args.rounds + 1):  # the first round warms up
            for name, index in indexes.items():
                elapsed, found[name] = timed(clock, index, queries, args.neighbours)
                seconds[name].append(elapsed)
        for name, times in seconds.items():
            ratio = median(t / reference for t, reference in zip(times[1:], seconds["torch"][1:], strict=True))
            flops = 2 * args.keys * args.queries * dim / median(times[1:])
            recall = recall_at_k(found[name].indices.cpu(), found["torch"].indices.cpu())
            speed = f"{flops / 1e9:9.0f}" if name != "scann" else f"{'-':>9}"
            print(f"{dim:>5} {name:>8} {median(times[1:]):9.3f} {speed} {ratio:8.2f} {recall:8.4f}")


def cloud(n: int, dim: int, n_centres: int):
    """Return (n, dim) points around random centres, the same centres for every call."""
    import torch

    points = torch.randn(n, dim)
    if not n_centres:
        return points
    centres = torch.randn(n_centres, dim, generator=torch.Generator().manual_seed(1))
    return centres[torch.randint(n_centres, (n,))] + 0.5 * points


def timed(clock: Callable[[], float], index, queries, k: int):
    """Return the seconds a search takes and what it finds."""
    import torch

    start = clock()
    found = index.search(queries, k)
    if found.scores.is_cuda:
        torch.cuda.synchronize()
    return clock() - start, found


if __name__ == "__main__":
    main()
