"""DIP: what is trained, what a task is made of, and labels that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.core.paths import zoo_dir
from densebench.datasets import DATASETS
from densebench.methods.crops import CropViews, generator, make_views, stack
from densebench.methods.data import TrainingImages, batches
from densebench.methods.dip import Dip, DipConfig, centre, centre_geometry, same_frame
from densebench.methods.label_folder import write_map
from densebench.methods.launch import cost
from densebench.methods.trainer import parameter_groups
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import Backbone, BackboneInfo, FeatureKey
from densebench.ops.dip import add_distractors, in_context_loss, patch_labels, predict_in_context

from . import toy
from .test_trainer import assert_same, break_after, weights

IDS = [f"board_{i:02}" for i in range(30)]
CLASSES = 300


@pytest.fixture(autouse=True)
def _boards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.setattr(DATASETS, "_loaded", dict(DATASETS._loaded))
    toy.register()


def board_map(index: int) -> np.ndarray:
    """The squares of a board, each a label of its own, some above 255."""
    return np.kron(np.arange(30).reshape(5, 6) * 9 + index, np.ones((8, 8), np.int64))


def write_pairs(folder: Path, pairs: Sequence[tuple[int, int]]) -> None:
    (folder / "pairs.txt").write_text("".join(f"{IDS[q]}.png: {IDS[p]}.png\n" for q, p in pairs))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A map of each board; the positive of a board is the next one."""
    folder = tmp_path / "labels"
    for i, id_ in enumerate(IDS):
        write_map(folder / f"{id_}.png", board_map(i))
    write_pairs(folder, [(i, (i + 1) % 30) for i in range(30)])
    return folder


def small(labels: Path | None, **settings: Any) -> dict[str, Any]:
    """Seven steps per epoch on 30 pairs."""
    return {
        "labels": None if labels is None else str(labels),
        "classes": CLASSES,
        "global_size": 32,
        "resize": 40,
        "epochs": 2,
        "batch": 4,
        "accumulate": 2,
        "lr": 1e-3,
        "expansion": 1,
        "out": 12,
        "checkpoint_every": 2,
        "log_every": 3,
        **settings,
    }


def dip(labels: Path, **settings: Any) -> Dip:
    return Dip(load_model("pico?random"), DipConfig(**small(labels, **settings)))


def boards() -> TrainingImages:
    return TrainingImages(toy.Boards(None, "train"))


def views(method: Dip, n: int = 3) -> CropViews:
    tasks = method.samples(boards())
    samples = [tasks.crops(i, method.config, generator(0)) for i in range(n)]
    return make_views(stack(samples), method.config, (0,), torch.device("cpu"))


def test_gradient_reaches_the_last_blocks_the_final_norm_and_the_head_alone(labels: Path) -> None:
    method = dip(labels, blocks=2)
    loss, _ = method.loss(views(method))
    loss.backward()
    wanted = ("backbone.net.blocks.4.", "backbone.net.blocks.5.", "backbone.net.norm.", "head.")
    trained = {n for n, _ in method.student.named_parameters() if n.startswith(wanted)}
    assert {n for n, p in method.student.named_parameters() if p.grad is not None} == trained
    assert {n for n, p in method.student.named_parameters() if p.requires_grad} == trained
    optimised = sum(p.numel() for group in parameter_groups(method.student) for p in group["params"])
    assert optimised == sum(p.numel() for n, p in method.student.named_parameters() if n in trained)
    assert method.teacher is method.student
    method.training_mode()
    training = {n for n, m in method.student.named_modules() if m.training and not list(m.children())}
    assert all(f"{n}.".startswith(wanted) for n in training)
    assert {"head.0", "backbone.net.norm", "backbone.net.blocks.4.mlp.fc1"} <= training


