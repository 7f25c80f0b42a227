"""Peak memory of each protocol at two numbers of validation images: the difference is what an image costs.

Run by hand: `python benchmarks/memory.py [--images 100 400]`. Each measurement is a process of its own, on `scenes`
with random `pico` weights; features are cached first, so that what is measured is the protocol.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {
    "hummingbird": {"fractions": (1,), "augmentation_epochs": 0},
    "overclustering": {"clusters": ("classes", 300), "seeds": (0,), "n_redo": 1, "n_iter": 20},
    "in_context_depth": {"augmentation_epochs": 0},
    "linear_segmentation": {"epochs": 1},
    "linear_segmentation_cached": {"epochs": 1},
    "finetune_segmentation": {"steps": 2, "evaluations": 1},
    "positional_effect": {"steps": 50},
    "correspondence": {"pairs": 200},
    "depth": {"steps": 2},
    "unsupervised_segmentation": {"n_redo": 1, "n_iter": 10},
}


def measure(protocol_name: str, n_val: int, cache: str) -> None:
    """Run one protocol twice in this process: once to fill the cache, once with the peak counted."""
    from densebench.core.environment import PeakMemory
    from densebench.core.progress import Progress
    from densebench.datasets.scenes.dataset import Scenes
    from densebench.features.cache import FeatureCache
    from densebench.features.source import FeatureSource
    from densebench.model_zoo import load_model
    from densebench.protocols import PROTOCOLS
    from densebench.protocols.protocol import Context, Data

    data = Data(Scenes(None, "train", length=64), Scenes(None, "val", length=n_val))
    backbone = load_model("pico?random")
    protocol = PROTOCOLS[protocol_name]()
    config = protocol.configure("paper", SETTINGS[protocol_name])
    config = protocol.resolve(config, backbone.info, data.info)
    source = FeatureSource(backbone, cache=FeatureCache(Path(cache), 10**10))
    protocol.run(config, data, Context(source, Progress(quiet=True)))
    memory = PeakMemory()
    memory.reset()
    protocol.run(config, data, Context(source, Progress(quiet=True)))
    print(memory.read()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs=2, default=(100, 400))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], int(args.one[1]), args.one[2])
        return
    print(f"{'protocol':20s} " + " ".join(f"{n:>8d} val" for n in args.images) + "   per image")
    with tempfile.TemporaryDirectory() as cache:
        for protocol in SETTINGS:
            peaks = []
            for n in args.images:
                command = [sys.executable, __file__, "--one", protocol, str(n), cache]
                peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            per_image = (peaks[1] - peaks[0]) / (args.images[1] - args.images[0])
            print(f"{protocol:20s} " + " ".join(f"{p / 1e6:9.0f} MB" for p in peaks) + f"  {per_image / 1e3:7.1f} kB")


if __name__ == "__main__":
    main()
