import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from densebench.core.errors import PluginError, UsageError
from densebench.core.registry import Registry


def make() -> Registry[type]:
    registry: Registry[type] = Registry("protocol", group="densebench.test")
    registry.add("hummingbird", "collections:OrderedDict", "first")
    registry.add("overclustering", "no_such_module:Thing")
    return registry


def test_entries_are_imported_on_first_use_only():
    registry = make()
    assert registry.names() == ["hummingbird", "overclustering"]  # the broken one is not touched
    assert registry["hummingbird"].__name__ == "OrderedDict"
    with pytest.raises(PluginError, match=r"the protocol 'overclustering' .* cannot be imported"):
        registry["overclustering"]


def test_what_is_registered_is_held_against_what_its_kind_needs():
    registry: Registry[type] = Registry("dataset", group="densebench.test", needs=("info", "keys"))
    registry.add("odd", "collections:OrderedDict", "from acme")
    with pytest.raises(PluginError, match=r"the dataset 'odd' \(from acme\) .* has no info, as every dataset has"):
        registry["odd"]


BROKEN = {
    "raises": "raise ValueError('it needs\\na compiler')",
    "exits": "raise SystemExit(0)",
    "absent": "import no_such_module_at_all",
    "odd": "Thing = 5",
    "init": "from densebench.datasets.scenes.dataset import Scenes\nfrom dataclasses import replace\n"
    "class Thing(Scenes):\n    info = replace(Scenes.info, name='init', embedded=False)\n"
    "    def __init__(self, *a): raise KeyError('where')",
}


@pytest.fixture
def plugins(tmp_path):
    """A folder with an installed package whose entry points are broken in five ways, and one takes a taken name."""
    described = tmp_path / "acme-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    for name, code in BROKEN.items():
        (tmp_path / f"acme_{name}.py").write_text(code)
    points = "\n".join(f"{name} = acme_{name}:Thing" for name in BROKEN)
    taken = {"datasets": "scenes", "protocols": "hummingbird"}
    (described / "entry_points.txt").write_text(
        "\n".join(f"[densebench.{kind}]\n{points}\n{name} = acme_raises:Thing\n" for kind, name in taken.items())
    )
    return tmp_path


def test_broken_plugins_cost_themselves_alone(plugins):
    def call(*arguments):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(plugins)])}
        return subprocess.run(
            [sys.executable, "-m", "densebench", *arguments], env=environment, capture_output=True, text=True,
            cwd=plugins, check=False,
        )  # fmt: skip

    listed = call("list", "datasets")
    assert listed.returncode == 0, listed.stderr
    for name in ("raises", "exits", "absent", "odd"):
        assert re.search(
            rf"^{name} +broken: the dataset '{name}' \(from acme\) cannot be imported", listed.stdout, re.M
        )
    assert re.search(r"^init +not as expected, see `densebench data where init`", listed.stdout, re.M)
    assert "it raised KeyError: 'where'" in call("data", "where", "init").stdout
    assert listed.stderr.count("the dataset 'scenes' from acme is left out: the name is taken by densebench.") == 1
    assert call("list", "protocols").returncode == 0

    run = call("run", "--model", "pico", "--protocol", "all", "--set", "hummingbird.input_size=56", "--limit", "4",
               "--workers", "0", "--dry-run")  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert "hummingbird" in run.stdout + run.stderr
    one = call("run", "--model", "pico", "--protocol", "raises", "--dataset", "scenes")
    assert (one.returncode, one.stderr.count("Traceback")) == (1, 0)
    assert "cannot be imported from acme_raises:Thing: ValueError: it needs. Fix or uninstall" in one.stderr


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UsageError, match=r"unknown protocol 'humingbird'; did you mean 'hummingbird'"):
        make()["humingbird"]


def test_wildcards_expand_in_order_without_repeats():
    assert make().match(["o*", "hum*", "hummingbird"]) == ["overclustering", "hummingbird"]
    with pytest.raises(UsageError, match="unknown protocol 'x\\*'"):
        make().match(["x*"])


@pytest.mark.parametrize("arguments", [["--help"], ["list", "protocols"], ["list", "models"], ["list", "datasets"]])
def test_light_verbs_load_neither_torch_nor_timm(arguments):
    code = (
        "import sys\nfrom densebench.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'scipy', 'pandas'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_taken_name_and_a_thing_of_another_kind_are_refused():
    registry = make()
    with pytest.raises(UsageError, match="the protocol 'hummingbird' is registered already: collections:OrderedDict"):
        registry.add("hummingbird", "collections:Counter")
    registry.add("hummingbird", "collections:OrderedDict")  # the same again is no other
    registry.add("hummingbird", "collections:Counter", replace=True)
    assert registry["hummingbird"].__name__ == "Counter"
    typed: Registry[type] = Registry("dataset", group="densebench.test", needs=("info",))
    with pytest.raises(UsageError, match="cannot be the dataset 'odd': it has no info, as every dataset has"):
        typed.add("odd", dict)