@pytest.mark.parametrize("form", ["published", "corrected"])
def test_loss_is_that_of_its_parts(labels: Path, form: str) -> None:
    method = dip(labels, form=form, distractors=3, temperature=0.2)
    seen = views(method)
    torch.manual_seed(3)
    loss, scalars = method.loss(seen)
    with torch.no_grad():
        query, positive = (
            method.student.head(method.student.backbone.dense(side).maps[0].flatten(2).mT)
            for side in seen.clean_globals
        )
        own, others = (patch_labels(side, 8, CLASSES) for side in seen.labels)
        torch.manual_seed(3)
        orders = torch.stack([torch.randperm(3) for _ in range(3)])
        support = add_distractors(positive, orders), add_distractors(others, orders)
        prediction = predict_in_context(query, *support, 0.2)
        torch.testing.assert_close(loss.detach(), in_context_loss(prediction, own, form), atol=1e-5, rtol=1e-5)
    assert query.shape == (3, 16, 12)
    assert support[0].shape == (3, 4 * 16, 12)
    assert 0 <= float(scalars["accuracy"]) <= float(scalars["in_support"]) + 1
    assert float(scalars["in_support"]) == pytest.approx(float((own * (support[1].amax(1, True) > 0)).sum(-1).mean()))


def test_head_has_the_published_shape() -> None:
    method = Dip(load_model("pico?random"), DipConfig())
    assert [tuple(p.shape) for p in method.student.head.parameters() if p.ndim > 1] == [(896, 128), (6144, 896)]
    assert method.student.head[3].eps == 1e-6
    config = method.config
    assert config.lr == pytest.approx(1.5e-7 * config.batch / 256)
    assert config.batch // config.accumulate == 4


