"""A grid of cells: whatever one of them raises costs itself alone; several processes share one; plans have a total."""

import dataclasses
import re
import subprocess
import sys
import threading
import time

import pytest
import torch

from densebench.cli import ways
from densebench.core.errors import DensebenchError, UsageError
from densebench.datasets import DATASETS
from densebench.datasets.sets.voc import VOC
from densebench.model_zoo.catalog import ENTRIES
from densebench.protocols import PROTOCOLS
from densebench.results.store import ResultStore
from densebench.runner import grid as runner
from densebench.runner import plan
from densebench.runner.failures import to_user_error
from tests.cli.test_run import QUICK, cli, records, records_exist  # noqa: F401  (a fixture)

BOTH = ("--protocol", "hummingbird,overclustering")


def odd(error):
    def run(*arguments):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("odd\nand more"), "unexpected ValueError in run at cli/test_grid.py:"),
        (SystemExit(0), "unexpected exit in run at cli/test_grid.py:"),
    ],
)
def test_whatever_a_cell_raises_is_one_line_and_the_next_cell_runs(cli, monkeypatch, error, said):  # noqa: F811
    monkeypatch.setattr(PROTOCOLS["hummingbird"], "run", odd(error))
    done = cli.run(*BOTH)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: color / hummingbird / voc: ")
    assert said in line
    assert "Traceback" not in done.stderr
    assert set(records(cli.folder)) == {"overclustering"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("odd"), r"unexpected KeyError in test_\w+ at cli/test_grid.py:\d+: 'odd'; --debug shows .*"),
        (AssertionError(), r"unexpected AssertionError in \w+ at cli/test_grid.py:\d+; --debug shows .* report it\."),
        (MemoryError(), r"main memory is too small\. Try a smaller --batch-size\. Use less\."),
        (torch.OutOfMemoryError(), r"the GPU has too little memory\. .* Use less\."),
        (FileNotFoundError(2, "No such file", "gone"), r"gone cannot be used \(No such file\)\. .*"),
        (UsageError("in words"), "in words"),
    ],
)
def test_every_exception_is_an_error_in_words_that_holds_no_frames(error, said):
    try:
        raise error
    except Exception as caught:
        known = to_user_error(caught, hint="Use less.")
    assert isinstance(known, DensebenchError)
    assert re.fullmatch(said, str(known))
    assert known.trace.startswith("Traceback (most recent call last)")
    assert known.__traceback__ is known.__cause__ is known.__context__ is None


def test_a_protocol_that_raises_before_it_is_run_costs_itself_alone(cli, monkeypatch):  # noqa: F811
    monkeypatch.setattr(PROTOCOLS["hummingbird"], "unsupported_reason", odd(LookupError("odd")))
    done = cli.run(*BOTH)
    assert done.returncode == 1
    assert "failed: color / hummingbird: unexpected LookupError in run at cli/test_grid.py:" in done.stderr
    assert set(records(cli.folder)) == {"overclustering"}


def test_what_nobody_foresaw_says_where_and_keeps_its_traceback_for_debug(cli, monkeypatch):  # noqa: F811
    monkeypatch.setattr(PROTOCOLS["hummingbird"], "run", odd(ValueError("odd")))
    done = cli.run("--protocol", "hummingbird", "--debug")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert ", called from runner/grid.py:" in line
    assert line.endswith("odd; --debug shows the traceback, please report it.")
    assert "Traceback (most recent call last)" in done.stderr
    assert "raise error" in done.stderr


def test_ctrl_c_ends_the_run(cli, monkeypatch):  # noqa: F811
    monkeypatch.setattr(PROTOCOLS["hummingbird"], "run", odd(KeyboardInterrupt()))
    done = cli.run(*BOTH)
    assert done.returncode == 130
    assert not records_exist(cli.folder)


