"""Images per second of the scenes renderer on one core, by what is wanted.

Run by hand: `python benchmarks/scenes.py [--size 224] [--images 300]`. The first scene of a process builds the texture
bank (about a second) and is not counted. The renderer has one thread; CPU seconds are the fair column on a shared
machine.
"""

from __future__ import annotations

import argparse
import time

from densebench.datasets.scenes.render import RENDERER_VERSION, SPLITS, WANTS, render
from densebench.datasets.scenes.world import seeded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=300)
    args = parser.parse_args()
    print(f"{args.size} x {args.size}, {args.images} images, one core")
    print(f"{'wanted':44s} {'images/s (wall)':>16s} {'images/s (CPU)':>16s}")
    cases: dict[str, tuple[str, ...] | None] = {
        "everything": WANTS,
        "image": ("image",),
        "image, mask": ("image", "mask"),
        "image, depth": ("image", "depth"),
        "mask, depth, parts, instances, keypoints": WANTS[1:],
        "layout only": None,
    }
    for name, want in cases.items():
        render(0, "unlabelled", size=args.size, want=want or ("image",))
        wall, cpu = time.perf_counter(), time.process_time()
        for index in range(args.images):
            if want is None:
                seeded(RENDERER_VERSION, 0, SPLITS.index("unlabelled"), index, 1.0)
            else:
                render(index, "unlabelled", size=args.size, want=want)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name:44s} {args.images / wall:16.0f} {args.images / cpu:16.0f}")


if __name__ == "__main__":
    main()
