"""Options that several verbs share, and those of `show`."""

import pytest
import timm
import torch

from densebench.cli import main
from densebench.core.lists import split_names


def test_names_are_parted_at_commas_that_no_file_has(tmp_path):
    own = tmp_path / "a, b" / "c,d.toml"
    own.parent.mkdir()
    own.touch()
    adapter = own.with_suffix(".py")
    adapter.touch()
    names = ["voc", str(own), f"{adapter}:Mine", "ade20k"]
    assert split_names(" ,".join(names)) == names
    assert split_names(f"voc,{own}x") == ["voc", f"{tmp_path}/a", "b/c", "d.tomlx"]
    assert split_names(None) == split_names(" , ") == []


def test_a_model_is_shown_with_weights_of_a_file(tmp_path, capsys):
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    torch.save({"student": state, "teacher": state}, tmp_path / "run.pth")
    with pytest.raises(SystemExit) as end:
        main(["show", "model", "timm/vit_tiny_patch16_224", "--weights", str(tmp_path / "run.pth")])
    assert end.value.code == 0
    assert "run.pth: took the weights under 'teacher'; left out @student" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["show", "protocol", "depth", "--weights", str(tmp_path / "run.pth")])
    assert end.value.code == 2
    assert "--weights goes with a model; got protocol depth" in capsys.readouterr().err