@pytest.mark.parametrize("error", ["raise SystemExit(0)", "1 / 0"])
def test_a_model_that_cannot_be_built_costs_itself_alone(cli, error):  # noqa: F811
    (cli.folder / "mine.py").write_text(
        "from tests.toys import *\n\n\nclass Broken(ColorBackbone):\n"
        f"    def __init__(self):\n        super().__init__()\n        {error}\n"
    )
    done = cli.run("--protocol", "hummingbird", model="mine.py:Broken,mine.py:ColorBackbone")
    assert done.returncode == 1
    assert "failed: mine.py:Broken: " in done.stderr
    assert "(mine.py, line 7)" in done.stderr
    assert records(cli.folder)["hummingbird"]["model"]["name"] == "color"
    alone = cli.run("--protocol", "hummingbird", model="mine.py:Broken")
    assert alone.returncode == 1
    assert "Traceback" not in done.stderr + alone.stderr
    assert cli("check-model", "mine.py:Broken").returncode == 1


def test_an_adapter_that_exits_while_it_runs_is_no_success(cli):  # noqa: F811
    (cli.folder / "mine.py").write_text(
        "from tests.toys import *\n\n\nclass Exits(ColorBackbone):\n"
        "    def tokens(self, *arguments):\n        raise SystemExit(0)\n"
    )
    done = cli.run("--protocol", "hummingbird", model="mine.py:Exits")
    assert done.returncode == 1
    assert "raised SystemExit: 0 (mine.py, line 6)" in done.stderr
    checked = cli("check-model", "mine.py:Exits")
    assert checked.returncode == 1
    assert "failed" in checked.stdout


class Exits(VOC):
    """A dataset of a plugin that ends the process while it is listed."""

    info = dataclasses.replace(VOC.info, name="exits")

    def __init__(self, *arguments):
        raise SystemExit(0)


class Odd(Exits):
    """One that raises what nobody foresaw."""

    info = dataclasses.replace(VOC.info, name="odd")

    def __init__(self, *arguments):
        raise LookupError("no such thing")


def test_a_dataset_that_cannot_be_loaded_costs_itself_alone(cli, monkeypatch):  # noqa: F811
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.setattr(DATASETS, "_loaded", dict(DATASETS._loaded))
    for name, kind in (("exits", Exits), ("odd", Odd)):
        DATASETS.add(name, kind)
    DATASETS.add("gone", "no_such_module:Gone")
    done = cli.run("--protocol", "hummingbird", "--dataset", "exits,odd,gone,voc")
    assert done.returncode == 1
    for name in ("exits", "odd", "gone"):
        assert f"failed: color / hummingbird / {name}: " in done.stderr
    assert "unexpected LookupError in __init__ at cli/test_grid.py:" in done.stderr
    assert set(records(cli.folder)) == {"hummingbird"}
    everything = cli("run", "--model", "mine.py:ColorBackbone", "--data-root", "data", "--dry-run")
    assert everything.returncode == 0
    assert "the dataset 'gone'" in everything.stderr
    assert "color / hummingbird / voc" in everything.stderr


def test_a_cell_that_another_process_is_at_is_waited_for_behind_the_others(cli, monkeypatch):  # noqa: F811
    assert cli.run(*BOTH).returncode == 0
    first, second = (next(cli.folder.glob(f"results/records/voc/{name}/*.json")) for name in BOTH[1].split(","))
    kept = first.read_bytes()
    for path in (first, second):
        path.unlink()
    monkeypatch.setattr(runner, "POLL", 0.02)

    def other_process():
        with ResultStore("results").lease(first):
            held.set()
            deadline = time.time() + 60
            while not second.exists() and time.time() < deadline:
                time.sleep(0.02)
            first.write_bytes(kept)

    held = threading.Event()
    thread = threading.Thread(target=other_process)
    thread.start()
    held.wait(10)
    done = cli.run(*BOTH)
    thread.join()
    assert done.returncode == 0, done.stderr
    assert "color / hummingbird / voc: another process is at it; the next free one first." in done.stderr
    assert "waiting for what another process is at: color / hummingbird / voc." in done.stderr
    assert "1 results were in results already; 1 are new." in done.stderr
    assert first.read_bytes() == kept


