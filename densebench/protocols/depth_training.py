"""Training linear depth heads, and choosing among their learning rates.

A killed cell goes on where it last saved and ends with the same numbers: what a step sees depends on (seed, epoch,
image) alone, and heads and optimisers are all that it leaves behind.
"""

from __future__ import annotations

import io
import pickle
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from densebench.datasets.dataset import DenseDataset
from densebench.errors import DatasetError, StorageError
from densebench.ops import depth as ops
from densebench.paths import write_atomically
from densebench.protocols.depth_heads import (
    Encoder,
    Plan,
    Trained,
    errors_of,
    load_views,
    new_head,
    predict,
    views_of,
)
from densebench.protocols.protocol import Context

if TYPE_CHECKING:
    from densebench.protocols.depth import DepthConfig

SAVE_SECONDS = 60.0
"""How often training is saved, so that a kill costs no more."""
UNREADABLE = (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError)


def train_heads(
    config: DepthConfig, plan: Plan, encoder: Encoder, train: DenseDataset, context: Context
) -> tuple[list[Trained], float, dict[str, float]]:
    """Return the trained heads, the mean training depth in metres, and each head's mean loss over its last steps."""
    training = _Training(config, plan, encoder, context)
    stream = load_views(views_of(train, config, context.seed), plan.batches(training.done), context)
    stream = context.timed(stream, "load")
    left = plan.steps - training.done
    for indices, images, depths in context.progress.track(stream, "training depth heads", left, unit="steps"):
        with context.stage("features"):
            found = encoder(torch.stack(images), [train.ids[i] for i in indices])
        with context.stage("training"):
            training.step(found, torch.stack(depths).to(context.features.device))
        with context.stage("save"):
            training.save()
    if not training.pixels:
        raise DatasetError(f"{train.info.name} {train.split}: no pixel of the training images has a depth above 0.")
    for h in training.heads:
        h.head.eval()
    last = {h.label: sum(x) / len(x) for h, x in zip(training.heads, training.losses, strict=True)}
    return training.heads, training.metres / training.pixels, last


class _Training:
    """Heads on their way, and all that it takes to go on."""

    def __init__(self, config: DepthConfig, plan: Plan, encoder: Encoder, context: Context) -> None:
        self.config, self.plan, self.context = config, plan, context
        device, decay = context.features.device, config.weight_decay
        self.heads = [
            Trained(n, rate, new_head(config, encoder.channels(n), context.seed).to(device)) for n, rate in plan.heads
        ]
        self.optimisers = [torch.optim.AdamW(h.head.parameters(), lr=h.rate, weight_decay=decay) for h in self.heads]
        self.losses: list[list[float]] = [[] for _ in self.heads]  # of the last steps
        self.metres, self.pixels, self.done = 0.0, 0, 0  # sum and number of depths seen, and steps
        self.path = None if context.workspace is None else context.workspace / "heads.pt"
        self.saved = time.monotonic()
        self._restore()

    def step(self, found: dict[int, Tensor], target: Tensor) -> None:
        """Train every head on features {layers: (B, C, h, w)} and depth (B, H, W)."""
        config, steps = self.config, self.plan.steps
        self.metres += float(target.double().sum())
        self.pixels += int((target > 0).sum())
        share, beta = ops.rate_and_beta(self.done, steps, config.schedule, config.warmup)
        warm_up = self.done < round(config.loss_warmup * steps)
        for h, optimiser, losses in zip(self.heads, self.optimisers, self.losses, strict=True):
            optimiser.param_groups[0].update(lr=share * h.rate, betas=(beta, config.beta2))
            optimiser.zero_grad()
            losses.append(
                h.head.add_gradient(found[h.layers], target, config.images_per_loss, warm_up, config.gradient_loss)
            )
            nn.utils.clip_grad_norm_(h.head.parameters(), config.clip)
            optimiser.step()
            del losses[:-100]
        self.done += 1

    def save(self) -> None:
        """Write the state where there is a place for it, now and then and after the last step."""
        now = time.monotonic()
        if self.path is None or (now - self.saved < SAVE_SECONDS and self.done < self.plan.steps):
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "labels": [h.label for h in self.heads],
                "heads": [h.head.state_dict() for h in self.heads],
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "losses": self.losses,
                "counts": [self.metres, self.pixels, self.done],
            },
            buffer,
        )
        try:
            write_atomically(self.path, buffer.getvalue())
        except StorageError as error:
            self.context.progress.say(f"training goes on, but a kill would lose it: {error}")
            self.path = None
        self.saved = now

    def _restore(self) -> None:
        """Take up what an earlier process saved; a torn file is said and left aside."""
        if self.path is None or not self.path.exists():
            return
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=self.context.features.device, weights_only=True)
            if state["labels"] != [h.label for h in self.heads]:
                raise ValueError("it holds other heads")
            counts = state["counts"]
        except UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.context.progress.say(f"{self.path} cannot be read ({reason}); training starts from its first step.")
            return
        for h, optimiser, head, moments in zip(
            self.heads, self.optimisers, state["heads"], state["optimisers"], strict=True
        ):
            h.head.load_state_dict(head)
            optimiser.load_state_dict(moments)
        self.losses = state["losses"]
        self.metres, self.pixels, self.done = counts
        self.context.progress.say(f"depth heads: {self.done} of {self.plan.steps} steps were done before.")


def choose(
    config: DepthConfig,
    plan: Plan,
    encoder: Encoder,
    trained: list[Trained],
    train: DenseDataset,
    context: Context,
) -> tuple[list[Trained], dict[str, float]]:
    """Return, for each number of layers, the head with the lowest RMSE on held-out training images; and all RMSEs."""
    rmse = [0.0] * len(trained)  # without images to choose by, the first rate stays
    if plan.held_out:
        means = [ops.ImageMean((len(ops.ERRORS),), n_replicates=1) for _ in trained]
        plain = replace(config, flip_test=False)
        stream = predict(plain, encoder, trained, train, plan.held_out, "choosing learning rates", context)
        for index, _, depth, predictions in stream:
            for mean, prediction in zip(means, predictions, strict=True):
                mean.update(index, errors_of(config, prediction, depth))
        rmse = [float(mean.mean()[ops.ERRORS.index("rmse")]) for mean in means]
    found: dict[int, tuple[float, Trained]] = {}
    for h, value in zip(trained, rmse, strict=True):
        if h.layers not in found or value < found[h.layers][0]:
            found[h.layers] = value, h
    searched = {h.label: value for h, value in zip(trained, rmse, strict=True)} if plan.held_out else {}
    return [h for _, h in found.values()], searched
