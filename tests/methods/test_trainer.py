from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save

from densebench.core.errors import CorruptFileError, StorageError, UsageError
from densebench.core.paths import zoo_dir
from densebench.datasets import DATASETS
from densebench.methods import METHODS, trainer
from densebench.methods.card import _in_order
from densebench.methods.data import CachedImages, TrainingImages, batches
from densebench.methods.dino import Dino, DinoConfig
from densebench.methods.trainer import DivergedError, cosine, parameter_groups, states, warm_cosine
from densebench.model_zoo import load_model

from . import toy

STEPS = 14  # 30 images in batches of 4, the rest left out, 2 epochs


@pytest.fixture(autouse=True)
def _boards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.setattr(DATASETS, "_loaded", dict(DATASETS._loaded))
    toy.register()


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(zoo_dir() / name / "weights.safetensors")


def assert_same(one: str, other: str) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def last_state(name: str) -> dict[str, Any]:
    return torch.load(states(zoo_dir() / name)[-1], weights_only=True)


def break_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Make the trainer fail in the step after `steps` of this session."""
    update, left = trainer.Trainer.update, [steps]

    def failing(self: Any, batch: Any) -> Any:
        if not left[0]:
            raise RuntimeError("power cut")
        left[0] -= 1
        return update(self, batch)

    monkeypatch.setattr(trainer.Trainer, "update", failing)


def test_schedules_start_and_end_where_they_should() -> None:
    assert cosine(0.9, 1.0, 0, 10) == pytest.approx(0.9)
    assert 0.99 < cosine(0.9, 1.0, 9, 10) < cosine(0.9, 1.0, 10, 10) == pytest.approx(1.0)
    assert cosine(2.0, 0.0, 5, 10) == pytest.approx(1.0)
    rates = [warm_cosine(1.0, 0.1, step, 20, 4) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert 0.1 < rates[-1] < 0.11
    assert warm_cosine(1.0, 0.0, 0, 1, 0) == pytest.approx(1.0)


def test_groups_cover_the_student_once_and_spare_vectors_from_decay() -> None:
    student = Dino(load_model("pico?random"), DinoConfig()).student
    groups = parameter_groups(student)
    assert [(g["backbone"], g["decay"]) for g in groups] == [(True, True), (True, False), (False, True), (False, False)]
    assert sum(len(g["params"]) for g in groups) == len(list(student.parameters()))
    assert all(p.ndim > 1 for g in groups if g["decay"] for p in g["params"])
    assert all(p.ndim == 1 for g in groups if not g["decay"] for p in g["params"])


def test_a_run_leaves_a_checkpoint_that_loads_by_name() -> None:
    result = toy.run("mine")
    assert sorted(p.name for p in result.folder.iterdir()) == [
        "card.json", "log.jsonl", "log.png", "weights.safetensors",
    ]  # fmt: skip
    assert "14 steps" in str(result)
    card = json.loads((result.folder / "card.json").read_text())
    complete = {
        *("schema", "name", "command", "method", "base", "base_digest", "architecture", "weights", "data", "config"),
        *("seed", "steps", "images_seen", "seconds", "images_per_second", "loss_first", "loss_last"),
        *("peak_memory_bytes", "environment", "date", "licence", "citation"),
    }
    assert complete <= card.keys()
    assert card["command"].startswith(
        "densebench train dino --base 'pico?random' --data boards --name mine --preset default "
    )
    assert (card["steps"], card["images_seen"]) == (STEPS, 4 * STEPS)
    assert card["data"] == {"name": "boards", "split": "train", "images": 30, "digest": "boards", "version": None}
    model = load_model("mine")
    assert model.info.patch == 8
    assert model.weights_digest() != load_model("pico?random").weights_digest()
    lines = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 14]
    assert lines[0].keys() >= {
        "loss",
        "lr",
        "weight_decay",
        "momentum",
        "grad_norm",
        "images_per_second",
        "teacher_entropy",
    }
    assert lines[-1]["momentum"] > 0.98


def test_a_checkpoint_is_a_base_too() -> None:
    toy.run("mine", epochs=1)
    card = toy.run("again", base="mine", epochs=1, lr=1e-12, momentum=1.0, weights="fp32").card
    assert card["base_digest"] == load_model("mine").weights_digest()
    assert card["architecture"]["native_size"] == 96
    assert load_model("again").info.mean == (0.5, 0.5, 0.5)
    for key, value in weights("mine").items():  # batch statistics too
        torch.testing.assert_close(weights("again")[key], value, atol=1e-6, rtol=0, check_dtype=False)


def test_any_plain_vit_of_timm_is_a_base() -> None:
    base = "timm/vit_tiny_patch16_224?random"
    card = toy.run("tiny", base=base, epochs=1, global_size=32, local_size=16).card
    assert card["architecture"] | {"kwargs": {}} == card["architecture"]
    trained, untrained = load_model("tiny").info, load_model(base).info
    for field in ("patch", "width", "depth", "heads", "prefix", "mean", "std", "interpolation", "native_size"):
        assert getattr(trained, field) == getattr(untrained, field), field


def test_resume_ends_in_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    toy.run("whole")
    with monkeypatch.context() as patch:
        break_after(patch, 9)  # in epoch 2, one step after a checkpoint, inside a log window
        with pytest.raises(RuntimeError, match="power cut"):
            toy.run("broken")
    assert last_state("broken")["step"] == 8
    with pytest.raises(UsageError, match=r"interrupted run.*--resume"):
        toy.run("broken")
    toy.run("broken", resume=True, workers=1)
    assert_same("whole", "broken")
    one, other = (
        [json.loads(line) for line in (zoo_dir() / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    )
    for line in (*one, *other):
        del line["seconds"], line["images_per_second"]
    assert one == other


def test_resume_after_sigkill_ends_in_the_same_weights() -> None:
    script = [sys.executable, "-m", "tests.methods.toy", "killed", "8"]
    repository = Path(__file__).parents[2]
    folder = zoo_dir() / "killed"
    process = subprocess.Popen(script, cwd=repository, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    deadline = time.monotonic() + 120
    while not states(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = last_state("killed")["step"]
    assert 0 < done < 56
    toy.run("killed", resume=True, epochs=8)
    toy.run("whole", epochs=8)
    assert_same("whole", "killed")


def test_the_last_states_stay_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        break_after(patch, 9)
        with pytest.raises(RuntimeError):
            toy.run("broken", keep=2)
    assert [s.name for s in states(zoo_dir() / "broken")] == ["state-0000006.pt", "state-0000008.pt"]
    toy.run("broken", keep=2, resume=True)
    assert states(zoo_dir() / "broken") == []


def test_a_damaged_state_is_said_and_the_one_before_is_gone_on_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        break_after(patch, 9)
        with pytest.raises(RuntimeError):
            toy.run("broken", keep=2)
    before, last = states(zoo_dir() / "broken")
    whole, middle = before.read_bytes(), last.stat().st_size // 2
    for state in (before, last):
        content = state.read_bytes()
        state.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    with pytest.raises(StorageError, match=r"cannot be read .*; start over with --overwrite"):
        toy.run("broken", keep=2, resume=True)
    before.write_bytes(whole)
    toy.run("broken", keep=2, resume=True)
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"{last.name} cannot be read (it is torn or damaged): going on from {before.name}" in said
    toy.run("whole")
    assert_same("whole", "broken")


def test_equal_weights_have_equal_files() -> None:
    tensors = {"a": torch.zeros(3), "b": torch.ones(2)}
    files = {_in_order(save(tensors, {str(i): "x" for i in range(9)})) for _ in range(9)}
    assert len(files) == 1
    assert load(files.pop())["b"].tolist() == [1, 1]


def test_two_processes_are_one_with_twice_the_parts() -> None:
    toy.run("base", epochs=1)  # its batch statistics are settled
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together += ["-m", "tests.methods.toy", "two", "2", "base", "1"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        together, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    toy.run("one", base="base", accumulate=2, weights="fp32")
    for name, value in weights("one").items():
        torch.testing.assert_close(weights("two")[name], value, atol=1e-5, rtol=1e-4)
    card = json.loads((zoo_dir() / "two" / "card.json").read_text())
    assert (card["processes"], card["steps"], card["images_seen"]) == (2, STEPS, 56)


def test_resume_names_the_field_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        break_after(patch, 5)
        with pytest.raises(RuntimeError):
            toy.run("broken")
    with pytest.raises(UsageError, match=r"cannot resume broken: lr was 0.001, now 0.5\."):
        toy.run("broken", resume=True, lr=0.5)
    toy.run("broken", resume=True, checkpoint_every=50)


def test_resume_of_a_finished_run_is_its_result() -> None:
    first = toy.run("mine", epochs=1)
    assert toy.run("mine", resume=True, epochs=1).card == first.card
    with pytest.raises(UsageError, match="epochs was 1, now 2"):
        toy.run("mine", resume=True)


def test_a_taken_name_is_refused_and_kept() -> None:
    toy.run("mine", epochs=1)
    before = weights("mine")
    with pytest.raises(UsageError, match=r"mine exists.*--overwrite"):
        toy.run("mine", epochs=1, seed=1)
    torch.testing.assert_close(weights("mine"), before, atol=0, rtol=0)
    toy.run("mine", epochs=1, seed=1, overwrite=True)
    assert load_model("mine").info.patch == 8
    assert not torch.equal(weights("mine")["pos_embed"], before["pos_embed"])
    (zoo_dir() / "mine" / "card.json").unlink()
    with pytest.raises(UsageError, match=r"mine holds weights without a card; .*--overwrite"):
        toy.run("mine", epochs=1)


def test_nan_stops_with_the_step_and_keeps_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls = Dino.loss, [0]

    def poisoned(self: Any, views: Any) -> Any:
        calls[0] += 1
        value, scalars = loss(self, views)
        return (value * float("nan") if calls[0] == 6 else value), scalars

    with monkeypatch.context() as patch:
        patch.setattr(Dino, "loss", poisoned)
        with pytest.raises(DivergedError, match=r"step 5: loss nan.*last good checkpoint"):
            toy.run("sick")
    state = last_state("sick")
    assert state["step"] == 4
    assert all(torch.isfinite(v).all() for v in state["method"].values())
    toy.run("sick", resume=True)
    toy.run("whole")
    assert_same("whole", "sick")


def test_an_unreadable_image_is_named() -> None:
    for i, settings in enumerate(({"workers": 0}, {"workers": 1}, {"cache": 64})):
        with pytest.raises(CorruptFileError, match=r"image board_17 of boards cannot be read \(truncated\)"):
            toy.run(f"mine{i}", data="torn", **settings)


@pytest.mark.parametrize("settings", [{}, {"cache": 64}, {"workers": 1}])
def test_on_request_another_image_stands_in_and_the_card_says_for_which(settings: dict[str, Any]) -> None:
    result = toy.run("mine", data="torn", skip_corrupt=True, **settings)
    assert result.card["left_out"] == ["board_17"]
    assert result.card["images_seen"] == 56
    assert "1 images that cannot be read were left out" in str(result)


def test_a_folder_of_torn_images_alone_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(self: Any, index: int) -> Any:
        raise OSError("truncated")

    monkeypatch.setattr(toy.Boards, "image", torn)
    with pytest.raises(CorruptFileError, match="cannot be read"):
        toy.run("mine", skip_corrupt=True)


def test_cached_images_are_the_images_and_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    boards = toy.Boards(None, "train")
    plain, cached = TrainingImages(boards), CachedImages(boards, None, 64)
    assert torch.equal(plain[3], cached[3])
    monkeypatch.setattr(toy.Boards, "image", None)
    assert torch.equal(CachedImages(boards, None, 64)[3], cached[3])
    monkeypatch.undo()
    assert CachedImages(boards, 10, 24)[9].shape == (3, 20, 24)  # 40 x 48 shrunk


@pytest.mark.parametrize("damage", ["flipped", "torn", "gone", "torn table", "old table"])
def test_damaged_pixels_are_decoded_again(damage: str) -> None:
    boards = toy.Boards(None, "train")
    plain, pixels = TrainingImages(boards), CachedImages(boards, None, 64).path
    table = pixels.with_suffix(".npz")
    content = bytearray(pixels.read_bytes())
    if damage == "flipped":
        content[50_000] ^= 128
        pixels.write_bytes(content)
    elif damage == "torn":
        pixels.write_bytes(content[:-7])
    elif damage == "gone":
        pixels.unlink()
    elif damage == "torn table":
        table.write_bytes(table.read_bytes()[:-30])
    else:
        table.unlink()
        np.save(pixels.with_suffix(".npy"), np.zeros((30, 2), np.int64))
    for _ in range(2):
        cached = CachedImages(boards, None, 64)
        assert all(torch.equal(plain[i], cached[i]) for i in range(30))


def test_batches_are_the_same_from_any_step_and_any_number_of_workers() -> None:
    config = DinoConfig(**{**toy.SMALL, "global_size": 8})
    images = TrainingImages(toy.Boards(None, "train"))
    whole = list(batches(images, config, 0, 0, False))
    rest = list(batches(images, config, 9, 2, False))
    assert (len(whole), len(rest)) == (STEPS, STEPS - 9)
    for one, other in zip(whole[9:], rest, strict=True):
        assert torch.equal(one.globals, other.globals)
        assert torch.equal(one.boxes, other.boxes)


def test_student_or_teacher_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    toy.run("teacher", epochs=1, weights="fp32", momentum=1.0)
    toy.run("student", epochs=1, weights="fp32", momentum=1.0, export="student")
    teacher, student = weights("teacher"), weights("student")
    assert teacher["pos_embed"].dtype == torch.float32
    assert not torch.equal(teacher["pos_embed"], student["pos_embed"])  # a teacher of momentum 1 stays where it was


def test_accumulated_parts_add_up() -> None:
    same = {
        "epochs": 1,
        "head_norm": False,
        "centring": "mean",
        "scale": False,
        "centre_momentum": 1.0,
        "weights": "fp32",
    }
    off = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0}
    toy.run("base", epochs=1)  # its batch statistics are settled
    toy.run("one", base="base", **same, **off)
    toy.run("two", base="base", **same, **off, accumulate=2)
    for name, value in weights("one").items():
        torch.testing.assert_close(weights("two")[name], value, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "fast"}, "lr"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"batch": 64}, "make no batch of 64"),
        ({"global_size": 20}, "global_size=20 is not a multiple"),
        ({"images": 99}, "images=99.*holds 30"),
        ({"accumulate": 3}, "batch=4"),
        ({"method": "dinosaur"}, "did you mean 'dino'"),
        ({"name": "a/b"}, "plain name"),
    ],
)
def test_bad_requests_say_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toy.run(**{"name": "mine", **settings})
    assert not (zoo_dir() / "mine").exists()


def test_names_cost_no_torch() -> None:
    code = "import sys, densebench.methods as m; print(m.METHODS.names()); assert 'torch' not in sys.modules"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "dino" in out
    assert METHODS["dino"] is Dino
