"""Time the positional-effect study of all layers and facets against one run per layer and facet, interleaved.

Run by hand: ``python benchmarks/sweep.py --clock process``. Both fit and assign the same clusters, without cache,
locality bias and examples; images are rendered beforehand. The table gives the median seconds and the ratio to the
sweep in the same rounds; the last line says whether both found the same mIoU and NMI for every read.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from statistics import median
from typing import Any

from interleave import interleave, options, ratio, set_threads


def parse() -> argparse.Namespace:
    parser = options(__doc__, threads=1, rounds=2)
    parser.add_argument("--model", default="pico")
    parser.add_argument("--images", type=int, default=16, help="of each split")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    return parser.parse_args()


def main() -> None:
    args = parse()
    set_threads(args.threads)
    from densebench.core.progress import Progress
    from densebench.datasets.scenes.dataset import Scenes
    from densebench.features.source import FeatureSource
    from densebench.model_zoo import load_model
    from densebench.protocols.positional_effect.protocol import PositionalEffect, feature_keys
    from densebench.protocols.protocol import Context, Data, Measurement

    class Kept(Scenes):
        """Scenes that are rendered once."""

        image = lru_cache(maxsize=None)(Scenes.image)
        mask = lru_cache(maxsize=None)(Scenes.mask)

    backbone, protocol = load_model(args.model), PositionalEffect()
    data = Data(Kept(None, "train", length=args.images), Kept(None, "val", length=args.images))
    source = FeatureSource(backbone, batch_size=args.batch)
    shared = {"steps": args.steps, "batch": args.batch, "init_batches": 1, "locality": "none"}

    def measure(preset: str, **settings: Any) -> Measurement:
        config = protocol.resolve(protocol.configure(preset, {**shared, **settings}), source.info, data.info)
        return protocol.run(config, data, Context(source, Progress(quiet=True)))

    sweep = protocol.resolve(protocol.configure("sweep", shared), source.info, data.info)
    reads = feature_keys(sweep, source.info)
    seconds, found = interleave(
        {
            "one sweep": lambda: measure("sweep"),
            "one run per read": lambda: [measure("paper", **read._asdict()) for read in reads],
        },
        args,
        warm_up=True,
    )
    print(f"{args.model}, {len(reads)} reads, {args.threads} threads, {args.rounds} rounds, {args.clock} clock")
    print(f"{'':>18} {'seconds':>9} {'/ sweep':>8}")
    for name, times in seconds.items():
        print(f"{name:>18} {median(times):9.2f} {ratio(seconds, name, 'one sweep'):8.2f}")
    singles = [{m.label: m.value for m in single.metrics} for single in found["one run per read"]]
    pairs = zip(found["one sweep"].facts["reads"], singles, strict=True)
    same = all(abs(row["miou"] - one["miou"]) < 1e-4 and abs(row["nmi"] - one["nmi"]) < 1e-6 for row, one in pairs)
    print(f"same mIoU and NMI for every read: {same}")


if __name__ == "__main__":
    main()
