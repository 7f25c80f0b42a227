"""One training loop for all methods: schedules, EMA, checkpoints that survive a kill, and a zoo checkpoint at the end.

Nothing here draws from a running random state: order, crops, colours and torch's own generator are seeded by
(seed, epoch or step, sample). Hence a run that was killed and resumed ends in the same weights, bit for bit, as one
that was not (on a CPU with the same number of threads).
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import json
import math
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save
from torch import Tensor, nn

from densebench.config import apply_overrides, as_dict
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.dataset import DenseDataset
from densebench.errors import DensebenchError, ModelError, StorageError, UsageError
from densebench.methods import METHODS
from densebench.methods.crops import Crops, generator, make_views
from densebench.methods.data import CachedImages, Images, batches
from densebench.methods.method import Method, TrainConfig, update_teacher
from densebench.model_zoo import load_model, parse_spec
from densebench.model_zoo.backbone import Backbone
from densebench.model_zoo.zoo import ARCHITECTURES, Architecture, read_card
from densebench.paths import write_atomically, zoo_dir


class DivergedError(DensebenchError):
    """The loss or its gradient is no longer a finite number."""


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind."""

    name: str
    folder: Path
    """Holds weights.safetensors, card.json and log.jsonl."""
    card: dict[str, Any]

    def __str__(self) -> str:
        c = self.card
        return (
            f"{self.name}: {c['method']} on {c['data']['name']}/{c['data']['split']}, {c['steps']} steps, "
            f"{c['images_seen']} images in {c['seconds']:.0f} s ({c['images_per_second']:.1f}/s), "
            f"loss {c['loss_first']:.4f} -> {c['loss_last']:.4f}; {self.folder}"
        )


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Return a half cosine from `start` (step 0) to `end` (step `steps` - 1)."""
    share = min(1.0, step / max(1, steps - 1))
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def warm_cosine(peak: float, end: float, step: int, steps: int, warmup: int) -> float:
    """Return a linear rise to `peak` over `warmup` steps (the first is 1/warmup of it), then a half cosine to `end`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(peak, end, step - warmup, steps - warmup)


