"""What `import densebench` offers, with the examples in its docstrings."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import densebench


@pytest.mark.parametrize(
    "module",
    [
        "densebench.runner",
        "densebench.leaderboard.compared",
        "densebench.datasets",
        "densebench.model_zoo",
        "densebench.results.schema",
    ],
)
def test_examples_of_docstrings_say_what_happens(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed


def test_every_public_name_is_there_and_listed():
    for name in densebench.__all__:
        assert getattr(densebench, name) is not None
    assert set(densebench.__all__) <= set(dir(densebench))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Backbones'"):
        densebench.Backbones  # noqa: B018


def test_the_notebook_of_the_readme_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(import densebench\n.*?)```", readme, re.S)
    small = 'dataset="scenes", limit=4, workers=0, settings={"hummingbird": {"input_size": 64, "fractions": 1}}'
    found = {}
    exec(lines.replace('dataset="scenes"', small).replace("densebench.frame", "frame = densebench.frame"), found)
    assert len(found["outcome"].records) == 1
    assert len(found["outcome"].frame()) == len(found["outcome"].records[0].metrics)
    assert list(found["frame"]["model"]) == ["pico"]
