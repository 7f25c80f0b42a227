from __future__ import annotations

import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from densebench.cli import main
from densebench.core.config import apply_overrides
from densebench.datasets import DATASETS
from densebench.figures.training import curves
from densebench.methods.cost import TrainingCost, count, rough_flops
from densebench.methods.launch import cost
from densebench.methods.paka import PakaConfig
from densebench.model_zoo import load_model

from . import toy
from .test_aligned import SMALL, paka, views


@pytest.fixture(autouse=True)
def _boards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.setattr(DATASETS, "_loaded", dict(DATASETS._loaded))
    toy.register()


def estimate(**settings: Any) -> TrainingCost:
    return cost(
        method="paka", base="pico?random", data="boards", device="cpu", overrides={**SMALL, **settings}
    )[0]  # fmt: skip


def test_what_is_kept_is_counted_once_per_storage() -> None:
    """A product of two activations keeps both; a view of one of them adds nothing."""

    class Product(torch.nn.Module):
        def loss(self, views: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            a, b = torch.ones(100, requires_grad=True), torch.ones(100, requires_grad=True)
            return ((a * b) * a.view(10, 10).flatten()).sum(), {}

    kept, _ = count(Product(), None)  # type: ignore[arg-type]
    assert kept == 3 * 400  # a, b and their product


def test_arithmetic_is_counted_forward_and_backward() -> None:
    class Matrices(torch.nn.Module):
        def loss(self, views: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            a, b = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
            return (a @ b).sum(), {}

    _, flops = count(Matrices(), None)  # type: ignore[arg-type]
    assert flops == 3 * (2 * 3 * 5 * 7)  # the product, and one for each factor's gradient


def test_the_rough_count_is_near_the_exact_one() -> None:
    """It leaves out heads, the patch embedding and what a loss takes."""
    info = load_model("pico?random").info
    sides = {"global_size": 96, "local_size": 48, "local_crops": 2}
    rough = rough_flops(apply_overrides(PakaConfig(), {**SMALL, **sides}), info)
    assert 0.5 < rough / estimate(**sides).flops < 1.1


def test_memory_grows_with_crops_and_shrinks_with_recomputation() -> None:
    small, more, again = estimate(), estimate(local_crops=6), estimate(checkpointing=True)
    assert small.per_image < more.per_image
    assert again.per_image < 0.6 * small.per_image
    assert small.fixed == pytest.approx(more.fixed, rel=1e-3)
    assert small.fixed > 3 * 4 * 1_000_000
    assert small.steps == 30 // 4 * PakaConfig.epochs


def test_half_precision_keeps_less() -> None:
    full, half = estimate(), estimate(precision="bf16")
    assert half.per_image < 0.8 * full.per_image
    assert half.flops == full.flops


def test_per_image_memory_is_linear_in_the_batch() -> None:
    method = paka()
    (two, few), (four, many) = (count(method, views(method.config, n)) for n in (2, 4))
    assert two * 2 == pytest.approx(four, rel=0.02)
    assert few * 2 == pytest.approx(many, rel=0.02)


def test_the_largest_part_leaves_a_tenth_alone() -> None:
    found = TrainingCost(
        images=100, steps=10, part=8, fixed=200, per_image=50, flops=1, flops_outside=0.0, available=1000
    )
    assert found.largest == 14
    tight = replace(found, per_image=250)
    assert any("set accumulate=4" in line for line in tight.lines(PakaConfig(**SMALL)))


def test_the_command_line_prints_needs_and_speed_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for k, v in SMALL.items() for part in ("--set", f"{k}={v}")]
    where = ["--base", "pico?random", "--data", "boards", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main(["train", "paka", *where, "--name", "none", "--dry-run", *settings])
    assert end.value.code == 0
    dry = capsys.readouterr().out
    assert "memory per image" in dry
    assert "images per second " not in dry
    with pytest.raises(SystemExit):
        main(["show", "method", "paka", "--cost", *where, "--steps", "1", *settings])
    measured = capsys.readouterr().out
    for row in ("images per second", "hours", "time outside the backbone"):
        assert row in measured
    with pytest.raises(SystemExit) as refused:
        main(["show", "model", "pico", "--cost"])
    assert refused.value.code == 2


def test_a_log_becomes_a_picture() -> None:
    lines = [json.dumps({"step": s, "loss": 1 / s, "lr": 1e-3 * s, "rare": s} if s > 2 else {"step": s, "loss": 1.0})
             for s in range(1, 9)]  # fmt: skip
    with Image.open(io.BytesIO(curves(lines, "mine"))) as picture:
        assert picture.size[0] > 500


def test_a_run_leaves_its_picture() -> None:
    with tempfile.TemporaryDirectory() as folder:
        toy.run("mine", epochs=1, out=folder)
        assert {p.name for p in (Path(folder) / "mine").iterdir()} == {
            "card.json", "log.jsonl", "log.png", "weights.safetensors",
        }  # fmt: skip
