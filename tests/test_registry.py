import subprocess
import sys

import pytest

from densebench.errors import PluginError, UsageError
from densebench.registry import Registry


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
