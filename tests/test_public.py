"""What `import densebench` offers, with the examples in its docstrings."""

import doctest
import importlib

import pytest

import densebench


@pytest.mark.parametrize(
    "module", ["densebench.runner", "densebench.datasets", "densebench.model_zoo", "densebench.results.schema"]
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