def parameter_groups(student: nn.Module) -> list[dict[str, Any]]:
    """Return four groups: backbone and rest, with and without weight decay (biases and vectors have none)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone."), parameter.ndim > 1 and not name.endswith(".bias"))
            groups.setdefault(key, []).append(parameter)
    return [{"params": p, "backbone": key[0], "decay": key[1]} for key, p in sorted(groups.items(), reverse=True)]


class Trainer:
    """The loop over one method: `folder` receives state.pt and log.jsonl, `origin` is what a resumed run must share."""

    def __init__(
        self,
        method: Method,
        images: Images,
        folder: Path,
        device: torch.device,
        workers: int = 0,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self.method = method.to(device)
        self.config: TrainConfig = method.config
        self.images = images
        self.folder = folder
        self.device = device
        self.workers = workers
        self.origin = dict(origin or {})
        self.step = 0
        self.seconds = 0.0
        self.first_loss = self.last_loss = math.nan
        self._window: list[dict[str, float]] = []
        self._lines: list[str] = []
        self.steps = len(images) // self.config.batch * self.config.epochs
        if not self.steps:
            raise UsageError(f"{len(images)} images make no batch of {self.config.batch}; lower `batch`.")
        fused = device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.AdamW(
            parameter_groups(method.student), lr=self.config.lr, betas=(0.9, self.config.beta2), fused=fused
        )

    def run(self, progress: bool = True) -> None:
        """Train from the current step to the last, with a checkpoint every so often and after the last step."""
        config = self.config
        source = batches(self.images, config, self.step, self.workers, self.device.type == "cuda")
        with torch.random.fork_rng(devices=[]), _progress_bar(self.steps, self.step, progress) as show:
            began, done = time.perf_counter(), self.seconds
            first = self.step
            for batch in source:
                scalars = self.update(batch)
                self.step += 1
                self.seconds = done + time.perf_counter() - began
                rate = (self.step - first) * config.batch / (self.seconds - done)
                show(self.step, scalars["loss"], rate)
                self._log(scalars, rate)
                if self.step % config.checkpoint_every == 0 or self.step == self.steps:
                    self.save()

    def update(self, batch: Crops) -> dict[str, float]:
        """Do one optimiser step on one batch and return its scalars; raises DivergedError before any harm is done."""
        config, method, step = self.config, self.method, self.step
        progress = step / self.steps
        scheduled = self._schedule(step)
        momentum = cosine(config.momentum, config.momentum_end, step, self.steps)
        torch.manual_seed(int(generator(config.seed, step).integers(2**62)))
        method.student.train()
        method.teacher.eval()
        totals: dict[str, float] = {}
        for i, part in enumerate(_parts(batch, config.accumulate)):
            views = make_views(part, config, (config.seed, step, i), self.device)
            views.progress = progress
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss, scalars = method.loss(views)
            (loss / config.accumulate).backward()
            for key, value in {"loss": loss, **scalars}.items():
                totals[key] = totals.get(key, 0.0) + float(value.detach()) / config.accumulate
        method.before_update(progress)
        limit = math.inf if config.clip is None else config.clip
        norm = float(nn.utils.clip_grad_norm_(method.student.parameters(), limit))
        if not (math.isfinite(totals["loss"]) and math.isfinite(norm)):
            raise DivergedError(
                f"step {step}: loss {totals['loss']}, gradient norm {norm}. The last good checkpoint stays in "
                f"{self.folder}; start over with a lower `lr` (now {config.lr}), a `clip`, or precision=fp32."
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        update_teacher(method.teacher, method.student, momentum)
        return {**totals, "grad_norm": norm, "momentum": momentum, **scheduled}

    def _schedule(self, step: int) -> dict[str, float]:
        """Set learning rates and weight decay of a step."""
        c = self.config
        warmup = round(c.warmup * self.steps)
        head_lr = c.lr if c.head_lr is None else c.head_lr
        rates = {peak: warm_cosine(peak, c.lr_end, step, self.steps, warmup) for peak in (c.lr, head_lr)}
        decay = cosine(c.weight_decay, c.weight_decay_end, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rates[c.lr if group["backbone"] else head_lr]
            group["weight_decay"] = decay if group["decay"] else 0.0
        return {"lr": rates[c.lr], "weight_decay": decay}

    def _log(self, scalars: dict[str, float], rate: float) -> None:
        self._window.append(scalars)
        if math.isnan(self.first_loss):
            self.first_loss = scalars["loss"]
        if self.step % self.config.log_every and self.step != self.steps:
            return
        means = {k: sum(w[k] for w in self._window) / len(self._window) for k in scalars}
        self._window.clear()
        self.last_loss = means["loss"]
        clock = {"images_per_second": rate, "seconds": self.seconds}
        line = {"step": self.step, **{k: float(f"{v:.5g}") for k, v in {**means, **clock}.items()}}
        self._lines.append(json.dumps(line))
        write_atomically(self.folder / "log.jsonl", "\n".join(self._lines) + "\n")

    def save(self) -> None:
        """Write state.pt: all that the rest of the run depends on."""
        state = {
            "config": as_dict(self.config),
            "origin": self.origin,
            "step": self.step,
            "seconds": self.seconds,
            "losses": (self.first_loss, self.last_loss),
            "window": self._window,
            "lines": self._lines,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / "state.pt", buffer.getvalue())

    def restore(self) -> None:
        """Go on from state.pt; raises UsageError when the config is another one."""
        path = self.folder / "state.pt"
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # a foreign or damaged file fails in many ways
            raise StorageError(f"{path} cannot be read ({error}); start over with --overwrite.") from error
        now = {**as_dict(self.config), **self.origin}
        then = {**state["config"], **state.get("origin", self.origin)}
        _check_same(self.folder.name, then, now)
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.first_loss, self.last_loss = state["losses"]
        self._window, self._lines = state["window"], state["lines"]


def _check_same(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageError naming all settings that differ between a run and its resumption."""
    free = {f.name for f in dataclasses.fields(TrainConfig) if f.metadata.get("free")}
    changed = [
        f"{key} was {then.get(key)}, now {now.get(key)}"
        for key in sorted(now.keys() | then.keys())
        if key not in free and then.get(key) != now.get(key)
    ]
    if changed:
        raise UsageError(
            f"cannot resume {name}: {'; '.join(changed)}. "
            "Give the settings it was started with, or start over with --overwrite."
        )