def test_a_finished_cell_is_one_line_with_scores_time_and_paths(cli):  # noqa: F811
    done = cli.run("--protocol", "hummingbird")
    (line,) = [line for line in done.stderr.splitlines() if ".json" in line]
    (path,) = cli.folder.glob("results/records/voc/hummingbird/*.json")
    score = records(cli.folder)["hummingbird"]["metrics"][0]
    low, high = score["ci95"]
    assert line.startswith("color / hummingbird / voc (6 of 1449, ")
    assert f"): {score['name']}@{score['at']['fraction']} {score['value']:.1f} % [{low:.1f}, {high:.1f}]; " in line
    assert f"; {path.relative_to(cli.folder)}, " in line
    assert line.endswith(f"in {path.relative_to(cli.folder).with_suffix('')}")


def plain(cli, *arguments):  # noqa: F811
    return cli(
        "run", "--model", "mine.py:ColorBackbone", "--data-root", "data", "--protocol", "hummingbird", *arguments
    )


@pytest.fixture
def begun(monkeypatch):
    """Cells that begin end at once: what is tested is whether they begin."""
    monkeypatch.setattr(PROTOCOLS["hummingbird"], "run", odd(ValueError("begun")))


def test_a_long_plan_that_nobody_named_datasets_for_needs_a_yes(cli, monkeypatch, begun):  # noqa: F811
    monkeypatch.setattr(plan, "ASK_ABOVE", 0.0)
    asked = plain(cli, *QUICK)
    assert asked.returncode == 2
    assert "color / hummingbird / voc (" in asked.stderr
    assert "total: 1 cell (1 model, 1 dataset), about " in asked.stderr
    assert "--yes" in asked.stderr
    assert "begun" not in asked.stderr
    assert plain(cli, *QUICK, "--dry-run").returncode == 0
    assert "ValueError in run" in plain(cli, *QUICK, "--yes").stderr
    assert "ValueError in run" in plain(cli, *QUICK, "--dataset", "voc").stderr


