"""What --help says: a word for every option, examples that can be run, groups, and no waiting for torch."""

import dataclasses
import inspect
import shlex
import subprocess
import sys
import typing

import pytest

from densebench import cli
from densebench.cli.settings_page import meanings

VERBS = list(cli.VERBS.items())


def options(kind) -> typing.Iterator[tuple[str, object]]:
    """Yield (name, (type with annotations, words below it)) of every option of a verb, of its groups and verbs."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        groups = [each for each in plain(hint) if dataclasses.is_dataclass(each)]
        for group in groups:
            yield from options(group)
        if not groups:
            yield f"{kind.__name__}.{field.name}", (hint, meanings(kind).get(field.name))


def plain(hint) -> list[type]:
    """Return the classes that a type is made of."""
    parts = [part for part in typing.get_args(hint) if typing.get_origin(hint) is not typing.Annotated]
    if typing.get_origin(hint) is typing.Annotated:
        parts = [typing.get_args(hint)[0]]
    return [hint] if isinstance(hint, type) else [found for part in parts for found in plain(part)]


def helps(asked) -> list[str]:
    """Return the words of an option: below its field, or in its type."""
    hint, below = asked
    return [below] if below else words_in(hint)


def words_in(hint) -> list[str]:
    found = [each.help for each in getattr(hint, "__metadata__", ()) if getattr(each, "help", None)]
    return found + [text for part in typing.get_args(hint) for text in words_in(part)]


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_every_option_has_a_word(name, verb):
    found = dict(options(verb))
    assert found
    assert [option for option, hint in found.items() if not helps(hint)] == []


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_every_verb_has_examples_that_can_be_read(name, verb, monkeypatch, capsys):
    lines = [line.strip() for line in inspect.cleandoc(verb.__doc__).partition("Examples:\n")[2].splitlines()]
    assert len(lines) >= 2
    monkeypatch.setattr(cli, "_guarded", lambda asked: 17 if isinstance(asked, verb) else 1)
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "densebench"
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 17, line
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert all(line in " ".join(shown.split()) for line in lines)


def test_the_help_of_all_verbs_is_short_and_that_of_run_is_in_groups(capsys):
    for arguments in (["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 0
    every, run = capsys.readouterr().out.split("usage: densebench run")
    assert "Examples" not in every
    assert all(name in every for name, _ in VERBS)
    for group in ("measure", "images", "results", "machine"):
        assert f"{group} options" in run


def test_help_imports_neither_torch_nor_timm():
    code = (
        "import sys\nfrom densebench.cli import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'timm', 'densebench.runner.grid'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