def _parts(batch: Crops, n: int) -> Iterator[Crops]:
    """Split a batch into `n` equal parts."""
    names = [f.name for f in dataclasses.fields(Crops)]
    for tensors in zip(*(getattr(batch, name).chunk(n) for name in names), strict=True):
        yield Crops(*tensors)


@contextmanager
def _progress_bar(total: int, done: int, wanted: bool) -> Iterator[Any]:
    """Yield show(step, loss, images per second): a bar on stderr, silent where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[rate]:.1f} images/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (wanted and console.is_terminal)) as bar:
        task = bar.add_task("training", total=total, completed=done, loss=math.nan, rate=0.0)
        yield lambda step, loss, rate: bar.update(task, completed=step, loss=loss, rate=rate)


def train(
    *,
    method: str,
    base: str,
    data: str,
    name: str,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
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
        data: a dataset name; labels are never read.
        name: what the checkpoint will be called, and the name of its folder.
        out: the zoo to write it into; None = the user's (`DENSEBENCH_ZOO`).
        resume: go on from the last checkpoint of an interrupted run (a finished one is returned as it is).
        overwrite: start over where the name is taken.
        overrides: config fields by name, values typed or as text.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        workers: loader processes; None = as many as spare cores, at most 8. They change no result.
        data_root: where the dataset lives on this machine.
        weights: local weights for a `timm/NAME` base.
        progress: show a bar when stderr is a terminal.

    Raises UsageError for a taken name, another config on resume and bad settings, DivergedError on NaN.
    """
    kind = METHODS[method]
    config = apply_overrides(kind.Config(), overrides or {})
    if "/" in name or name.startswith("."):
        raise UsageError(f"--name {name!r}: expected a plain name, such as {method}_{base.partition('?')[0]}.")
    architecture = _architecture(base)
    backbone = load_model(base, weights)
    _check_sizes(backbone, config)
    dataset = load_dataset(data, _split(data, config), data_root)
    origin = {
        "method": method,
        "base": base,
        "base_digest": backbone.weights_digest(),
        "data_digest": dataset.digest(),
    }
    n_workers = _workers(workers)
    where = _device(device)
    with _claim(zoo_dir() if out is None else Path(out), name) as folder:
        finished = _taken(folder, resume, overwrite)
        if finished is not None:
            _check_same(name, {**finished["config"], **_origin(finished)}, _plain({**as_dict(config), **origin}))
            return TrainResult(name, folder, finished)
        images = _images(dataset, config, n_workers, progress)
        trainer = Trainer(kind(backbone, config), images, folder, where, n_workers, origin)
        if (folder / "state.pt").exists():
            trainer.restore()
        else:
            trainer.method.prepare(images, parse_spec(base, weights).random)
        trainer.run(progress)
        command = _command(method, base, data, name, overrides or {})
        card = _publish(trainer, dataset, architecture, name, command)
    return TrainResult(name, folder, card)


