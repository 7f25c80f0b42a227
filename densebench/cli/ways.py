"""What to do where a model's weights are not here: the ways on, each with its cost, and what is built in."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from densebench.core.config import apply_overrides, split_pair
from densebench.core.environment import pick_device
from densebench.core.errors import DensebenchError
from densebench.core.progress import duration
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.dataset import data_root
from densebench.datasets.tools.fetch import REMOTES
from densebench.methods.cost import rough_flops
from densebench.methods.names import METHODS
from densebench.model_zoo.catalog import ENTRIES, CatalogEntry
from densebench.model_zoo.catalog.pages import status
from densebench.model_zoo.empty import empty_backbone, weights_size
from densebench.model_zoo.zoo import zoo_folders
from densebench.runner.plan import GPU, measured_flops


def ways_on(name: str, root: str | Path | None = None) -> list[str]:
    """Return, a line each, how a model of the catalogue may be measured whose weights are not on this machine.

    Args:
        name: of an entry that nobody published weights of, or that is fetched by hand.
        root: where datasets live.
    """
    entry = ENTRIES[name]
    lines = [f"failed: {name}: its weights are not on this machine. Ways on:"]
    size, place = weights_size(entry), f"--weights FILE, or as {name}.pth into the folder that DENSEBENCH_WEIGHTS names"
    if entry.file:
        lines.append(f"  fetch: by hand, from {entry.file.page}; the file ({size}) goes to {place}")
    else:
        lines.append(f"  fetch: nobody published them; a file ({size}) from those who have one goes to {place}")
    method = name.partition("_")[0]
    if entry.make:
        method, needs = shlex.split(entry.make)[2], training_lines(entry, root)
        lines += [f"  train: {entry.make}", *(f"    {line}" for line in needs)]
    small = next(each for each in (f"{method}_pico", "pico") if each in zoo_folders())
    made = f", made by {method}" if small != "pico" else ""
    return [*lines, f"  or begin with the built-in {small}{made}: densebench run --model {small} --protocol all"]


def training_lines(entry: CatalogEntry, root: str | Path | None) -> Iterator[str]:
    """Yield what the training that makes an entry takes, a line each."""
    words = shlex.split(entry.make)
    method, options = words[2], list(zip(words[3::2], words[4::2], strict=True))
    given, settings = dict(options), dict(split_pair(value) for key, value in options if key == "--set")
    base, data = ENTRIES[given["--base"]], given["--data"]
    config = apply_overrides(METHODS[method].Config(), settings)
    info = DATASETS[data].info
    images = config.images or info.splits.get("unlabelled") or info.splits[info.train]
    flops = images * config.epochs * rough_flops(config, empty_backbone(base).info)
    device = pick_device("auto")
    times = f"about {duration(flops / measured_flops(device))} on this machine ({device})"
    if device == "cpu":
        times += f", {duration(flops / GPU)} on a GPU of {GPU / 1e12:.0f} TFLOP/s"
    yield f"{times}: {config.epochs} epochs of {images:,} images"
    try:
        load_dataset(data, config.split or info.train, data_root(root))
        here = "here"
    except DensebenchError:
        size = sum(remote.size for remote in REMOTES.get(data, ()))
        here = f"{size / 1e9:.0f} GB, densebench data fetch {data}" if size else f"densebench data where {data}"
    yield f"from {base.name} ({status(base)}, {weights_size(base)}) on {data} ({here})"
