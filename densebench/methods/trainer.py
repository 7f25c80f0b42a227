"""One training loop for all methods: schedules, EMA, a log, checkpoints that survive a kill.

Nothing here draws from a running random state: order, crops, colours and torch's own generator are seeded by
(seed, epoch or step, sample). Hence a run that was killed and resumed ends in the same weights, bit for bit, as one
that was not (on a CPU with the same number of threads).
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from densebench.core.config import as_dict
from densebench.core.errors import DensebenchError, StorageError, UsageError
from densebench.core.paths import write_atomically
from densebench.core.states import read_state
from densebench.methods.crops import Crops, generator, make_views
from densebench.methods.data import TrainingImages, batches
from densebench.methods.distributed import ProcessGroup
from densebench.methods.method import Method, TrainConfig, update_teacher


class DivergedError(DensebenchError):
    """The loss or its gradient is no longer a finite number."""


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Return a half cosine from `start` (step 0) to `end`, which the step after the last would reach (NeCo, DINO)."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


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
    """The loop over one method: `folder` receives states and log.jsonl, `origin` is what a resumed run must share."""

    def __init__(
        self,
        method: Method,
        images: TrainingImages,
        folder: Path,
        device: torch.device,
        workers: int = 0,
        origin: Mapping[str, str] | None = None,
        group: ProcessGroup | None = None,
        preset: str = "",
    ) -> None:
        self.method = method.to(device)
        self.config: TrainConfig = method.config
        self.group = group or ProcessGroup()
        self.images = images
        self.samples = method.samples(images)
        self.folder = folder
        self.device = device
        self.workers = workers
        self.origin = dict(origin or {})
        self.left_out: set[str] = set()
        self.step = 0
        self.seconds = 0.0
        self.first_loss = self.last_loss = math.nan
        self._window: list[dict[str, float]] = []
        self.preset = preset
        self.lines: list[str] = []
        self.steps = len(self.samples) // self.config.batch * self.config.epochs
        if not self.steps:
            what = "images" if self.samples is images else "samples"
            raise UsageError(f"{len(self.samples)} {what} make no batch of {self.config.batch}; lower `batch`.")
        if self.config.batch % (self.config.accumulate * self.group.size):
            raise UsageError(
                f"batch={self.config.batch} cannot be computed by {self.group.size} processes in "
                f"accumulate={self.config.accumulate} equal parts each."
            )
        fused = device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.AdamW(
            parameter_groups(method.student), lr=self.config.lr, betas=(0.9, self.config.beta2), fused=fused
        )

    def run(self, progress: bool = True) -> None:
        """Train from the current step to the last, with a checkpoint every so often and after the last step."""
        config = self.config
        share = (self.group.rank, self.group.size)
        source = batches(
            self.samples, config, self.step, self.workers, self.device.type == "cuda", share, self.left_out
        )
        progress = progress and self.group.first
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
        method.training_mode()
        totals: dict[str, float] = {}
        for i, part in enumerate(parts(batch, config.accumulate), start=self.group.rank * config.accumulate):
            torch.manual_seed(int(generator(config.seed, step, i).integers(2**62)))
            views = make_views(part, config, (config.seed, step, i), self.device)
            views.progress = progress
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss, scalars = method.loss(views)
            (loss / config.accumulate).backward()
            for key, value in {"loss": loss, **scalars}.items():
                totals[key] = totals.get(key, 0.0) + float(value.detach()) / config.accumulate
        self.group.average_gradients(method.student.parameters())
        method.before_update(progress)
        limit = math.inf if config.clip is None else config.clip
        norm = float(nn.utils.clip_grad_norm_(method.student.parameters(), limit))
        totals = self.group.average(totals, self.device)
        if not (math.isfinite(totals["loss"]) and math.isfinite(norm)):
            raise DivergedError(
                f"step {step}: loss {totals['loss']}, gradient norm {norm}. The last good checkpoint stays in "
                f"{self.folder}; start over with a lower `lr` (now {config.lr}), a `clip`, or precision=fp32."
            )
        if config.min_shared or config.min_intersection:
            drawn, missed = batch.drawn.double().mean(0).tolist()
            crops = config.global_crops + config.local_crops
            totals |= {"crops_rejected": 1 - crops / drawn, "crops_off_rule": missed / crops}
        if method.teacher_first:
            update_teacher(method.teacher, method.student, momentum)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if not method.teacher_first:
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
        if not self.group.first:
            return
        self._window.append(scalars)
        if math.isnan(self.first_loss):
            self.first_loss = scalars["loss"]
        if self.step % self.config.log_every and self.step != self.steps:
            return
        means = {k: sum(w[k] for w in self._window) / len(self._window) for k in scalars}
        self._window.clear()
        self.last_loss = means["loss"]
        clock = {"images_per_second": rate, "seconds": self.seconds}
        ran = {} if self.lines or not self.preset else {"preset": self.preset}
        line = {"step": self.step, **ran, **{k: float(f"{v:.5g}") for k, v in {**means, **clock}.items()}}
        self.lines.append(json.dumps(line))
        write_atomically(self.folder / "log.jsonl", "\n".join(self.lines) + "\n")

    def save(self) -> None:
        """Write all that the rest of the run depends on; the last `keep` states stay."""
        if not self.group.first:
            return
        state = {
            "config": as_dict(self.config),
            "origin": self.origin,
            "step": self.step,
            "seconds": self.seconds,
            "losses": (self.first_loss, self.last_loss),
            "window": self._window,
            "left_out": sorted(self.left_out),
            "lines": self.lines,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / f"state-{self.step:07}.pt", buffer.getvalue())
        for old in states(self.folder)[: -self.config.keep]:
            old.unlink(missing_ok=True)

    def restore(self) -> None:
        """Go on from the last state that is whole.

        Raises UsageError when the config is another one, StorageError where no state can be read.
        """
        state = self._last_state()
        now = {**as_dict(self.config), **self.origin}
        then = {**state["config"], **state.get("origin", self.origin)}
        check_same(self.folder.name, then, now)
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.first_loss, self.last_loss = state["losses"]
        self._window, self.lines = state["window"], state["lines"]
        self.left_out = set(state["left_out"])

    def _last_state(self) -> dict[str, Any]:
        lost = []
        for path in reversed(states(self.folder)):
            try:
                state = read_state(path, self.device)
            except StorageError as error:
                lost.append(str(error))
                continue
            if lost and self.group.first:
                Console(stderr=True).print(f"{'; '.join(lost)}: going on from {path.name}.", soft_wrap=True)
            return state
        raise StorageError(f"{'; '.join(lost)}; start over with --overwrite.")


def states(folder: Path) -> list[Path]:
    """Return the training states in a folder, oldest first."""
    return sorted(folder.glob("state-*.pt"))


def check_same(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
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


def parts(batch: Crops, n: int) -> Iterator[Crops]:
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
