"""Adapters of other people: the same model in every run, another one where what they answer is another."""

import random

import numpy as np
import pytest
import torch

from densebench.model_zoo import load_model
from densebench.model_zoo.adapters.foreign import answers
from densebench.model_zoo.conformance import findings

DRAWS = """
import random
import numpy as np
import torch
from densebench import Backbone, BackboneInfo

class Drawn(Backbone):
    info = BackboneInfo(name="drawn", patch=8, width=4, prefix=0, has_class_token=False)

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 4, 8, 8)
        self.register_buffer("shift", torch.tensor(np.random.rand() + random.random()))

    def tokens(self, pixels, keys):
        return [(self.net(pixels) + self.shift).flatten(2).transpose(1, 2)]

class Elsewhere(Drawn):
    def __init__(self):
        super().__init__()
        self.shift += np.random.default_rng().random()
"""
HIDDEN = """
import numpy as np
import torch
from pathlib import Path
from densebench import Backbone, BackboneInfo

class Hidden(Backbone):
    info = BackboneInfo(name="hidden", patch=8, width=4, prefix=0, has_class_token=False, native_size=32)

    def __init__(self):
        super().__init__()
        self.weights = np.load(Path(__file__).with_name("weights.npy"))  # (192, 4), which torch does not see

    def tokens(self, pixels, keys):
        patches = torch.nn.functional.unfold(pixels, 8, stride=8).transpose(1, 2)
        return [torch.from_numpy(patches.numpy() @ self.weights)]

class Registered(Hidden):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

class OfOneSize(Hidden):
    def tokens(self, pixels, keys):
        assert pixels.shape[-2:] == (32, 32)
        return super().tokens(pixels, keys)

class Silent(Hidden):
    def tokens(self, pixels, keys):
        raise RuntimeError("needs a GPU")
"""


@pytest.fixture
def drawn(tmp_path):
    (tmp_path / "mine.py").write_text(DRAWS)
    return f"{tmp_path / 'mine.py'}:Drawn"


def test_an_adapter_that_draws_its_weights_is_the_same_in_every_run(drawn):
    first = load_model(drawn).weights_digest()
    torch.rand(3), np.random.rand(3), random.random()
    assert load_model(drawn).weights_digest() == first
    assert load_model(drawn, seed=1).weights_digest() != first


def test_building_a_model_leaves_random_states_alone(drawn):
    def draw() -> tuple[float, ...]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def fix() -> None:
        torch.manual_seed(5), np.random.seed(5), random.seed(5)

    fix()
    expected = draw()
    fix()
    load_model(drawn)
    assert draw() == expected


@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        ("Drawn", "note", "drawn at random: weights shift, net.weight, net.bias; the same in every run"),
        ("Elsewhere", "failed", "it has other weights shift: another model in every run"),
        ("Hidden", "ok", "digest"),
    ],
)
def test_check_model_names_the_weights_that_are_drawn_anew(tmp_path, name, outcome, words):
    (tmp_path / "mine.py").write_text(DRAWS if name != "Hidden" else HIDDEN)
    np.save(tmp_path / "weights.npy", np.ones((192, 4), np.float32))

    def build(seed: int = 0):
        return load_model(f"{tmp_path / 'mine.py'}:{name}", seed=seed)

    found = {f.check: f for f in findings(build(), rebuild=build)}["construction"]
    assert found.outcome == outcome, found
    assert words in found.found


@pytest.mark.parametrize("name", ["Hidden", "Registered", "OfOneSize"])
def test_weights_that_torch_does_not_see_make_another_model(tmp_path, name):
    """Replaced, doubled, and with one in a hundred changed; the same file again is the same model."""
    (tmp_path / "mine.py").write_text(HIDDEN)
    weights = np.random.default_rng(0).normal(size=(192, 4)).astype(np.float32)
    few = weights.copy()
    few.flat[::100] += 1

    def digest(held) -> str:
        np.save(tmp_path / "weights.npy", held)
        return load_model(f"{tmp_path / 'mine.py'}:{name}").weights_digest()

    others = [np.random.default_rng(1).normal(size=(192, 4)).astype(np.float32), 2 * weights, weights[::-1], few]
    assert len({digest(held) for held in (weights, *others)}) == 5
    assert digest(weights) == digest(weights.copy())


def test_what_neither_shows_weights_nor_answers_shares_nothing(tmp_path):
    (tmp_path / "mine.py").write_text(HIDDEN)
    np.save(tmp_path / "weights.npy", np.ones((192, 4), np.float32))
    one, other = (load_model(f"{tmp_path / 'mine.py'}:Silent") for _ in range(2))
    assert one.weights_digest() == one.weights_digest() != other.weights_digest()


def test_answers_do_not_hang_on_the_last_digits(tmp_path):
    """Sums in another order, as another processor has them, are the same model; what moves features is not."""
    (tmp_path / "mine.py").write_text(HIDDEN)
    weights = np.random.default_rng(0).normal(size=(192, 4)).astype(np.float32)
    np.save(tmp_path / "weights.npy", weights)
    backbone = load_model(f"{tmp_path / 'mine.py'}:Hidden")
    first = answers(backbone)
    noise = np.random.default_rng(1).normal(size=weights.shape)
    for share, same in ((1e-6, True), (1e-2, False)):
        backbone.weights = (weights * (1 + share * noise)).astype(np.float32)
        assert (answers(backbone) == first) is same