@contextmanager
def _claim(zoo: Path, name: str) -> Iterator[Path]:
    """Yield the folder of a checkpoint while no other process trains it; an empty one is removed again."""
    folder = zoo / name
    lock = FileLock(zoo / f".{name}.lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError(f"another process is training {name} in {folder}.") from None
    except OSError as error:
        raise StorageError(f"cannot write {folder} ({error.strerror or error}); choose another --out.") from error
    try:
        yield folder
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        if not any(folder.iterdir()):
            folder.rmdir()


def _taken(folder: Path, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Refuse a name that is in use; return the card of a finished run that `resume` asks for.

    What is overwritten stays until the new checkpoint takes its place.
    """
    card, state = folder / "card.json", folder / "state.pt"
    if overwrite:
        state.unlink(missing_ok=True)
    elif state.exists() and not resume:
        raise UsageError(f"{folder} holds an interrupted run; go on with --resume or start over with --overwrite.")
    elif card.exists() and not state.exists():
        if resume:
            return json.loads(card.read_text())
        raise UsageError(f"{folder.name} exists in {folder.parent}; choose another --name or give --overwrite.")
    return None


def _origin(card: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: card[key] for key in ("method", "base", "base_digest")}, "data_digest": card["data"]["digest"]}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they look after a trip through JSON: tuples as lists."""
    return json.loads(json.dumps(values))


def _architecture(base: str) -> Architecture:
    """Return the architecture block of a base, which the new card will carry."""
    spec = parse_spec(base)
    if spec.family == "timm":
        import timm
        import timm.data

        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(spec.name).to_dict())
        return Architecture(
            timm=spec.name,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            native_size=int(config["input_size"][-1]),
        )
    if spec.family == "zoo" and spec.name in ARCHITECTURES:
        return ARCHITECTURES[spec.name]
    if spec.family == "zoo":
        path = Path(spec.name)
        card = json.loads((path.parent / "card.json").read_text()) if path.suffix else read_card(spec.name)
        return Architecture(**card["architecture"])
    raise ModelError(f"{base} has no timm architecture that a card could name; train it with your own code.")


def _check_sizes(backbone: Backbone, config: TrainConfig) -> None:
    patch = backbone.info.patch
    for field in ("global_size", "local_size"):
        size = getattr(config, field)
        if size % patch:
            raise UsageError(f"{field}={size} is no multiple of the patch size of {backbone.info.name}, {patch}.")


def _split(data: str, config: TrainConfig) -> str:
    info = DATASETS[data].info
    return config.split or ("unlabelled" if "unlabelled" in info.splits else info.train)


def _images(dataset: DenseDataset, config: TrainConfig, workers: int, progress: bool) -> Images:
    if config.cache is None:
        return Images(dataset, config.images)
    console = Console(stderr=True)
    with Progress(console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
        task = bar.add_task("decoding once")
        return CachedImages(
            dataset,
            config.images,
            config.cache,
            workers,
            lambda done, total: bar.update(task, completed=done, total=total),
        )


def _workers(wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores - 1)


def _device(wanted: str) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _command(method: str, base: str, data: str, name: str, overrides: Mapping[str, Any]) -> str:
    settings = [part for k, v in overrides.items() for part in ("--set", f"{k}={v}")]
    return shlex.join(["densebench", "train", method, "--base", base, "--data", data, "--name", name, *settings])


def _publish(
    trainer: Trainer, dataset: DenseDataset, architecture: Architecture, name: str, command: str
) -> dict[str, Any]:
    """Write weights and, last, the card that makes the folder a zoo checkpoint; drop the training state."""
    config, folder = trainer.config, trainer.folder
    branch = trainer.method.teacher if config.export == "teacher" else trainer.method.student
    dtype = torch.float16 if config.weights == "fp16" else torch.float32
    state: dict[str, Tensor] = {
        k: v.detach().cpu().to(dtype if v.is_floating_point() else v.dtype).contiguous()
        for k, v in branch.backbone.net.state_dict().items()  # type: ignore[union-attr]
    }
    blob = save(state, {"format": "pt", "densebench": name, "method": trainer.origin["method"]})
    write_atomically(folder / "weights.safetensors", blob)
    card = {
        "schema": 1,
        "name": name,
        "command": command,
        **{key: trainer.origin[key] for key in ("method", "base", "base_digest")},
        "architecture": dataclasses.asdict(architecture),
        "weights": {"format": config.weights, "sha256": hashlib.sha256(blob).hexdigest(), "branch": config.export},
        "data": {
            "name": dataset.info.name,
            "split": dataset.split,
            "images": len(trainer.images),
            "digest": trainer.origin["data_digest"],
            "version": getattr(dataset, "version", None),  # of a renderer
        },
        "config": as_dict(config),
        "seed": config.seed,
        "steps": trainer.steps,
        "images_seen": trainer.steps * config.batch,
        "seconds": round(trainer.seconds, 1),
        "images_per_second": round(trainer.steps * config.batch / max(trainer.seconds, 1e-9), 2),
        "loss_first": trainer.first_loss,
        "loss_last": trainer.last_loss,
        "peak_memory_bytes": _peak_memory(trainer.device),
        "hardware": _hardware(trainer.device),
        "versions": _versions(),
        "git": _git_hash(),
        "date": datetime.date.today().isoformat(),
        "licence": "Apache-2.0",
        "citation": trainer.method.citation,
    }
    write_atomically(folder / "card.json", json.dumps(card, indent=2) + "\n")
    (folder / "state.pt").unlink(missing_ok=True)
    return _plain(card)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("densebench", "torch", "timm", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "?"
    return found


def _git_hash() -> str | None:
    """Return the commit of the checkout this runs from, "-dirty" when changed; None outside one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
