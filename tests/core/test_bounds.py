import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest

from densebench.core.bounds import AtLeastOne, BelowOne, Count, Positive, alternatives, bare, is_tuple, limits, words
from densebench.core.config import apply_overrides, field_types
from densebench.core.errors import UsageError
from densebench.methods import METHODS
from densebench.protocols import PROTOCOLS


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (Count | None, "a whole number of at least 1, or none"),
        (BelowOne, "a number of at least 0 and below 1"),
        (bool | None, "true or false, or none"),
        (Literal["a", "b"], "'a' or 'b'"),
        (Literal["a", "b", "c"], "'a', 'b' or 'c'"),
        (Literal["a"] | None, "'a', or none"),
        (Literal["a", "none"] | None, "'a' or 'none'"),
        (Path, "a path"),
        (tuple[Positive, Positive, Positive] | None, "3 numbers above 0, or none"),
        (
            Annotated[tuple[Count | Literal["classes"], ...], AtLeastOne],
            "one or more whole numbers of at least 1 or 'classes'",
        ),
        (Annotated[tuple[Literal[1, 4], ...], AtLeastOne], "one or more of 1, 4"),
        (tuple[str, ...], "any number of texts"),
    ],
)
def test_types_are_said_in_words(hint, said):
    assert words(hint) == said


def _below(hint: Any) -> list[Any]:
    """Return values that a number may not have."""
    if bare(hint) not in (int, float):
        return []
    bad: list[Any] = [float("nan"), float("inf"), "many", True]
    for bound in get_args(hint)[1:]:
        bad += [bound.ge - 1] if hasattr(bound, "ge") else [bound.gt] if hasattr(bound, "gt") else []
        bad += [bound.lt] if hasattr(bound, "lt") else [bound.le + 1] if hasattr(bound, "le") else []
    return bad


def _wrong(hint: Any) -> Iterator[Any]:
    """Yield values that a field of a type may not have."""
    for each in alternatives(hint):
        if is_tuple(each):
            items = get_args(bare(each))
            some = items[:-1] if items[-1] is Ellipsis else items
            good = 1.0 if "float" in str(some[0]) else 1
            for bad in _below(next(iter(alternatives(some[0])))):
                yield bad if bad != "many" else [bad]
                yield [good] * (len(some) - 1) + [bad]
            if items[-1] is not Ellipsis:
                yield from ([good] * (len(items) + 1), [good] * (len(items) - 1), [], good)
            elif AtLeastOne in get_args(each)[1:]:
                yield []
        else:
            yield from _below(each)


def _fields(registry: Any) -> list[tuple[str, str]]:
    return [(name, f.name) for name in registry.names() for f in fields(registry.config(name))]


@pytest.mark.parametrize(("name", "field"), _fields(PROTOCOLS))
def test_every_setting_of_every_protocol_refuses_what_lies_outside_of_its_bounds(name, field):
    config = PROTOCOLS.config(name)
    assert config is PROTOCOLS[name].config
    hint = field_types(config)[field]
    assert not any(bare(each) in (int, float) and not limits(each) for each in alternatives(hint)) or field == "layer"
    for bad in _wrong(hint):
        with pytest.raises(UsageError, match=rf"^{name}\.{field}=.*: expected "):
            PROTOCOLS[name]().configure(overrides={field: bad})


@pytest.mark.parametrize(("name", "field"), _fields(METHODS))
def test_every_setting_of_every_method_refuses_what_lies_outside_of_its_bounds(name, field):
    config: Any = METHODS.config(name)
    hint = field_types(config)[field]
    assert not any(bare(each) in (int, float) and not limits(each) for each in alternatives(hint))
    for bad in _wrong(hint):
        with pytest.raises(UsageError, match=rf"^{field}=.*: expected "):
            apply_overrides(config(), {field: bad})


def test_messages_name_field_value_and_bound():
    def said(field: str, value: Any) -> str:
        with pytest.raises(UsageError) as caught:
            PROTOCOLS["hummingbird"]().configure(overrides={field: value})
        return str(caught.value)

    assert said("input_size", "0") == "hummingbird.input_size=0: expected at least 1."
    assert said("temperature", "nan") == "hummingbird.temperature=nan: expected a finite number above 0."
    assert said("fractions", "[0]") == "hummingbird.fractions=[0]: expected one or more whole numbers of at least 1."
    assert said("std", "[nan, 1, 1]") == ("hummingbird.std=[nan, 1, 1]: expected 3 finite numbers above 0, or none.")


def test_one_value_is_a_tuple_of_one():
    configure = PROTOCOLS["hummingbird"]().configure
    assert configure(overrides={"fractions": "1"}) == configure(overrides={"fractions": "[1]"})
    assert PROTOCOLS["overclustering"]().configure(overrides={"clusters": "classes"}).clusters == ("classes",)
    layers = [PROTOCOLS["correspondence"]().configure(overrides={"layers": value}).layers for value in ("all", "3")]
    assert layers == ["all", (3,)]


RUN = ["run", "--model", "pico", "--protocol", "all", "--dataset", "scenes", "--set"]
TRAIN = ["train", "paka", "--base", "pico", "--name", "x", "--set"]


@pytest.mark.parametrize(
    "words",
    [
        [*RUN, "hummingbird.neighbors=5"],
        [*RUN, "depth.steps=0"],
        [*RUN, "correspondence.facets=tokens"],
        [*TRAIN, "epoch=1"],
        [*TRAIN, "batch=0"],
        [*RUN, "hummingbird.neighbours=5", "--preset", "papr"],
        ["run", "--model", "pico", "--protocol", "depth", "--preset", "swep"],
    ],
)
def test_a_wrong_setting_is_refused_before_torch_is_imported(words):
    code = (
        "import sys\nfrom densebench.cli import main\n"
        f"try:\n    main({words})\nexcept SystemExit as end:\n    assert end.code == 2\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert words[-1].partition("=")[0].rpartition(".")[2] in done.stderr
