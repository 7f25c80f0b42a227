import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import load_model, zoo
from densebench.model_zoo.adapters.timm_nets import create

TINY = "vit_tiny_patch16_224"
SHIPPED = Path(zoo.__file__).parent / "weights"


def test_weights_of_another_architecture_name_the_keys(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(create(TINY, depth=12, embed_dim=96).state_dict(), file)
    with pytest.raises(ModelError, match=r"of another shape \(blocks.0.attn.proj.bias \(96,\) for \(192,\)"):
        load_model(f"timm/{TINY}", file)
    save_file({k.replace("blocks", "layers"): v for k, v in create(TINY).state_dict().items()}, file)
    with pytest.raises(ModelError, match=r"144 missing \(blocks.*144 unexpected \(layers"):
        load_model(f"timm/{TINY}", file)


def test_a_file_of_the_authors_is_loaded_as_that_of_timms_hub(tmp_path):
    state = create(TINY).state_dict()
    save_file(state, tmp_path / "hub.safetensors")
    torch.save({"model": state | {"head.weight": torch.ones(9, 192)}, "epoch": 3}, tmp_path / "authors.pth")
    authors = load_model(f"timm/{TINY}", tmp_path / "authors.pth")
    assert authors.weights_digest() == load_model(f"timm/{TINY}", tmp_path / "hub.safetensors").weights_digest()
    assert authors.info.notes["left out"] == ["head.weight"]


def test_weights_of_another_patch_size_are_refused_though_timm_would_resample_them(tmp_path):
    state = create(TINY, patch_size=32, img_size=448).state_dict()  # on the same grid of 14 x 14
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"model": state}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        with pytest.raises(ModelError, match=r"1 of another shape \(patch_embed.proj.weight \(192, 3, 32, 32\)"):
            load_model(f"timm/{TINY}", tmp_path / name)


def test_a_torn_or_absent_file_is_explained(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(create(TINY).state_dict(), file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        load_model(f"timm/{TINY}", file)
    with pytest.raises(ModelError, match="do not exist"):
        load_model(f"timm/{TINY}", tmp_path / "nowhere.safetensors")


def test_random_and_weights_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="choose one"):
        load_model(f"timm/{TINY}?random", tmp_path / "w.safetensors")


def test_a_zoo_checkpoint_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_ZOO", str(tmp_path))
    net = create(TINY, depth=1)
    (tmp_path / "mine").mkdir()
    save_file(net.state_dict(), tmp_path / "mine" / "weights.safetensors")
    card = {"architecture": {"timm": TINY, "kwargs": {"depth": 1}, "mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "mine" / "card.json").write_text(json.dumps(card))
    by_name, by_path = load_model("mine"), load_model(str(tmp_path / "mine" / "weights.safetensors"))
    assert by_name.weights_digest() == by_path.weights_digest()
    assert by_name.identity == by_path.identity  # so that features and scores are those of a folder moved elsewhere
    assert by_name.info.mean == (0.1, 0.2, 0.3)
    card["weights"] = {"sha256": "0123456789abcdef"}
    (tmp_path / "mine" / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"not the file that the card beside it describes .* 0123456789ab"):
        load_model("mine")
    (tmp_path / "mine" / "card.json").unlink()
    with pytest.raises(ModelError, match=r"no card\.json beside it"):
        load_model(str(tmp_path / "mine" / "weights.safetensors"))


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.iterdir()))
def test_shipped_checkpoints_are_small_and_say_what_made_them(name):
    folder = SHIPPED / name
    card = json.loads((folder / "card.json").read_text())
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4e6
    assert card["name"] == name
    assert card["command"].startswith(f"densebench train {card['method']} --base ")
    assert load_model(name).info.width == 128  # and its digest is the card's


def test_the_real_weights_give_the_reference_features(shared_data):
    """The folder's own reference: PIL bilinear to 224, mean and std 0.5, features after the last norm."""
    reference = json.loads((shared_data / "weights" / "reference_features.json").read_text())["expected"]
    backbone = load_model(f"timm/{TINY}", shared_data / "weights" / f"{TINY}.safetensors")
    for name, expected in reference.items():
        image = Image.open(shared_data / "VOCdevkit/VOC2012/JPEGImages" / f"{name}.jpg").convert("RGB")
        pixels = torch.from_numpy(np.array(image.resize((224, 224), Image.Resampling.BILINEAR)))
        features = backbone.dense(pixels.permute(2, 0, 1)[None] / 255)
        got = features.class_tokens[0][0, :8]
        torch.testing.assert_close(got, torch.tensor(expected["cls_token_first8"]), rtol=0, atol=2e-4)
        mean = features.maps[0].mean((0, 2, 3))[:8]
        torch.testing.assert_close(mean, torch.tensor(expected["patch_mean_first8"]), rtol=0, atol=2e-4)
        assert abs(float(features.maps[0].std()) - expected["patch_std"]) < 2e-4
