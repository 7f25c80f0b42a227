"""DINO: a student predicts, from any crop, the prototypes its EMA teacher assigns to another crop of the same image.

Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021: multi-crop, centring and
sharpening of the teacher, weight-normalised prototypes. The loss is image-level: no patch is compared with a patch.
The defaults are small, for a tiny ViT on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.core.errors import ModelError
from densebench.methods.configs.dino import DinoConfig
from densebench.methods.crops import CropViews
from densebench.methods.method import Branch, Method
from densebench.model_zoo.backbone import Backbone
from densebench.ops.precision import widen


class ProjectionHead(nn.Module):
    """MLP, l2 norm, and unit-length prototypes: (B, D) to (B, prototypes) cosines."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, norm: bool) -> None:
        super().__init__()

        def after(n: int) -> nn.Module:
            return nn.BatchNorm1d(n, track_running_stats=False) if norm else nn.Identity()

        self.mlp = nn.Sequential(
            *(nn.Linear(width, hidden), after(hidden), nn.GELU()),
            *(nn.Linear(hidden, hidden), after(hidden), nn.GELU()),
            *(nn.Linear(hidden, bottleneck), after(bottleneck)),
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, x: Tensor) -> Tensor:
        """Return the cosine of each projected feature with each prototype."""
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.prototypes, dim=-1))


class Dino(Method):
    """Image-level self-distillation with a centred, sharpened EMA teacher."""

    Config = DinoConfig
    citation = "Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021"
    config: DinoConfig
    centre: Tensor  # (K,)

    def __init__(self, base: Backbone, config: DinoConfig) -> None:
        super().__init__(base, config)
        if config.pool == "class" and not (base.info.has_class_token and base.info.prefix):
            raise ModelError(f"{base.info.name} has no class token; choose pool=mean.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            head = ProjectionHead(
                base.info.width, config.hidden, config.bottleneck, config.prototypes, config.head_norm
            )
        self.adopt(Branch(base, head))
        self.register_buffer("centre", torch.zeros(config.prototypes))

    def loss(self, views: CropViews) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of every student crop with both teacher crops, itself excepted (their eq. 3)."""
        student = torch.cat([self.scores(self.student, c) for c in (views.globals, views.locals) if len(c)])
        with torch.no_grad():
            target = self.assign(widen(self.scores(self.teacher, views.globals)))
        loss = cross_entropy(widen(student) / self.config.student_temperature, target)
        entropy = -torch.special.xlogy(target, target).sum(-1).mean()
        usage = target.mean((0, 1))
        return loss, {
            "teacher_entropy": entropy,  # log(prototypes) = collapse to uniform
            "usage_entropy": -torch.special.xlogy(usage, usage).sum(),  # 0 = collapse to one prototype
            "divergence": loss.detach() - entropy,
        }

    def scores(self, branch: Branch, crops: Tensor) -> Tensor:
        """Return prototype cosines (V, B, K) of crops (V, B, 3, S, S), all in one pass."""
        features = branch.backbone.dense(crops.flatten(0, 1))
        token = features.class_tokens[0] if self.config.pool == "class" else features.maps[0].mean((2, 3))
        return branch.head(token).unflatten(0, crops.shape[:2])

    def assign(self, scores: Tensor) -> Tensor:
        """Return the teacher's distributions (G, B, K) from its cosines."""
        config = self.config
        mean = scores.mean((0, 1))
        spread = (scores - mean).square().mean().sqrt().clamp_min(1e-6) if config.scale else 1.0
        if config.centring == "sinkhorn":
            return sinkhorn((scores - mean) / spread / config.teacher_temperature)
        target = ((scores - self.centre) / spread / config.teacher_temperature).softmax(-1)
        self.centre.lerp_(mean, 1 - config.centre_momentum)
        return target

    def before_update(self, progress: float) -> None:
        """Hold the prototypes still at the start."""
        if progress < self.config.freeze_prototypes:
            self.student.head.prototypes.grad = None


def sinkhorn(logits: Tensor, rounds: int = 3) -> Tensor:
    """Return distributions over prototypes (..., K) that use all prototypes equally over the batch, nearly.

    Alternately scales columns (prototypes) and rows (crops) of exp(logits) to equal sums; rows come last and sum to 1.
    """
    log_q = logits.flatten(0, -2)
    for _ in range(rounds):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp().view(logits.shape)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -sum p log q, mean over images and over pairs of (teacher crop, another student crop).

    Args:
        logits: student scores over temperature, (V, B, K); the first G crops are the teacher's.
        target: teacher distributions, (G, B, K).
    """
    log_q = logits.log_softmax(-1)
    pairs = -torch.einsum("gbk,vbk->gv", target, log_q) / logits.shape[1]
    n, same = pairs.numel(), min(pairs.shape)
    if n == same:
        raise ValueError("one crop in all: nothing to compare")
    return (pairs.sum() - pairs.diagonal().sum()) / (n - same)