class Colors(Backbone):
    """Answers the red channel, which is 0 or 1 in a patch, as a one-hot vector."""

    info = BackboneInfo(name="colours", patch=8, width=2, prefix=0, has_class_token=False, mean=(0,) * 3, std=(1,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = nn.ModuleDict({"blocks": nn.ModuleList(), "norm": nn.Identity()})
        self.net.blocks, self.net.norm = self.net["blocks"], self.net["norm"]

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        red = F.avg_pool2d(pixels[:, 0], 8).flatten(1)
        return [torch.stack([red, 1 - red], dim=-1)]


def test_features_that_are_the_labels_answer_perfectly(labels: Path) -> None:
    def loss(form: str, maps: Tensor) -> tuple[float, dict[str, Tensor]]:
        method = Dip(Colors(), DipConfig(**small(labels, blocks=0, form=form, classes=2)))
        method.student.head = nn.Identity()
        method.classes = 2
        value, scalars = method.loss(shown(maps))
        return float(value), scalars

    def shown(maps: Tensor) -> CropViews:
        pixels = squares[:, :, None].float().expand(-1, -1, 3, -1, -1)
        none = torch.empty(0)
        return CropViews(pixels, none, pixels, none, none, none, none, labels=maps)

    cells = torch.randint(0, 2, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    squares = cells.repeat_interleave(8, -1).repeat_interleave(8, -2).to(torch.int32)
    value, scalars = loss("corrected", squares)
    assert value < 1e-4
    assert float(scalars["accuracy"]) == float(scalars["in_support"]) == 1
    assert loss("published", squares)[0] == pytest.approx(np.log(1 + np.exp(-1)), abs=1e-4)  # its second softmax
    swapped = torch.stack([squares[0], 1 - squares[1]])
    wrong, scalars = loss("corrected", swapped)
    assert wrong > 1
    assert float(scalars["accuracy"]) < 0.5


def test_resume_ends_in_the_same_weights(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: dict[str, Any] = {"method": "dip", "small": small(labels)}
    result = toy.run("whole", **run)
    with monkeypatch.context() as patch:
        break_after(patch, 9)
        with pytest.raises(RuntimeError, match="power cut"):
            toy.run("broken", **run)
    toy.run("broken", **run, resume=True, workers=1)
    assert_same("whole", "broken")
    assert result.card["steps"] == 14
    assert result.card["inputs"].keys() == {"labels_digest"}
    assert result.card["weights"]["branch"] == "student"
    # the rest of the base is as it was
    base = toy.run("still", **run, lr=1e-12).folder.name
    changed = {k for k, v in weights("whole").items() if not torch.equal(v, weights(base)[k])}
    assert changed
    assert all(k.startswith(("blocks.3.", "blocks.4.", "blocks.5.", "norm.")) for k in changed)


def test_resume_notices_other_labels(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: dict[str, Any] = {"method": "dip", "small": small(labels)}
    with monkeypatch.context() as patch:
        break_after(patch, 5)
        with pytest.raises(RuntimeError):
            toy.run("broken", **run)
    write_pairs(labels, [(i, (i + 2) % 30) for i in range(30)])
    with pytest.raises(UsageError, match="labels_digest was"):
        toy.run("broken", **run, resume=True)
    assert toy.run("other", **run).card["inputs"]["labels_digest"]
    write_pairs(labels, [(i, (i + 3) % 30) for i in range(30)])
    with pytest.raises(UsageError, match="labels_digest was"):
        toy.run("other", **run, resume=True)


def test_batches_are_the_same_from_any_step_and_any_number_of_workers(labels: Path) -> None:
    method = dip(labels)
    tasks = method.samples(boards())
    whole, rest = (list(batches(tasks, method.config, start, workers, False)) for start, workers in ((0, 0), (9, 2)))
    assert (len(whole), len(rest)) == (14, 5)
    for one, other in zip(whole[9:], rest, strict=True):
        assert torch.equal(one.globals, other.globals)
        assert torch.equal(one.labels, other.labels)
    assert whole[0].labels.shape == (4, 2, 32, 32)


def test_labels_lie_on_their_pixels_and_the_query_comes_first(labels: Path) -> None:
    method = dip(labels, resize=80, global_size=64)  # twice the boards' own size, so that squares keep sharp insides
    tasks = method.samples(boards())
    sample = tasks.crops(4, method.config, generator(0))
    rows, columns = ((torch.arange(64) + first) % 16 for first in (8, 16))  # places in a square of 16
    inside = ((rows >= 3) & (rows < 13))[:, None] & ((columns >= 3) & (columns < 13))
    assert sample.boxes.tolist() == [[8, 4, 40, 36]] * 2
    for side, index in enumerate((4, 5)):
        board = boards()[index]
        found = sample.labels[side]
        square = (found - index) // 9
        colors = board[:, ::8, ::8].flatten(1)[:, square]
        error = (colors.float() - sample.globals[side].float()).abs() * inside
        assert float(error.max()) <= 1
        assert set(found.unique().tolist()) <= set(np.unique(board_map(index)).tolist())


@pytest.mark.parametrize("size", [(40, 48), (333, 500), (256, 256), (101, 64)])
def test_the_centre_is_that_of_torchvision(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    crop, box = centre(image, 128, 112)
    published = v2.Compose([v2.Resize(128, antialias=True), v2.CenterCrop(112)])(image)
    # without AVX2 torchvision resizes in float, and the two round to neighbouring grey levels
    assert int((crop.int() - published.int()).abs().max()) <= 1
    (height, width), _ = centre_geometry(size, 128, 112)
    assert min(height, width) == 128
    assert box[2] - box[0] == pytest.approx(112 * size[1] / width)


def test_maps_of_the_centre_are_read_as_they_are_published(labels: Path) -> None:
    folder = labels.parent / "published"
    folder.mkdir()
    for i, id_ in enumerate(IDS):
        torch.save(torch.full((1, 64, 64), i, dtype=torch.int16), folder / f"{id_}.pt")
    pairs = folder.parent / "COCO_pairs.txt"
    pairs.write_text("board_03.jpg: board_07.jpg\nother.jpg: board_03.jpg\n\nboard_07.jpg:/board_01.jpg\n")
    method = dip(folder, cover="crop", pairs=str(pairs), classes=None)
    tasks = method.samples(boards())
    assert method.classes == 1000
    assert tasks.pairs == [(3, 7), (7, 1)]
    assert tasks.crops(0, method.config, generator(0)).labels.unique().tolist() == [3, 7]
    assert DipConfig.pairs is None
    few = TrainingImages(toy.Boards(None, "train"), 5)
    with pytest.raises(UsageError, match="pairs none of these 5 images"):
        method.samples(few)


def test_frames_are_compared_up_to_rounding() -> None:
    assert same_frame((480, 640), (30, 40))
    assert same_frame((333, 500), (107, 160))  # shrunk for a cache
    assert same_frame((40, 48), (40, 48))
    assert not same_frame((48, 40), (40, 48))
    assert not same_frame((40, 44), (40, 48))


def test_without_labels_the_command_that_makes_them_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"densebench pseudolabel --model 'pico\?random' --data boards:train --out FOLDER"
    ):
        toy.run("mine", method="dip", small=small(None))
    assert not (zoo_dir() / "mine").exists()


def test_labels_that_are_not_there_are_named(labels: Path) -> None:
    run: dict[str, Any] = {"method": "dip", "small": small(labels)}
    for i in (3, 4, 5, 9):
        (labels / f"board_{i:02}.png").unlink()
    with pytest.raises(
        UsageError, match=r"lacks 4 of 30 label maps: board_03, board_04, board_05, \.\.\.\..*pseudolab"
    ):
        toy.run("mine", **run)
    write_pairs(labels, [(i, i + 1) for i in range(10, 29)])
    assert toy.run("mine", **run, epochs=1).card["steps"] == 4  # images that no pair needs may lack theirs
    (labels / "pairs.txt").unlink()
    with pytest.raises(UsageError, match=r"no list of pairs .*pairs\.txt"):
        toy.run("other", **run)
    with pytest.raises(UsageError, match=r"labels=.*nowhere: there is no such folder.*pseudolabel"):
        toy.run("other", **run, labels=str(labels / "nowhere"))
    assert not (zoo_dir() / "other").exists()


@pytest.mark.parametrize(
    ("labels_of_17", "error", "message"),
    [
        (board_map(17).T, DatasetError, r"board_17\.png is 48 x 40; expected the same shape as 40 x 48"),
        (board_map(17) + 200, DatasetError, r"board_17\.png holds labels 217 to 478; expected 0 to 299"),
        (None, CorruptFileError, r"board_17\.png cannot be decoded as a label map"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_map_that_does_not_fit_is_named(
    labels: Path, labels_of_17: np.ndarray | None, error: type[Exception], message: str, workers: int
) -> None:
    path = labels / "board_17.png"
    write_map(path, labels_of_17) if labels_of_17 is not None else path.write_bytes(b"\x89PNG")
    with pytest.raises(error, match=message):
        toy.run("mine", method="dip", small=small(labels), workers=workers)


def test_maps_of_a_crop_are_square(labels: Path) -> None:
    with pytest.raises(DatasetError, match="40 x 48; expected the same shape as a square, as cover=crop"):
        toy.run("mine", method="dip", small=small(labels, cover="crop"))


def test_labels_of_images_that_changed_are_refused(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {
        "complete": True,
        "command": "densebench pseudolabel ...",
        "data": {"name": "boards", "split": "train", "of": 30, "digest": "boards"},
        "settings": {"classes": CLASSES},
        "maps_sha256": "0",
    }
    (labels / "pseudolabels.json").write_text(json.dumps(about))
    method = dip(labels, classes=None)
    method.samples(boards())
    assert method.classes == CLASSES
    with monkeypatch.context() as patch:
        patch.setattr(toy.Boards, "digest", lambda self: "others")
        with pytest.raises(UsageError, match="boards/train has changed since"):
            toy.run("mine", method="dip", small=small(labels))
    (labels / "pseudolabels.json").write_text(json.dumps({**about, "complete": False}))
    with pytest.raises(UsageError, match=r"half made; go on with `densebench pseudolabel \.\.\.`"):
        toy.run("mine", method="dip", small=small(labels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_crops": 1}, "global_crops has no meaning"),
        ({"jitter": 0.5}, "jitter has no meaning"),
        ({"momentum": 0.5}, "momentum has no meaning"),
        ({"resize": 30}, "resize=30.*32 or more"),
        ({"global_size": 36}, "global_size=36 is not a multiple"),
        ({"blocks": 7}, "blocks=7.*has 6"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"out": 0}, "out=0"),
        ({"batch": 40, "accumulate": 1}, "30 samples make no batch of 40"),
    ],
)
def test_impossible_settings_are_refused(labels: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toy.run("mine", method="dip", small=small(labels, **settings))
    assert not (zoo_dir() / "mine").exists()


def test_costs_are_those_of_what_is_trained(labels: Path) -> None:
    def needs(**settings: Any) -> int:
        return cost(
            method="dip", base="pico?random", data="boards", device="cpu", overrides=small(labels, **settings)
        )[0].fixed  # fmt: skip

    assert needs(blocks=1) < needs(blocks=6)
