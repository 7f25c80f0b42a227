"""`densebench train`: from names to a training run and its zoo checkpoint, refused early where it cannot work."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress as Bar

from densebench.core.config import apply_overrides, as_dict, default_preset, find_preset
from densebench.core.environment import pick_device
from densebench.core.errors import CorruptFileError, ModelError, StorageError, UsageError
from densebench.core.paths import claim, zoo_dir
from densebench.core.progress import Progress
from densebench.datasets.dataset import DenseDataset
from densebench.datasets.user.images import digest, load_images
from densebench.methods.card import TrainResult, publish
from densebench.methods.cost import TrainingCost, estimate, measure
from densebench.methods.data import CachedImages, TrainingImages
from densebench.methods.distributed import process_group
from densebench.methods.method import Method, TrainConfig, unit_gain
from densebench.methods.names import METHODS
from densebench.methods.settings import check_settings, fitted
from densebench.methods.trainer import Trainer, check_same, states
from densebench.model_zoo import load_model, parse_spec
from densebench.model_zoo.architecture import Architecture
from densebench.model_zoo.backbone import Backbone
from densebench.model_zoo.files.cards import read_card
from densebench.model_zoo.loading import find
from densebench.views.loading import explained


def train(
    *,
    method: str,
    base: str,
    data: str,
    name: str,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    preset: str = "",
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    workers: int | None = None,
    data_root: str | Path | None = None,
    weights: str | Path | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train `method` from `base` on the images of `data` and write the zoo checkpoint `name`.

    Args:
        method: a name in METHODS.
        base: a model name with a timm architecture: `pico`, `pico?random`, `timm/NAME`.
        data: names, files of one's own, folders or several of these, see `datasets/user/images.py`; labels are
            never read.
        name: what the checkpoint will be called, and the name of its folder.
        out: the zoo to write it into; None = the user's (`DENSEBENCH_ZOO`).
        resume: go on from the last checkpoint of an interrupted run (a finished one is returned as it is).
        overwrite: start over where the name is taken.
        preset: a named setting of the method; "": `embedded` on embedded data, else its first.
        overrides: config fields by name, values typed or as text.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        workers: loader processes; None = as many as spare cores, at most 8. They change no result.
        data_root: where the dataset lives on this machine.
        weights: local weights for a `timm/NAME` base.
        progress: show a bar when stderr is a terminal.

    Raises UsageError for a taken name, another config on resume and bad settings, DivergedError on NaN.
    """
    job = _job(method, base, data, preset, overrides or {}, data_root, weights)
    if "/" in name or name.startswith("."):
        raise UsageError(f"--name {name!r}: expected a plain name, such as {method}_{base.partition('?')[0]}.")
    config = job.config
    n_workers = _workers(workers)
    folder = (zoo_dir() if out is None else Path(out)) / name
    with (
        process_group(pick_device(device)) as (group, where),
        claim(folder, f"training {name}") if group.first else nullcontext(),
    ):
        if group.first:
            _check_free(folder, resume, overwrite)
            for sentence in job.dataset.left_out():
                Progress().say(sentence)
        group.wait()
        origin = {**job.origin, "data_digest": _digest(job.dataset, progress)}
        if resume and (folder / "card.json").exists() and not states(folder):
            finished = read_card(folder / "card.json")
            try:
                before = {**finished["config"], **_origin(finished)}
            except (KeyError, TypeError) as error:
                raise UsageError(f"{folder}/card.json lacks {error}; give --overwrite to train {name} anew.") from None
            check_same(name, before, _plain({**as_dict(config), **origin}))
            return TrainResult(name, folder, finished)
        images = _images(job.dataset, config, n_workers, progress)
        trainer = Trainer(job.method(), images, folder, where, n_workers, origin, group, job.preset)
        if states(folder):
            trainer.restore()
        command = _command(method, base, data, name, job.preset, overrides or {})
        try:
            with explained():
                trainer.run(progress)
            card = publish(trainer, job.dataset, job.architecture, name, command) if group.first else {}
        except StorageError as error:
            kept = " The last state stays: with --resume the run goes on from it." if states(folder) else ""
            raise StorageError(f"{error}{kept}") from error
        group.wait()
    return TrainResult(name, folder, card)


def cost(
    *,
    method: str,
    base: str,
    data: str,
    preset: str = "",
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    weights: str | Path | None = None,
    steps: int = 0,
) -> tuple[TrainingCost, TrainConfig]:
    """Return what a run of these settings will need, and its config; nothing is written.

    `steps` > 0 also measures images per second and where the time goes, over so many whole steps.
    """
    job = _job(method, base, data, preset, overrides or {}, data_root, weights)
    with tempfile.TemporaryDirectory() as folder:
        images = TrainingImages(job.dataset, job.config.images)
        trainer = Trainer(job.method(), images, Path(folder), torch.device(pick_device(device)), origin=job.origin)
        return (measure(trainer, steps) if steps else estimate(trainer)), job.config


