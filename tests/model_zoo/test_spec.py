"""Names of models: what a text asks for, what tables call it, and what is said of one that means nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from densebench.core.errors import DensebenchError, ModelError, UsageError
from densebench.features.source import FeatureSource
from densebench.model_zoo import MODELS, load_model, parse_models, parse_spec, register_model, split_models
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.spec import weights_in
from densebench.results.store import ResultStore, slug
from densebench.runner.grid import run_request
from densebench.runner.request import Request
from tests import toys
from tests.cli.test_run import Command, records

TINY = "vit_tiny_patch16_224"


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    toys.write_voc(tmp_path / "data")
    (tmp_path / "mine.py").write_text("from tests.toys import *\nclass Heir(ColorBackbone):\n    pass\n")
    return Command(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("text", "shown", "asked", "weights", "entry"),
    [
        ("pico", "pico", "pico", None, ""),
        ("pico?random=3", "pico?random=3", "pico?random=3", None, ""),
        ("seed 3=pico?random=3", "seed 3", "pico?random=3", None, ""),
        ("ep100=timm/vit@runs/lr=1/100.pth", "ep100", "timm/vit", "runs/lr=1/100.pth", ""),
        ("timm/vit@runs/100.pth", "timm/vit@100", "timm/vit", "runs/100.pth", ""),
        ("dino_vits16@ckpt.pth@teacher", "dino_vits16@ckpt@teacher", "dino_vits16", "ckpt.pth", "teacher"),
        ("a=dino_vits16@ckpt@student.module", "a", "dino_vits16@ckpt@student.module", None, None),
        ("hf/org/name@main", "hf/org/name@main", "hf/org/name@main", None, ""),
        ("s=hf/org/name@main", "s", "hf/org/name@main", None, ""),
        ("runs/x/weights.safetensors", "x", "runs/x/weights.safetensors", None, ""),
        ("runs/ep100.safetensors", "ep100", "runs/ep100.safetensors", None, ""),
        ("./a=b/ep100.safetensors?random", "ep100?random", "./a=b/ep100.safetensors?random", None, ""),
        ("d@1/mine.py:Mine", "d@1/mine.py:Mine", "d@1/mine.py:Mine", None, ""),
        ("open_clip/ViT-B-16:x@w.pt", "open_clip/ViT-B-16:x@w", "open_clip/ViT-B-16:x", "w.pt", ""),
    ],
)
def test_a_text_is_a_name_a_model_weights_and_an_entry(text, shown, asked, weights, entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if entry is None:  # a dotted entry needs its file: without, it may be the file's ending
        (tmp_path / "ckpt").touch()
        asked, weights, entry = "dino_vits16", "ckpt", "student.module"
    spec = parse_spec(text)
    assert (spec.shown, spec.text, spec.entry) == (shown, asked, entry)
    assert spec.weights == (weights and Path(weights))


def test_files_whose_own_names_hold_signs_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.safetensors", "v@2.safetensors", "w@teacher", "x,1.pth", "in,2/m.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert parse_spec("a=b.safetensors").name == "a=b.safetensors"
    assert parse_spec("v@2.safetensors").name == "v@2.safetensors"
    assert weights_in("w@teacher") == (Path("w@teacher"), "")
    assert weights_in("x,1.pth@teacher") == (Path("x,1.pth"), "teacher")
    models = ["a=timm/vit@x,1.pth", "pico", "b=dino_vits16@x,1.pth@teacher", "in,2/m.py:A", "in,2/m.py:B", "pico"]
    assert split_models(",".join(models)) == models
    assert split_models(" pico , ,a=pico?random,") == ["pico", "a=pico?random"]


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        ("=pico", None, "NAME in --model NAME=SPEC is ''; expected a letter or a digit"),
        ("-x=pico", None, "NAME in --model NAME=SPEC is '-x'"),
        ("a\nb=pico", None, r"NAME in --model NAME=SPEC is 'a\\nb'"),
        (f"{'n' * 61}=pico", None, "at most 59 characters"),
        ("a=pixo", None, "unknown model 'pixo'; did you mean 'pico'"),
        ("pico@", None, "'pico@' has no file after its @"),
        ("timm/vit@a.pth", "b.pth", "names its weights after the @, and --weights gives b.pth: choose one"),
        ("timm/vit?random@a.pth", None, "asks for random weights, and a.pth is given for them"),
        ("pico?random=1" + 24 * "0", None, "expected a seed below 2\\*\\*63"),
        ("pico?random=9" + 5000 * "9", None, "expected a seed below 2\\*\\*63"),
        (f"pico?random={2**63}", None, "expected a seed below 2\\*\\*63"),
        ("timm/vit@w.pth+debias", None, r"transforms \(\+debias\)"),
        ("pico+debias", None, r"transforms \(\+debias\)"),
    ],
)
def test_what_means_nothing_is_said(text, weights, message):
    with pytest.raises(UsageError, match=message) as error:
        parse_spec(text, weights)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["x" * 5000, "a=" + "x" * 5000 + ".safetensors", "d/" * 3000 + "m.py:A", "a\0b"])
def test_a_text_that_is_too_long_for_a_path_is_an_unknown_name(text):
    """Of which a list of many models is one, until it is split."""
    with pytest.raises(UsageError, match=r"unknown model|does not exist"):
        load_model(text)
    assert split_models(f"{text},pico") == [text, "pico"]


def test_the_largest_seed_is_a_seed():
    assert parse_spec(f"pico?random={2**63 - 1}").random_seed == 2**63 - 1
    torch.manual_seed(2**63 - 1)


def test_two_models_of_one_name_are_refused_and_one_named_twice_is_one(tmp_path):
    assert [spec.shown for spec in parse_models(["pico", "a=pico", "pico"])] == ["pico", "a"]
    with pytest.raises(UsageError, match=r"two models would be called 'a' in tables; .* --model NAME="):
        parse_models(["a=pico", "a=pico?random"])
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.pth").touch()
    with pytest.raises(UsageError, match="two models would be called 'timm/vit@w'"):
        parse_models([f"timm/vit@{tmp_path}/x/w.pth", f"timm/vit@{tmp_path}/y/w.pth"])
    with pytest.raises(UsageError, match=r"weights .*/x: it is a folder; give the file in it"):
        parse_models([f"a=timm/vit@{tmp_path}/x"])


def test_the_name_is_in_the_record_its_file_and_the_table(cli):
    state = create(TINY).state_dict()
    save_file(state, cli.folder / "100.safetensors")
    quick = {"input_size": 64, "fractions": (1,)}
    request = Request(
        model=split_models(
            f"ep100=timm/{TINY}@100.safetensors,mine.py:ColorBackbone,second=mine.py:ColorBackbone,mine.py:Heir"
        ),
        protocol=["hummingbird"], dataset=["voc"], data_root="data", settings={"hummingbird": quick}, workers=0,
    )  # fmt: skip
    done = run_request(request)
    found = list((cli.folder / "results/records/voc/hummingbird").glob("*.json"))
    # the name of a class that inherits its info would be another's
    named = ["ep100", "color", "second", "Heir"]
    assert [record.model.name for record in done.done] == named
    assert {path.name.partition("--")[0] for path in found} == set(named)
    assert [record.model.name for record in run_request(request).kept] == named


def test_two_classes_of_one_name_fail_in_words_and_the_first_is_measured(cli):
    (cli.folder / "mine.py").write_text(
        "import dataclasses\nfrom tests.toys import *\n\n\n"
        "class Other(ColorBackbone):\n    info = dataclasses.replace(ColorBackbone.info, depth=1)\n"
    )
    done = cli.run("--protocol", "hummingbird", model="mine.py:ColorBackbone,mine.py:Other")
    assert done.returncode == 1
    assert "two models would be called 'color'" in done.stderr
    assert records(cli.folder)["hummingbird"]["model"]["depth"] == 2


def test_a_name_says_nothing_of_the_network_to_the_caches():
    """Two nets of equal weights and other arithmetic, called alike one after the other."""
    sources = [FeatureSource(load_model(f"same={name}?random")) for name in ("dino_vits16", "ibot_vits16")]
    assert {source.info.name for source in sources} == {"same"}
    assert [source.backbone.identity for source in sources] == ["dino_vits16", "ibot_vits16"]


def test_a_typo_imports_no_torch(tmp_path):
    code = (
        "import sys\nfrom densebench.cli import main\n"
        "try:\n    main(['run', '--model', 'a=pixo@w.pth'])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False", "False"]
    assert "unknown model 'pixo'" in done.stderr


# code that is not ours


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise SystemExit(0)", "raised SystemExit: 0"),
        ("class Ends(ColorBackbone):\n    def __init__(self):\n        exit(0)", "raised SystemExit: 0"),
        ("class Ends(ColorBackbone):\n    def tokens(self, *a):\n        exit(0)", "raised SystemExit: 0"),
        ("class Ends(ColorBackbone):\n    info = {'name': 'x'}", "declares no `info`"),
        ("class Ends(ColorBackbone):\n    info = dataclasses.replace(ColorBackbone.info, name='')", "info of .* is ''"),
    ],
)
def test_an_adapter_that_ends_the_process_is_an_error_and_no_success(body, said, cli):
    (cli.folder / "mine.py").write_text(f"import dataclasses\nfrom tests.toys import *\n{body}\n")
    done = cli.run("--protocol", "hummingbird", model="mine.py:Ends")
    assert done.returncode in (1, 2)
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert cli("check-model", "mine.py:Ends", "--quiet").returncode in (1, 2)


def test_a_registered_adapter_that_raises_is_an_error_in_words(monkeypatch):
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))

    def ends():
        raise SystemExit(0)

    register_model("ends", ends)
    register_model("no-module", "no_such_module:Class")
    with pytest.raises(ModelError, match="ends raised SystemExit: 0"):
        load_model("ends")
    with pytest.raises(DensebenchError, match=r"'no-module' .* ModuleNotFoundError: No module named 'no_such_module'"):
        load_model("no-module")
    with pytest.raises(UsageError, match="builds its own weights"):
        load_model("ends?random")


# file names


def test_long_names_are_cut_and_stay_apart(tmp_path):
    long = "hf/" + 300 * "x"
    assert len(slug(long)) == 100
    assert slug(long) != slug(long + "y")
    assert slug("timm/vit_small?random=3") == "timm-vit_small-random=3"
    path = ResultStore(tmp_path).path(
        dataset="voc", protocol="hummingbird", model=long, preset="paper", score_hash=16 * "0"
    )
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.name}.{8 * 'x'}").touch()  # what an unfinished file is called
    (tmp_path / f"{path.stem}.lock").touch()