@pytest.mark.parametrize(("answer", "begins"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_a_terminal_is_asked(cli, monkeypatch, begun, answer, begins):  # noqa: F811
    monkeypatch.setattr(plan, "ASK_ABOVE", 0.0)

    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return answer

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: True, raising=False)
    done = plain(cli, *QUICK)
    assert done.returncode == (1 if begins else 2)
    assert "Begin? [y/N]" in done.stderr
    assert ("ValueError in run" in done.stderr) == begins


def test_a_short_plan_says_its_total_and_begins(cli, begun):  # noqa: F811
    done = plain(cli, *QUICK)
    assert "total: 1 cell (1 model, 1 dataset), about " in done.stderr
    assert "ValueError in run" in done.stderr


def test_what_is_not_here_is_one_line_and_the_ways_on_come_last(cli):  # noqa: F811
    """The mission's own command on a machine without weights and data."""
    (cli.folder / "empty").mkdir()
    done = cli("run", "--model", "paka_vits14", "--protocol", "all")
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("not run: 16 datasets are not here (no data root is given: ")
    assert "voc, ade20k, coco_things" in lines[0]
    assert lines[1] == "failed: paka_vits14: its weights are not on this machine. Ways on:"
    assert lines[2].startswith("  fetch: nobody published them; a file (about 88 MB) ")
    assert lines[3] == "  train: densebench train paka --base dinov2xr_vits14 --data coco --name paka_vits14"
    assert "25 epochs of 118,287 images" in lines[4]
    assert lines[5].startswith("    from dinov2xr_vits14 (fetchable, about 88 MB) on coco (20 GB, ")
    assert lines[6].endswith("built-in paka_pico, made by paka: densebench run --model paka_pico --protocol all")
    assert len(lines) == 7


@pytest.mark.parametrize(
    "name", [name for name, entry in ENTRIES.items() if entry.make or (entry.file and not entry.file.url)]
)
def test_every_model_that_nobody_can_fetch_has_ways_on(name, monkeypatch):
    monkeypatch.setattr(ways, "measured_flops", lambda device: 1e12)
    lines = ways.ways_on(name)
    assert lines[0] == f"failed: {name}: its weights are not on this machine. Ways on:"
    assert lines[1].startswith("  fetch: ")
    assert lines[-1].endswith("_pico --protocol all" if ENTRIES[name].make else " --protocol all")
    assert any(line.startswith(f"  train: {ENTRIES[name].make}") for line in lines) == bool(ENTRIES[name].make)


WRONG = """
import sys
class Without:
    def find_spec(self, name, *more):
        if name == "torch":
            raise ImportError("torch is not asked for yet")
sys.meta_path.insert(0, Without())
from densebench.cli import main
for arguments in {arguments}:
    try:
        main(arguments)
    except SystemExit as end:
        print(end.code)
"""


def test_wrong_names_numbers_and_files_are_said_before_torch_is_imported(cli):  # noqa: F811
    pico = ["--model", "pico"]
    (cli.folder / "flat.toml").write_text("hummingbird = 5\n")
    requests = {
        ("--model", "picoo"): "unknown model 'picoo'; did you mean 'pico'",
        (*pico, "--protocol", "humingbird"): "did you mean 'hummingbird'?",
        (*pico, "--dataset", "vok"): "did you mean 'voc'?",
        (*pico, "--train-dataset", "vok"): "did you mean 'voc'?",
        (*pico, "--set", "humingbird.neighbours=3"): "did you mean 'hummingbird'?",
        (*pico, "--seed", str(2**63)): f"--seed {2**63}: expected at least 0, at most {2**63 - 1}",
        (*pico, "--data-root", "nowhere"): "--data-root nowhere does not exist",
        ("--model", "no.py:Model"): "no.py does not exist",
        (*pico, "--config", "none.toml"): "none.toml does not exist",
        (*pico, "--config", "flat.toml"): "flat.toml: hummingbird = 5 stands outside a table; expected [PROTOCOL]",
    }
    others = {
        ("train", "pakka", "--base", "pico", "--name", "x"): "unknown method 'pakka'; did you mean 'paka'",
        ("train", "paka", "--base", "picoo", "--name", "x"): "unknown model 'picoo'; did you mean 'pico'",
        ("pseudolabel", "--model", "picoo", "--out", "x"): "unknown model 'picoo'; did you mean 'pico'",
        ("check-model", "picoo"): "unknown model 'picoo'; did you mean 'pico'",
    }
    requests = {("run", *request): said for request, said in requests.items()} | others
    code = WRONG.format(arguments=[list(request) for request in requests])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["2"] * len(requests), done.stderr
    for line, said in zip(done.stderr.splitlines(), requests.values(), strict=True):
        assert said in line


def test_the_largest_seed_runs_and_is_recorded(cli):  # noqa: F811
    done = cli.run("--seed", str(2**63 - 1), "--protocol", "positional_effect")
    assert done.returncode == 0, done.stderr
    assert {record["seed"] for record in records(cli.folder).values()} == {2**63 - 1}


def test_a_settings_file_of_another_shape_is_said(cli, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "settings.toml").write_text("data_root = 5\n")
    monkeypatch.setenv("DENSEBENCH_CONFIG", str(tmp_path / "settings.toml"))
    done = cli("run", "--model", "mine.py:ColorBackbone", "--protocol", "hummingbird", "--dataset", "voc")
    assert done.returncode == 2
    assert "data_root = 5; expected the path of a folder" in done.stderr
    assert "Traceback" not in done.stderr
