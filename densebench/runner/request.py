"""What a run is asked for, and what can be said against it before torch is imported: a typo costs no time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from densebench.core.config import apply_overrides, find_preset
from densebench.core.errors import UsageError
from densebench.core.registry import unknown_name
from densebench.datasets import DATASETS, resolve_dataset
from densebench.model_zoo import parse_models
from densebench.protocols import PROTOCOLS


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run, and how. Everything below `out` cannot change a score except precision, dtype, limit and seed."""

    models: Sequence[str]
    protocols: Sequence[str] = ("all",)
    datasets: Sequence[str] = ()
    """Empty: every dataset that is ready on this machine, `scenes` when none is."""
    train_dataset: str = ""
    """Take the training images (memory, heads) from this dataset instead: domain shift."""
    preset: str = ""
    """Empty: `embedded` on embedded datasets, else `paper`."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Overrides per protocol, such as {"hummingbird": {"neighbours": 50}}."""
    weights: str | Path | None = None
    data_root: str | Path | None = None
    limit: int | None = None
    seeds: Sequence[int] = (0,)
    """Every cell is run once with each."""
    skip_corrupt: bool = False
    out: str | Path = "results"
    overwrite: bool = False
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    feature_dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = 16
    workers: int = 2
    cache_size: float = 20.0
    """Gigabytes of features kept on disk; 0 keeps none."""

    @property
    def everything(self) -> bool:
        """Whether all protocols are asked for: what cannot be run is then left out, in words, and is no failure."""
        return list(self.protocols) == ["all"]


def checked(request: Request) -> Request:
    """Return a request whose numbers, names and files exist, with datasets of the user's own registered.

    Raises UsageError, or what reading a user's dataset raises. Cheapest first: numbers, names, files.
    """
    _check_numbers(request)
    specs = parse_models(request.models, request.weights)
    if not request.everything:
        PROTOCOLS.match(request.protocols)
    if request.preset:
        _check_preset(request)
    for name, settings in request.settings.items():
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS.names())
        if (config := PROTOCOLS.config(name)) is not None:
            apply_overrides(config(), settings, name)
    request = replace(
        request,
        datasets=DATASETS.match(resolve_dataset(name) for name in request.datasets),
        train_dataset=resolve_dataset(request.train_dataset),
    )
    if request.train_dataset:
        DATASETS.match([request.train_dataset])
    for spec in specs:
        file, _, _ = spec.name.rpartition(":")
        if spec.family == "file" and not Path(file).is_file():
            raise UsageError(f"{file} does not exist; --model takes FILE.py:Class.")
    if request.data_root is not None and not (root := Path(request.data_root).expanduser()).is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise UsageError(f"--data-root {root} {found}. Give the folder that datasets are in.")
    return request


def no_such_preset(name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a preset that none of all protocols has."""
    return UsageError(f"no protocol has a preset {name!r}; there are {', '.join(sorted(known))}.")


def _check_preset(request: Request) -> None:
    """Raise UsageError for a preset that a protocol lacks, or of all protocols every one."""
    names = PROTOCOLS.names() if request.everything else PROTOCOLS.match(request.protocols)
    presets = {name: config.presets for name in names if (config := PROTOCOLS.config(name)) is not None}
    if not request.everything:
        for name, known in presets.items():
            find_preset(name, known, request.preset)
    elif len(presets) == len(names) and not any(request.preset in known for known in presets.values()):
        raise no_such_preset(request.preset, {preset for known in presets.values() for preset in known})


def _check_numbers(request: Request) -> None:
    """Raise UsageError for numbers of a request that mean nothing."""
    for name, value, least, most in (
        ("limit", request.limit, 1, None),
        *(("seed", seed, 0, 2**63 - 1) for seed in request.seeds),
        ("batch-size", request.batch_size, 1, None),
        ("workers", request.workers, 0, None),
        ("cache-size", request.cache_size, 0, None),
    ):
        if value is not None and not (least <= value < math.inf and (most is None or value <= most)):
            bounds = f"at least {least}" if most is None else f"at least {least}, at most {most}"
            raise UsageError(f"--{name} {value}: expected {bounds}.")
