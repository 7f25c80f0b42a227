"""Time what it takes to get an image to the backbone: decode, resize, mask; images per second on one core.

Run by hand: ``python benchmarks/decoding.py --data-root DIR --dataset voc``; without a data root it renders scenes of
VOC's size in VOC's layout. Ways to do a step alternate in rounds, so that load from elsewhere hits all of them. Beside
the speed stands how far the pixels are from those of the published pipeline (Pillow: full decode, bilinear with
antialias): a way that changes pixels changes scores, whatever its speed.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from interleave import interleave, options, ratio, set_threads


def parse() -> argparse.Namespace:
    parser = options(__doc__, threads=1, rounds=5)
    parser.add_argument("--dataset", default="voc")
    parser.add_argument("--data-root", help="where datasets live; without it scenes are rendered")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=448, help="side in pixels that images and masks are resized to")
    return parser.parse_args()


def main() -> None:
    args = parse()
    set_threads(args.threads)
    with tempfile.TemporaryDirectory() as made:
        measure(args, made)


def measure(args: argparse.Namespace, made: str) -> None:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional as TF

    from densebench.datasets import DATASETS, load_dataset
    from densebench.datasets.io.archives import read_bytes
    from densebench.datasets.scenes.dataset import Scenes
    from densebench.datasets.tools.export import export
    from densebench.views.squash import Labels, resize_mask

    if args.data_root is None:
        export(Scenes(None, "val", size=(375, 500), length=args.images), "voc", Path(made))
    data = load_dataset(args.dataset, DATASETS[args.dataset].info.val, args.data_root or made)
    n = min(args.images, len(data))
    jpegs = [read_bytes(data.files(i)[0]) for i in range(n)]
    tensors = [torch.frombuffer(bytearray(b), dtype=torch.uint8) for b in jpegs]
    pictures = [data.image(i) for i in range(n)]
    stacks = [torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]
    masks = [data.mask(i) for i in range(n)]
    side = (args.size, args.size)

    def pillow(blob: bytes, draft: bool = False) -> Any:
        image = Image.open(io.BytesIO(blob))
        if draft:
            image.draft("RGB", side)
        return np.asarray(image.convert("RGB"))

    def decoded_at_once(blob: bytes) -> Any:
        image = Image.open(io.BytesIO(blob))
        image.draft("RGB", side)
        return np.asarray(image.convert("RGB").resize(side, Image.Resampling.BILINEAR))

    def interpolated(t: Any) -> Any:
        resized = F.interpolate(t[None].float(), side, mode="bilinear", antialias=True)
        return resized.round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()

    bilinear = Image.Resampling.BILINEAR
    labels = {rule: Labels(side, rule) for rule in ("floor", "centre")}
    steps: dict[str, dict[str, Callable[[int], Any]]] = {
        "decode": {
            "Pillow": lambda i: pillow(jpegs[i]),
            "torchvision": lambda i: decode_jpeg(tensors[i], ImageReadMode.RGB).permute(1, 2, 0).numpy(),
        },
        "resize": {
            "Pillow": lambda i: np.asarray(pictures[i].resize(side, bilinear)),
            "Pillow, reducing_gap 2": lambda i: np.asarray(pictures[i].resize(side, bilinear, reducing_gap=2)),
            "torchvision, uint8": lambda i: TF.resize(stacks[i], list(side), antialias=True).permute(1, 2, 0).numpy(),
            "torch, float32": lambda i: interpolated(stacks[i]),
        },
        "decode and resize": {
            "Pillow": lambda i: np.asarray(Image.fromarray(pillow(jpegs[i])).resize(side, bilinear)),
            "Pillow, draft": lambda i: decoded_at_once(jpegs[i]),
        },
        "decode mask": {f"{args.dataset}": lambda i: data.mask(i)},
        "resize mask": {
            "as the cache does (floor)": lambda i: resize_mask(masks[i], labels["floor"]),
            "as Pillow does (centre)": lambda i: resize_mask(masks[i], labels["centre"]),
        },
        "whole sample": {
            "image and mask": lambda i: (
                np.asarray(data.image(i).resize(side, bilinear)),
                resize_mask(data.mask(i), labels["floor"]),
            )
        },
    }
    sizes = sorted({p.size for p in pictures})
    print(f"{n} images of {args.dataset}, {sizes[0]} to {sizes[-1]} px, to {args.size}; {args.rounds} rounds")
    print(f"{'step':<18} {'by':<26} {'images/s':>9} {'/ first':>8} {'mean |diff|':>12} {'most':>5}")
    for step, ways in steps.items():
        runs = {name: lambda way=way: [way(i) for i in range(n)] for name, way in ways.items()}
        seconds, results = interleave(runs, args, warm_up=True)
        first = next(iter(ways))
        for name, times in seconds.items():
            line = f"{step:<18} {name:<26} {n / median(times):9.0f} {1 / ratio(seconds, name, first):8.2f}"
            if len(ways) > 1 and step != "resize mask":
                pairs = zip(results[name], results[first], strict=True)
                off = [abs(a.astype(int) - b.astype(int)) for a, b in pairs]
                line += f" {np.mean([o.mean() for o in off]):12.4f} {max(o.max() for o in off):5d}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
