"""What Hugging Face's image processors do to pixels, as a backbone's own mean and deviation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.core.errors import ModelError
from densebench.core.resampling import RESAMPLING as READ
from densebench.model_zoo.adapters.image_processor import RESAMPLING, preprocessing, refuse_oblong

USUAL = {
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225], "resample": 2, "size": {"height": 64, "width": 64},
}  # fmt: skip


def processed(settings, pixels):
    """The library's arithmetic on pixels (3, n) in 0..255, as its documentation states it."""
    x = pixels.double()
    if settings.get("do_rescale", True):
        x = x * settings.get("rescale_factor", 1 / 255)
    if settings.get("do_normalize", True):
        mean, std = (torch.tensor(settings[key], dtype=torch.float64)[:, None] for key in ("image_mean", "image_std"))
        x = (x - mean) / std
    return x


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        {"rescale_factor": 0.00392156862745098},
        {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_normalize": False, "image_mean": None, "image_std": None},
    ],
)
def test_normalising_is_the_processors_arithmetic(settings):
    settings = USUAL | settings
    pixels = torch.arange(0, 256, 5)[None].expand(3, -1)
    found = preprocessing(settings, "hf/x")
    mean, std = (torch.tensor(found[key], dtype=torch.float64)[:, None] for key in ("mean", "std"))
    torch.testing.assert_close((pixels.double() / 255 - mean) / std, processed(settings, pixels), rtol=1e-9, atol=1e-9)


def test_the_usual_settings_are_kept_to_the_last_digit():
    found = preprocessing(USUAL, "hf/x")
    assert found["mean"] == (0.485, 0.456, 0.406)
    assert found["std"] == (0.229, 0.224, 0.225)
    assert preprocessing({"size": 32, "image_mean": 0.5, "image_std": [0.5] * 3}, "hf/x")["mean"] == (0.5,) * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": None}, "image_mean None; expected 3 numbers. Write them into its preprocessor_config.json"),
        ({"image_std": None}, "image_std None; expected 3 numbers"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean \[0.5, 0.5\]; expected 3 numbers"),
        ({"image_mean": [0.5, "x", 0.5]}, "expected 3 numbers"),
        ({"image_std": [0.5, float("nan"), 0.5]}, "expected 3 numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "expected more than 0"),
        ({"rescale_factor": 0}, "rescale_factor 0; expected more than 0"),
        ({"rescale_factor": "x"}, "rescale_factor 'x'; expected 1 numbers"),
        ({"resample": 9}, "resample 9; expected 0 to 5"),
        ({"size": {}}, r"size \{\}; expected pixels"),
        ({"size": None}, "size None; expected pixels"),
    ],
)
def test_settings_that_mean_nothing_are_said(settings, message):
    with pytest.raises(ModelError, match=message):
        preprocessing(USUAL | settings, "hf/x")


def test_every_resampling_of_the_library_is_read_as_it_is():
    """LANCZOS among them, which some processors have."""
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    for number, name in RESAMPLING.items():
        found = preprocessing(USUAL | {"resample": number}, "hf/x")["interpolation"]
        assert found == name
        assert READ[found] == Image.Resampling(number)
        picture.resize((3, 3), READ[found])


@pytest.mark.parametrize(
    ("settings", "size", "said"),
    [
        ({}, 64, False),
        ({"size": {"shortest_edge": 40}}, 40, False),
        ({"size": 48}, 48, False),
        ({"size": [48, 48]}, 48, False),
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}}, 48, False),
        ({"do_center_crop": False, "crop_size": {"height": 48, "width": 48}}, 64, False),
        ({"size": {"height": 64, "width": 128}}, 64, True),
    ],
)
def test_the_native_size_is_what_the_processor_hands_over(settings, size, said):
    found = preprocessing(USUAL | settings, "hf/x")
    assert found["native_size"] == size
    assert bool(found["loading"]) == said


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": (8, 16), "image_size": 64}, "patches of 8 x 16 px"),
        ({"patch_size": 8, "image_size": [64, 128]}, "position embeddings for images of 64 x 128 px"),
    ],
)
def test_networks_that_are_not_square_are_refused_in_words(config, message):
    with pytest.raises(ModelError, match=message):
        refuse_oblong(SimpleNamespace(**config), "hf/x")
    refuse_oblong(SimpleNamespace(patch_size=[8, 8], image_size=64), "hf/x")
