"""Names of models taken apart: `[NAME=]SPEC[@WEIGHTS[@ENTRY]]`. Nothing heavy is imported: a typo costs no time.

NAME is what tables, records and file names show. SPEC is a name of the zoo or the catalogue, `timm/NAME`,
`open_clip/ARCH:TAG`, `hf/REPO@REVISION` (whose @ is its own), `FILE.py:Class` or `CHECKPOINT.safetensors`, with options
after a question mark. WEIGHTS is a file; ENTRY says where in it the weights lie (`files/wrappers.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from densebench.core.errors import UsageError
from densebench.core.lists import split_list
from densebench.core.registry import unknown_name
from densebench.model_zoo.families import FAMILIES, MODELS, ModelSpec

if TYPE_CHECKING:
    from densebench.model_zoo.architecture import Positions

LONGEST_NAME = 60
SEEDS = 2**63
"""Seeds of `?random` lie below."""


def parse_spec(text: str, weights: str | Path | None = None) -> ModelSpec:
    """Take a model name apart; raises UsageError for names no family knows.

    >>> parse_spec("timm/vit_tiny_patch16_224?random=3").random_seed
    3
    >>> parse_spec("ep100=timm/vit_tiny_patch16_224@runs/100.pth@teacher").entry
    'teacher'
    """
    label, asked = _named(text)
    asked, own = _with_weights(asked)
    _refuse_transforms(asked, own)
    if own and weights is not None:
        raise UsageError(f"{text!r} names its weights after the @, and --weights gives {weights}: choose one.")
    given = own if weights is None else weights
    path, entry = weights_in(given) if given else (None, "")
    name, question, options = asked.partition("?")
    seed, positions = _options(asked, options) if question else (None, None)
    if path is not None and seed is not None:
        raise UsageError(f"{asked!r} asks for random weights, and {path} is given for them: choose one.")
    family, name = _family(asked, name)
    if positions and family != "zoo":
        raise UsageError(
            f"?pos goes with names of the catalogue and the zoo; {asked!r} interpolates as its library does."
        )
    if own and path is not None:
        label = label or "@".join(filter(None, (asked, path.stem, entry)))
    elif name.endswith(".safetensors"):
        file = Path(name)  # the zoo calls every file weights.safetensors, and the folder by its name
        stem = file.absolute().parent.name if file.stem == "weights" else file.stem
        label = label or stem + question + options
    return ModelSpec(asked, family, name, seed, path, positions, entry, label)


def parse_models(texts: Sequence[str], weights: str | Path | None = None) -> list[ModelSpec]:
    """Take the models of one request apart; one that is named twice in the same way counts once.

    Raises UsageError as `parse_spec` does, for weights that are not there, and where two models are called alike.
    """
    found: dict[str, ModelSpec] = {}
    for text in texts:
        spec = parse_spec(text, weights)
        if spec.weights is not None and not os.path.isfile(spec.weights):
            what = "it is a folder; give the file in it" if os.path.isdir(spec.weights) else "there is no such file"
            raise UsageError(f"{'weights' if weights is None else '--weights'} {spec.weights}: {what}.")
        other = found.setdefault(spec.shown, spec)
        if other != spec:
            raise same_name(spec.shown)
    return list(found.values())


def same_name(name: str) -> UsageError:
    """Return the error for two models of one name."""
    return UsageError(f"two models would be called {name!r} in tables; give each a name of its own: --model NAME=...")


def check_name(name: object, what: str) -> None:
    """Raise UsageError for what cannot be the name of a model in tables and files."""
    if not (isinstance(name, str) and re.match(r"\w", name) and name.isprintable() and len(name) <= LONGEST_NAME):
        raise UsageError(
            f"{what} is {str(name)[: LONGEST_NAME + 1]!r}; expected a letter or a digit, then at most "
            f"{LONGEST_NAME - 1} characters that can be printed."
        )


def split_models(text: str) -> list[str]:
    """Return the models of a comma-separated list; a comma inside the path of a file that exists parts nothing."""
    return split_list(text, _ends_in_a_file)


def weights_in(text: str | Path) -> tuple[Path, str]:
    """Return the file and the entry of FILE or FILE@ENTRY; a file whose own name has an @ comes first."""
    path = Path(os.path.expanduser(text))
    file, at, entry = str(path).rpartition("@")
    names_entry = at and file and re.fullmatch(r"\w+(\.\w+)*", entry) and (os.path.exists(file) or "." not in entry)
    return (Path(file), entry) if names_entry and not os.path.exists(path) else (path, "")


def _ends_in_a_file(text: str) -> bool:
    """Whether a model's text ends in the path of a file, after its @ or as a whole."""
    name, rest = _named(text, strict=False)
    asked, own = _with_weights(rest)
    if "," in name or own:
        return "," not in name + asked and os.path.isfile(weights_in(own)[0])
    file, python, adapter = asked.rpartition(".py:")
    path = Path(f"{file}.py" if python and "," not in adapter else asked.removeprefix("hf/").partition("?")[0])
    return os.path.isfile(path) or (asked.startswith("hf/") and os.path.isdir(path))


