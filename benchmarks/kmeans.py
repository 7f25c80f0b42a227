"""Time k-means: ours in torch against ``faiss.Kmeans``, interleaved.

Run by hand: ``python benchmarks/kmeans.py --threads 1``. Rounds of both alternate, from the same starting rows, so
that load from elsewhere hits both; the table gives the median seconds, the ratio to ours in the same rounds (above 1:
ours is faster) and the objective. Rows are overlapping clouds around random centres with a spectrum that falls off as
that of PCA-ed tokens; ``--rows FILE.npy`` takes real ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

from interleave import interleave, options, ratio, set_threads


def parse() -> argparse.Namespace:
    parser = options(__doc__, threads=1, rounds=3)
    parser.add_argument("--n", type=int, default=128_000, help="rows, at most 256 for each cluster are used")
    parser.add_argument("--clusters", type=int, nargs="+", default=[23, 300, 500])
    parser.add_argument("--dim", type=int, default=50)
    parser.add_argument("--n-iter", type=int, default=100)
    parser.add_argument("--spread", type=float, default=1.0, help="of a cloud; small: separated clusters")
    parser.add_argument("--rows", help="a .npy file of rows (N, D), instead of random ones")
    return parser.parse_args()


def main() -> None:
    args = parse()
    set_threads(args.threads)
    import numpy as np
    import torch

    from densebench.ops.clustering import permutation_head
    from densebench.ops.faiss_calls import faiss_installed
    from densebench.ops.lloyd import lloyd

    table = torch.from_numpy(np.load(args.rows)).float() if args.rows else clouds(args.n, args.dim, args.spread)
    print(f"{args.n_iter} iterations, {args.threads} threads, {args.rounds} rounds, {args.clock} clock")
    print(f"{'K':>5} {'rows':>8} {'dim':>4} {'k-means':>8} {'seconds':>9} {'/ ours':>7} {'objective':>14}")
    for k in args.clusters:
        x = table[: min(args.n, 256 * k)].contiguous()
        start = x[permutation_head(len(x), k, 1)]
        runs: dict[str, Callable[[], float]] = {
            "ours": lambda x=x, start=start: lloyd(x, start, args.n_iter)[1],
        }
        if faiss_installed():
            runs["faiss"] = lambda x=x, start=start: with_faiss(x, start, args.n_iter)
        seconds, objectives = interleave(runs, args)
        for name, times in seconds.items():
            print(
                f"{k:>5} {len(x):>8} {x.shape[1]:>4} {name:>8} {median(times):9.3f} "
                f"{ratio(seconds, name, 'ours'):7.2f} {objectives[name]:14.8g}",
                flush=True,
            )


def clouds(n: int, dim: int, spread: float):
    """Return (n, dim) rows around 400 centres; later dimensions vary less."""
    import torch

    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(2.5, 0.5, dim)
    centres = torch.randn(400, dim, generator=generator)
    own = torch.randint(400, (n,), generator=generator)
    return (centres[own] + spread * torch.randn(n, dim, generator=generator)) * scale


def with_faiss(x, start, n_iter: int) -> float:
    """Return the objective of ``faiss.Kmeans`` from the same start."""
    from densebench.ops.faiss_calls import load_faiss

    model = load_faiss().Kmeans(x.shape[1], len(start), niter=n_iter, min_points_per_centroid=1)
    return float(model.train(x.numpy(), init_centroids=start.numpy()))


if __name__ == "__main__":
    main()
