"""Time exact patch search: the torch path against faiss ``IndexFlatIP`` and ScaNN, interleaved, on this machine.

Run by hand: ``python benchmarks/retrieval.py --threads 2``. Rounds of all backends alternate, so that load from
elsewhere hits all of them; the table gives the median seconds and the ratio to torch in the same rounds (above 1:
torch is faster). Keys are unit vectors around random centres, as patch features cluster.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

from interleave import interleave, options, ratio, set_threads


def parse() -> argparse.Namespace:
    parser = options(__doc__, threads=2, rounds=5)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--neighbours", type=int, default=30)
    parser.add_argument("--centres", type=int, default=300, help="0: keys without structure")
    parser.add_argument("--device", default="cpu", help="of torch and faiss")
    return parser.parse_args()


def main() -> None:
    args = parse()
    set_threads(args.threads)
    import torch

    from densebench.ops.faiss_calls import why_not
    from densebench.ops.retrieval import normalise_keys
    from densebench.ops.search import ExactIndex, ScannIndex, recall_at_k

    print(
        f"{args.keys} keys, {args.queries} queries, k={args.neighbours}, {args.threads} threads, {args.rounds} rounds"
    )
    print(f"{'dims':>5} {'search':>8} {'seconds':>9} {'GFLOP/s':>9} {'/ torch':>8} {'recall':>8}")
    for dim in args.dims:
        torch.manual_seed(0)
        keys, queries = (cloud(n, dim, args.centres) for n in (args.keys, args.queries))
        keys = normalise_keys(keys)
        here = keys.to(args.device)
        indexes = {"torch": ExactIndex(here, "torch")}
        if not why_not(here.device):
            indexes["faiss"] = ExactIndex(here, "faiss")
        try:
            indexes["scann"] = ScannIndex(keys, args.neighbours)
        except ImportError:
            print(f"{dim:>5} {'scann':>8}  not installed")
        runs = {name: partial(search, index, queries, args.neighbours) for name, index in indexes.items()}
        seconds, found = interleave(runs, args, warm_up=True)
        for name, times in seconds.items():
            flops = 2 * args.keys * args.queries * dim / median(times)
            recall = recall_at_k(found[name].indices.cpu(), found["torch"].indices.cpu())
            speed = f"{flops / 1e9:9.0f}" if name != "scann" else f"{'-':>9}"
            print(f"{dim:>5} {name:>8} {median(times):9.3f} {speed} {ratio(seconds, name, 'torch'):8.2f} {recall:8.4f}")


def cloud(n: int, dim: int, n_centres: int):
    """Return (n, dim) points around random centres, the same centres for every call."""
    import torch

    points = torch.randn(n, dim)
    if not n_centres:
        return points
    centres = torch.randn(n_centres, dim, generator=torch.Generator().manual_seed(1))
    return centres[torch.randint(n_centres, (n,))] + 0.5 * points


def search(index, queries, k: int):
    """Return what a search finds, once it has."""
    import torch

    found = index.search(queries, k)
    if found.scores.is_cuda:
        torch.cuda.synchronize()
    return found


if __name__ == "__main__":
    main()
