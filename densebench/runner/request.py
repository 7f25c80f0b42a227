"""What a run is asked for, and what can be said against it before torch is imported: a typo costs no time.

The command line and `densebench.run` have these fields, under these names, with these words.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from densebench.core.bounds import MOST_PICTURES, PICTURES
from densebench.core.config import apply_overrides, find_preset
from densebench.core.errors import UsageError
from densebench.core.lists import split_names
from densebench.core.registry import unknown_name
from densebench.datasets import DATASETS, resolve_dataset
from densebench.model_zoo import parse_models, split_models
from densebench.protocols import PROTOCOLS


def split_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of "0,1,2", each once."""
    try:
        return tuple(dict.fromkeys(int(name) for name in split_names(text))) or (0,)
    except ValueError:
        raise UsageError(f"--seed {text}: expected whole numbers, such as 0 or 0,1,2.") from None


def _listed(split: Callable[[str], Sequence[Any]], metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Return how the command line reads several values that commas part."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: tuple(split(words[0])),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


Names: TypeAlias = Annotated[tuple[str, ...], _listed(split_names, "A[,B,...]")]
Models: TypeAlias = Annotated[tuple[str, ...], _listed(split_models, "A[,B,...]")]
Seeds: TypeAlias = Annotated[tuple[int, ...], _listed(split_seeds, "N[,N,...]")]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured, and how."""

    model: Models = ()
    """Zoo names, timm/NAME, FILE.py:Class, CHECKPOINT.safetensors; ?random or @WEIGHTS after it, NAME= before it."""
    protocol: Names = ("all",)
    """Protocols, or all."""
    suite: Annotated[str, arg(metavar="NAME")] = ""
    """A paper's table, or a set of cells in FILE.toml: without --model its own models."""
    dataset: Names = ()
    """Datasets; by default all that are ready, scenes when none is."""
    train_dataset: Annotated[str, arg(metavar="NAME")] = ""
    """Take memories and heads from this dataset's training images: domain shift."""
    preset: Annotated[str, arg(metavar="NAME")] = ""
    """A published setting of the protocols; by default paper, on embedded data embedded."""
    weights: Annotated[str | Path | None, arg(metavar="FILE")] = None
    """A file of weights for the model, FILE@ENTRY where it holds several; also SPEC@FILE."""
    seed: Seeds = (0,)
    """Of everything that is drawn: subsets, crops, k-means, heads. Tables show the mean of several."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Where images are, and which of them are read."""

    data_root: Annotated[str | Path | None, arg(metavar="DIR")] = None
    """Folder the datasets lie in; default DENSEBENCH_DATA."""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """Use the first N images of each split; the result stays off leaderboards."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, and say which."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What it is computed with; only precision and feature type can change a score."""

    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """Where it is computed: auto, cpu, cuda, cuda:1, ..."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The backbone computes in it; auto is float32."""
    feature_dtype: Literal["float16", "float32"] = "float16"
    """Features are rounded to it before protocols read them."""
    batch_size: Annotated[int, arg(metavar="N")] = 16
    """Images per forward pass."""
    workers: Annotated[int, arg(metavar="N")] = 2
    """Processes that decode images; they change no result."""
    cache_size: Annotated[float, arg(metavar="GB")] = 20.0
    """Gigabytes of features kept on disk; 0 keeps none."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is done with results."""

    out: Annotated[str | Path, arg(metavar="DIR")] = "results"
    """Folder of results."""
    overwrite: bool = False
    """Run finished cells again."""
    pictures: Annotated[int, arg(metavar="N")] = PICTURES
    """Examples in the pictures beside each new record; 0 draws none. `densebench show result ID` lists them."""


@dataclass(frozen=True, kw_only=True)
class Request(Measure, Images, Machine, Results):
    """What to run, and how."""

    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Overrides per protocol, such as {"hummingbird": {"neighbours": 50}}."""

    @property
    def everything(self) -> bool:
        """Whether all protocols are asked for: what cannot be run is then left out, in words, and is no failure."""
        return list(self.protocol) == ["all"]


def make_request(**asked: Any) -> Request:
    """Return a request from plain values: one name or several, one seed or several.

    Raises UsageError for a name that is none of its fields.
    """
    known = [each.name for each in dataclasses.fields(Request)]
    for name in asked:
        if name not in known:
            raise UsageError(f"run has no argument {name!r}; it has {', '.join(known)}.")
    for name, split in (("model", split_models), ("protocol", split_names), ("dataset", split_names)):
        if name in asked:
            asked[name] = tuple(split(asked[name]) if isinstance(asked[name], str) else asked[name])
    if "seed" in asked:
        asked["seed"] = (asked["seed"],) if isinstance(asked["seed"], int) else tuple(asked["seed"])
    return Request(**asked)


def to_json(request: Request) -> str:
    """Return a request as a file that another process takes up: see `from_json`."""
    fields = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    return json.dumps(fields, default=str, indent=1) + "\n"


def from_json(text: str) -> Request:
    """Return the request of a file that `to_json` made; raises UsageError for another."""
    try:
        return make_request(**json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"this is not a request that --launcher wrote ({error}).") from None


def checked(request: Request) -> Request:
    """Return a request whose numbers, names and files exist, with datasets of the user's own registered.

    Raises UsageError, or what reading a user's dataset raises. Cheapest first: numbers, names, files.
    """
    _check_numbers(request)
    specs = parse_models(request.model, request.weights)
    if not specs:
        raise UsageError("no model is named. Give --model NAME (`densebench list models`), or --suite NAME.")
    if not request.everything:
        PROTOCOLS.match(request.protocol)
    if request.preset:
        _check_preset(request)
    for name, settings in request.settings.items():
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS.names())
        if (config := PROTOCOLS.config(name)) is not None:
            apply_overrides(config(), settings, name)
    request = replace(
        request,
        dataset=tuple(DATASETS.match(resolve_dataset(name) for name in request.dataset)),
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
    names = PROTOCOLS.names() if request.everything else PROTOCOLS.match(request.protocol)
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
        *(("seed", seed, 0, 2**63 - 1) for seed in request.seed),
        ("batch-size", request.batch_size, 1, None),
        ("workers", request.workers, 0, None),
        ("pictures", request.pictures, 0, MOST_PICTURES),
        ("cache-size", request.cache_size, 0, None),
    ):
        if value is not None and not (least <= value < math.inf and (most is None or value <= most)):
            bounds = f"at least {least}" if most is None else f"at least {least}, at most {most}"
            raise UsageError(f"--{name} {value}: expected {bounds}.")
