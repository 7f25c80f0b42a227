"""Scores of a fixed list of small cells to the last digit: does a change that shall change no score change none?

Run by hand, before and after, on one machine: `python benchmarks/scores.py before.json`, then
`python benchmarks/scores.py after.json`, then `python benchmarks/scores.py before.json after.json`, which prints what
differs and ends with 1 where anything does. Every protocol and preset is run, cut down to seconds, on `scenes` with
`pico` and with the adapter of the readme, and on the real images and the ViT of `--shared DIR`. Names of metrics may
change between the two; their order, values, intervals, seeds and classes are compared. It runs the command line, so
that the same file measures an older checkout: `PYTHONPATH=OLD python benchmarks/scores.py ...`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
LIMIT = "12"
SMALL = {
    "hummingbird": {"input_size": 112, "fractions": [1, 8], "subset_seeds": [42, 400], "memory_size": 2000},
    "in_context_depth": {"input_size": 112, "memory_size": 2000},
    "overclustering": {"input_size": 112, "clusters": ["classes", 30], "seeds": [0, 1], "n_redo": 2},
    "linear_segmentation": {"input_size": 112, "epochs": 2, "batch": 4},
    "linear_segmentation_cached": {"input_size": 112, "epochs": 2, "batch": 4},
    "finetune_segmentation": {"input_size": 64, "steps": 4, "batch": 2, "evaluations": 2},
    "positional_effect": {"input_size": 112, "steps": 20, "clusters": 6, "init_batches": 2},
    "correspondence": {"input_size": 112, "pairs": 20},
    "depth": {"steps": 4, "batch": 2},
    "unsupervised_segmentation": {"input_size": 112, "n_redo": 1, "k_fg_extraction": 30, "k_community": 20},
}
"""Settings that end in seconds; those of a preset that are not here stay."""
NEED_ATTENTION = ("unsupervised_segmentation",)
REAL = {
    "voc": ("hummingbird", "overclustering", "linear_segmentation", "finetune_segmentation", "positional_effect",
            "unsupervised_segmentation"),
    "seven_scenes": ("depth", "in_context_depth"),
    "spair": ("correspondence",),
}  # fmt: skip


def runs(adapter: Path, shared: Path) -> list[dict[str, str]]:
    """Return the options of each `densebench run`: all protocols at once that have a preset."""
    from densebench.protocols import PROTOCOLS

    by_preset: dict[str, list[str]] = {}
    for name in SMALL:
        for preset in PROTOCOLS.config(name).presets:  # type: ignore[union-attr]
            by_preset.setdefault(preset, []).append(name)
    found = [("pico", ",".join(names), "scenes", preset) for preset, names in by_preset.items()]
    found.append(
        (f"{adapter}:MyBackbone", ",".join(name for name in SMALL if name not in NEED_ATTENTION), "scenes", "")
    )
    vit = f"vit=timm/vit_tiny_patch16_224@{shared / 'data/weights/vit_tiny_patch16_224.safetensors'}"
    found += [(vit, ",".join(names), data, "paper") for data, names in REAL.items() if shared.is_dir()]
    return [dict(zip(("model", "protocol", "dataset", "preset"), run, strict=True)) for run in found]


def measure(shared: Path) -> dict[str, Any]:
    """Return the metrics of every cell, by model, protocol, dataset and preset."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder, "my_backbone.py")
        readme = (HERE.parent / "README.md").read_text()
        adapter.write_text(re.search(r"```python\n(# my_backbone.py\n.*?)```", readme, re.S)[1])  # type: ignore[index]
        environment = {**os.environ, "DENSEBENCH_CACHE": f"{folder}/cache"}
        root = str(shared / "data" if shared.is_dir() else folder)
        for options in runs(adapter, shared):
            line = [sys.executable, "-m", "densebench", "run", "--limit", LIMIT, "--workers", "0", "--quiet"]
            line += ["--out", f"{folder}/results", "--data-root", root]
            line += [word for key, value in options.items() if value for word in (f"--{key}", value)]
            for name in options["protocol"].split(","):
                for key, value in SMALL[name].items():
                    line += ["--set", f"{name}.{key}={json.dumps(value)}"]
            ended = subprocess.run(line, env=environment, text=True, capture_output=True)
            if ended.returncode:
                sys.exit(f"{options}: {ended.stderr}")
            print(*options.values(), file=sys.stderr)
        for path in sorted(Path(folder, "results", "records").glob("*/*/*.json")):
            record = json.loads(path.read_text())
            protocol = record["protocol"]
            cell = " / ".join((record["model"]["name"], protocol["name"], record["data"]["name"], protocol["preset"]))
            found[cell] = record["metrics"]
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return in words what differs between two measurements, names of metrics aside."""
    found = [f"{cell}: only in one" for cell in sorted(before.keys() ^ after.keys())]
    for cell in sorted(before.keys() & after.keys()):
        old, new = before[cell], after[cell]
        if len(old) != len(new):
            found.append(f"{cell}: {len(old)} metrics, then {len(new)}")
        for a, b in zip(old, new, strict=False):
            for field in ("value", "ci95", "seeds", "per_class"):
                if a.get(field) != b.get(field):
                    found.append(f"{cell}: {field} of {a['name']}: {a.get(field)}, then {b.get(field)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--shared", type=Path, default=SHARED)
    args = parser.parse_args()
    if len(args.files) == 2:
        before, after = (json.loads(file.read_text()) for file in args.files)
        found = differences(before, after)
        print("\n".join(found) or f"{len(before)} cells, no difference")
        sys.exit(bool(found))
    if not args.files:
        print(__doc__)  # `make bench` runs every script here as it is
        return
    args.files[0].write_text(json.dumps(measure(args.shared), indent=1))


if __name__ == "__main__":
    main()