@dataclass(frozen=True)
class _TrainingJob:
    """A training run whose arguments have been checked, and which has not begun."""

    kind: type[Method]
    config: TrainConfig
    preset: str
    backbone: Backbone
    dataset: DenseDataset
    architecture: Architecture
    origin: dict[str, str]

    def method(self) -> Method:
        return self.kind(self.backbone, self.config)


def _job(
    method: str,
    base: str,
    data: str,
    preset: str,
    overrides: Mapping[str, Any],
    data_root: str | Path | None,
    weights: str | Path | None,
) -> _TrainingJob:
    """Load what a run needs, refusing early what cannot work."""
    split = check_settings(method, preset, overrides)
    kind = METHODS[method]
    architecture = _architecture(base)
    backbone = load_model(base, weights)
    if os.environ.get("RANK", "0") == "0":
        for line in backbone.info.notes.get("loading", ()):
            print(line, file=sys.stderr)
    dataset = load_images(data, split, data_root)
    preset = preset or default_preset(kind.Config.presets, dataset.info.embedded)
    given = find_preset(method, kind.Config.presets, preset).settings
    config = apply_overrides(kind.Config(), {**given, **overrides})
    config = fitted(config, backbone.info, len(dataset), overrides)
    _check_sizes(backbone, config)
    origin = {
        "method": method,
        "base": base,
        "base_digest": backbone.weights_digest(),
        **kind.inputs(config, backbone.info, dataset),
    }
    if config.unit_gain and parse_spec(base, weights).random:
        unit_gain(backbone)
    return _TrainingJob(kind, config, preset, backbone, dataset, architecture, origin)


def _check_free(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a name that is in use, and drop the states of a run that is to be overwritten.

    What is overwritten stays until the new checkpoint takes its place.
    """
    interrupted = states(folder)
    if overwrite:
        for state in interrupted:
            state.unlink()
    elif interrupted and not resume:
        raise UsageError(f"{folder} holds an interrupted run; go on with --resume or start over with --overwrite.")
    elif (folder / "card.json").exists() and not resume:
        raise UsageError(f"{folder.name} exists in {folder.parent}; choose another --name or give --overwrite.")
    elif (folder / "weights.safetensors").exists() and not resume:
        raise UsageError(f"{folder} holds weights without a card; choose another --name or --out, or give --overwrite.")


def _origin(card: Mapping[str, Any]) -> dict[str, Any]:
    origin = {key: card[key] for key in ("method", "base", "base_digest")}
    return {**origin, "data_digest": card["data"]["digest"], **card.get("inputs", {})}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they look after a trip through JSON: tuples as lists."""
    return json.loads(json.dumps(values))


def _architecture(base: str) -> Architecture:
    """Return the architecture block of a base, which the new card will carry."""
    spec = parse_spec(base)
    if spec.family == "timm":
        import timm
        import timm.data

        from densebench.model_zoo.adapters.timm_nets import check_known

        check_known(spec)
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(spec.name).to_dict())
        return Architecture(
            timm=spec.name,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            native_size=int(config["input_size"][-1]),
        )
    if spec.family == "zoo":
        return find(spec)[2]
    raise ModelError(f"{base} has no timm architecture that a card could name; train it with your own code.")


def _check_sizes(backbone: Backbone, config: TrainConfig) -> None:
    patch = backbone.info.patch
    for field in ("global_size", "local_size") if config.local_crops else ("global_size",):
        size = getattr(config, field)
        if size % patch:
            raise UsageError(f"{field}={size} is not a multiple of the patch size of {backbone.info.name}, {patch}.")


def _digest(dataset: DenseDataset, progress: bool) -> str:
    """Return the digest of the images, which reads each file in full the first time: as much as an epoch reads.

    Names and sizes would be quicker and would not tell two uncompressed images apart, with pixels cached of the wrong
    one.
    """
    console = Console(stderr=True)
    with console.status(f"digest of {len(dataset)} images") if progress and console.is_terminal else nullcontext():
        return digest(dataset)


def _images(dataset: DenseDataset, config: TrainConfig, workers: int, progress: bool) -> TrainingImages:
    if config.cache is None:
        return TrainingImages(dataset, config.images)
    console = Console(stderr=True)
    with Bar(console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
        task = bar.add_task("decoding once")
        images = CachedImages(
            dataset,
            config.images,
            config.cache,
            workers,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    unreadable = np.flatnonzero(images.shapes[:, 0] == 0)
    if len(unreadable) and not config.skip_corrupt:
        try:
            images.pil(int(unreadable[0]))  # raises, and says what is wrong
        except CorruptFileError as error:
            others = f"{len(unreadable)} of {len(images)} images cannot be read; the first: "
            raise CorruptFileError(others + str(error), error.path, error.index) from error
    return images


def _workers(wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores - 1)


def _command(method: str, base: str, data: str, name: str, preset: str, overrides: Mapping[str, Any]) -> str:
    words = ["densebench", "train", method, "--base", base, "--data", data, "--name", name, "--preset", preset]
    return shlex.join([*words, *(part for k, v in overrides.items() for part in ("--set", f"{k}={v}"))])