def _named(text: str, strict: bool = True) -> tuple[str, str]:
    """Return the name before the first = and what follows; "" where there is none."""
    name, equals, rest = text.partition("=")
    if not equals or re.search(r"[?/@:\\]", name) or os.path.exists(text):
        return "", text
    name = name.strip()
    if strict:
        check_name(name, "NAME in --model NAME=SPEC")
    return name, rest.strip()


def _refuse_transforms(asked: str, weights: str) -> None:
    """Raise UsageError for what reads as SPEC+TRANSFORM; a file's own name may hold a +."""
    found = re.fullmatch(r"(.+)(\+[a-z]\w*(?:=\S*)?)", weights or asked)
    path = Path(weights or asked.removeprefix("hf/").partition(".py:")[0])
    if found and not os.path.exists(path) and "/" not in found[2]:
        raise UsageError(f"transforms ({found[2]}) of a model's features are not built in; {found[1]!r} runs without.")


def _with_weights(asked: str) -> tuple[str, str]:
    """Return SPEC and what follows its @, "" where nothing does; the @ of `hf/` is a revision."""
    spec, at, weights = asked.partition("@")
    if not at or asked.startswith("hf/") or ".py:" in asked or os.path.isfile(asked):
        return asked, ""
    if not weights:
        raise UsageError(f"{asked!r} has no file after its @; expected {spec}@FILE.")
    return spec, weights


def _family(asked: str, name: str) -> tuple[str, str]:
    """Return who builds a model, and the name it is known by there; raises UsageError where nobody does."""
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.zoo import zoo_names

    prefix, slash, rest = name.partition("/")
    if ".py:" in name:
        return "file", name
    if slash and prefix in FAMILIES:
        return prefix, rest
    if name in MODELS or name in ENTRIES or name in zoo_names() or name.endswith(".safetensors"):
        return "zoo", name
    raise unknown_name("model", asked, [*MODELS.names(), *zoo_names(), *ENTRIES, *(f"{f.name}/..." for f in FAMILIES)])


def _options(text: str, options: str) -> tuple[int | None, Positions | None]:
    """Return the seed and the way of interpolation that follow a name's question mark."""
    seed, positions = None, None
    for option in options.split("&"):
        key, _, value = option.partition("=")
        if key == "random" and seed is None and (value or "0").isdecimal():
            seed = int(value or 0) if len(value) < len(str(SEEDS)) + 1 else SEEDS
            if seed >= SEEDS:
                raise UsageError(f"?random={value[:30]} in model {text[:60]!r}: expected a seed below 2**63.")
        elif option in ("pos=antialias", "pos=offset") and positions is None:
            positions = value
        else:
            kind = "repeated" if {"random": seed, "pos": positions}.get(key) is not None else "unknown"
            raise UsageError(
                f"{kind} option '?{option}' in model {text!r}; "
                "expected ?random, ?random=SEED, ?pos=antialias or ?pos=offset."
            )
    return seed, cast("Positions | None", positions)
