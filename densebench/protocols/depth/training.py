"""Training linear depth heads, and choosing among their learning rates.

A killed cell goes on where it last saved and ends with the same numbers: what a step sees depends on (seed, epoch,
image) alone, and heads and optimisers are all that it leaves behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DenseDataset
from densebench.ops import depth as ops
from densebench.protocols.common.checkpoint import Checkpoint
from densebench.protocols.depth.heads import DepthPlan, Encoder, Trained, errors_of, new_head, predict, views_of
from densebench.protocols.protocol import Context
from densebench.views.order import load_views

if TYPE_CHECKING:
    from densebench.protocols.depth.config import DepthConfig


def train_heads(
    config: DepthConfig, plan: DepthPlan, encoder: Encoder, train: DenseDataset, context: Context
) -> tuple[list[Trained], float, dict[str, float]]:
    """Return the trained heads, the mean training depth in metres, and each head's mean loss over its last steps."""
    training = _HeadsTraining(config, plan, encoder, context)
    checkpoint = Checkpoint.of(context, config, (train,), config.checkpoint_seconds)
    found = checkpoint.load()
    if found is not None:
        training.load_state_dict(found["training"])
        context.progress.say(f"depth heads: {training.done} of {plan.steps} steps were done before.")
    views, left = views_of(train, config, context.seed), plan.steps - training.done
    stream = load_views(views, plan.keys(training.done), context.features.workers, stack=False)
    stream = context.timed(stream, "load")
    for indices, images, depths in context.progress.track(stream, "training depth heads", left, unit="steps"):
        with context.stage("features"):
            channels = encoder(torch.stack(images), [train.ids[i] for i in indices])
        with context.stage("training"):
            training.step(channels, torch.stack(depths).to(context.features.device))
        if checkpoint.due or training.done == plan.steps:
            with context.stage("checkpoint"):
                checkpoint.save({"training": training.state_dict()})
    if not training.pixels:
        raise DatasetError(f"{train.info.name} {train.split}: no pixel of the training images has a depth above 0.")
    for h in training.heads:
        h.head.eval()
    last = {h.label: sum(x) / len(x) for h, x in zip(training.heads, training.losses, strict=True)}
    return training.heads, training.metres / training.pixels, last


class _HeadsTraining:
    """Heads on their way, and all that it takes to go on."""

    def __init__(self, config: DepthConfig, plan: DepthPlan, encoder: Encoder, context: Context) -> None:
        self.config, self.plan = config, plan
        device, decay = context.features.device, config.weight_decay
        made = [new_head(config, encoder.channels(n), n, context.seed).to(device) for n, _ in plan.heads]
        self.heads = [Trained(*key, head) for key, head in zip(plan.heads, made, strict=True)]
        self.optimisers = [torch.optim.AdamW(h.head.parameters(), lr=h.rate, weight_decay=decay) for h in self.heads]
        self.losses: list[list[float]] = [[] for _ in self.heads]  # of the last steps
        self.metres, self.pixels, self.done = 0.0, 0, 0  # sum and number of depths seen, and steps

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

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be kept."""
        return {
            "heads": [h.head.state_dict() for h in self.heads],
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "losses": self.losses,
            "counts": [self.metres, self.pixels, self.done],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where another training of the same settings was."""
        for h, head in zip(self.heads, state["heads"], strict=True):
            h.head.load_state_dict(head)
        for optimiser, moments in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(moments)
        self.losses = state["losses"]
        self.metres, self.pixels, self.done = state["counts"]


def choose(
    config: DepthConfig,
    plan: DepthPlan,
    encoder: Encoder,
    trained: list[Trained],
    train: DenseDataset,
    context: Context,
) -> tuple[list[Trained], dict[str, float]]:
    """Return, for each number of layers, the head with the lowest RMSE on held-out training images; and all RMSEs."""
    rmse = [0.0] * len(trained)  # without images to choose by, the first rate stays
    if plan.held_out:
        means = [ops.ImageMean((len(ops.ERRORS),), n_groups=1) for _ in trained]
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
