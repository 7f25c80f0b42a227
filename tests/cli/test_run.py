"""`densebench run` as a user meets it: a second run, a kill, wrong requests, broken data. One process per command."""

import dataclasses
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.datasets import DATASETS
from densebench.datasets.sets.voc import VOC
from densebench.ops.cbfe import has_infomap
from densebench.protocols import PROTOCOLS
from densebench.results import counts
from tests import toys

REPOSITORY = Path(__file__).parents[2]
QUICK = [
    "--set", "hummingbird.input_size=64", "--set", "hummingbird.fractions=[1]",
    "--set", "overclustering.input_size=64", "--set", "overclustering.clusters=[21]",
    "--set", "overclustering.seeds=[0]", "--set", "overclustering.n_redo=1",
    "--set", "positional_effect.input_size=64", "--set", "positional_effect.steps=20",
    "--set", "positional_effect.clusters=4",
    "--set", "positional_effect.init_batches=2",
    "--set", "linear_segmentation.input_size=64", "--set", "linear_segmentation.epochs=1",
    "--set", "linear_segmentation_cached.input_size=64", "--set", "linear_segmentation_cached.epochs=1",
    "--set", "finetune_segmentation.input_size=64", "--set", "finetune_segmentation.steps=2",
    "--set", "finetune_segmentation.batch=2", "--set", "finetune_segmentation.evaluations=1",
    "--set", "depth.steps=2", "--set", "depth.batch=2", "--pictures", "2",
    "--set", "unsupervised_segmentation.n_redo=1", "--workers", "0",
]  # fmt: skip

SERVED = {
    "hummingbird", "overclustering", "positional_effect", "linear_segmentation", "linear_segmentation_cached",
    "finetune_segmentation",
}  # fmt: skip
"""What masks and a backbone without attention are enough for."""


class Command:
    """Runs the command line inside the test's process, as a user would in `folder`."""

    def __init__(self, folder, capsys, monkeypatch):
        self.folder, self.capsys = folder, capsys
        monkeypatch.chdir(folder)

    def __call__(self, *arguments) -> subprocess.CompletedProcess:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = self.capsys.readouterr()
        return subprocess.CompletedProcess(arguments, end.value.code or 0, out, err)

    def run(self, *arguments, model="mine.py:ColorBackbone") -> subprocess.CompletedProcess:
        """`densebench run` on the toy data."""
        return self("run", "--model", model, "--dataset", "voc", "--data-root", "data", *QUICK, *arguments)


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    """The command line in a folder with toy data and an adapter file, as a user has it."""
    toys.write_voc(tmp_path / "data")
    (tmp_path / "mine.py").write_text("from tests.toys import *\n")
    return Command(tmp_path, capsys, monkeypatch)


def records(place) -> dict[str, dict]:
    found = [json.loads(p.read_text()) for p in sorted((place / "results" / "records").glob("*/*/*.json"))]
    return {r["protocol"]["name"]: r for r in found}


def test_all_protocols_make_records_a_table_and_a_leaderboard_and_a_second_run_does_nothing(cli):
    first = cli.run()
    assert first.returncode == 0, first.stderr
    found = records(cli.folder)
    assert set(found) == SERVED
    assert all(name in first.stdout for name in ("miou@1", "miou@K=21", "nmi"))
    assert (cli.folder / "results" / "leaderboard.csv").read_text().count("\n") > 5
    assert "### hummingbird" in (cli.folder / "results" / "leaderboard.md").read_text()
    assert not (cli.folder / "results" / "plots").exists()
    for name, record in found.items():
        assert record["cost"]["seconds"]["total"] > 0
        assert record["cost"]["peak_memory_bytes"] > 1e7
        assert record["cost"]["bank_bytes"] > 0
        assert record["data"]["val"]["n_images"] == 6
        assert record["model"]["weights_sha256"]
        assert record["model"]["parameters"] == 1  # the one factor of a backbone that computes colours
        assert record["cost"]["images_per_second"] > 0
        for artifact in record["artifacts"]:
            assert (cli.folder / "results/records/voc" / name / artifact).stat().st_size > 1000
        kept = record["statistics"]
        content = (cli.folder / "results/records/voc" / name / kept["file"]).read_bytes()
        assert (kept["n_bytes"], kept["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert kept["file"] in record["artifacts"]
        found_kept = counts.read_npz(content)
        assert len(found_kept.ids) == record["data"]["val"]["n_images"]
        values = [(metric["value"], found_kept.of(metric["name"], metric["at"])) for metric in record["metrics"]]
        assert any(entries for _, entries in values)
        assert all(counts.value(entries) == pytest.approx(value, rel=1e-9) for value, entries in values if entries)
    before = {p: p.stat().st_mtime_ns for p in (cli.folder / "results" / "records").rglob("*.json")}
    second = cli.run()
    assert second.returncode == 0
    assert f"nothing to do: all {len(SERVED)} results" in second.stderr
    assert second.stdout == first.stdout
    assert cli.run("--plots").returncode == 0
    names = {path.name for path in (cli.folder / "results" / "plots").glob("*.png")}
    assert len(names) >= len(SERVED)
    assert all(f"](plots/{name})" in (cli.folder / "results" / "leaderboard.md").read_text() for name in names)
    assert before == {p: p.stat().st_mtime_ns for p in (cli.folder / "results" / "records").rglob("*.json")}


def test_json_goes_to_stdout_and_progress_to_stderr(cli):
    done = cli.run("--protocol", "hummingbird", "--json")
    assert [r["protocol"]["name"] for r in json.loads(done.stdout)] == ["hummingbird"]
    assert "memory 1/1" in done.stderr


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(cli, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(cli.folder / "other-cache"))
    assert cli.run("--out", "reference").returncode == 0
    monkeypatch.setenv("DENSEBENCH_CACHE", str(cli.folder / "cache"))
    command = [
        sys.executable, "-m", "densebench", "run", "--model", "mine.py:ColorBackbone", "--dataset", "voc",
        "--data-root", "data", *QUICK,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=cli.folder, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not records_exist(cli.folder) and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = cli.run()
    assert done.returncode == 0, done.stderr
    assert "were in results already" in done.stderr

    def numbers(folder):
        found = [json.loads(p.read_text()) for p in sorted((cli.folder / folder / "records").glob("*/*/*.json"))]
        return [(r["score_hash"], r["metrics"], r["facts"]) for r in found]

    assert len(numbers("results")) == len(SERVED)
    assert numbers("results") == numbers("reference")


def records_exist(place):
    return any((place / "results" / "records").glob("*/*/*.json")) if (place / "results").exists() else False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "picoo"], "unknown model 'picoo'; did you mean 'pico' or "),
        (["--model", "pico?random", "--protocol", "humingbird"], "did you mean 'hummingbird'?"),
        (["--model", "pico?random", "--dataset", "vok"], "did you mean 'voc'?"),
        (["--model", "pico?random", "--protocol", "hummingbird", "--preset", "papr"], "did you mean 'paper'"),
        (["--model", "pico?random", "--preset", "papr"], "no protocol has a preset 'papr'; there are "),
        (["--model", "pico?random", "--set", "hummingbird.neighbors=3"], "did you mean 'neighbours'?"),
        (["--model", "pico?random", "--set", "humingbird.neighbours=3"], "did you mean 'hummingbird'?"),
        (["--model", "pico?random", "--set", "hummingbird.neighbours=many"], "expected a whole number"),
        (["--model", "pico?random", "--protocol", "hummingbird", "--dataset", "scenes", "--set",
          "hummingbird.input_size=100"], "not a multiple of the patch size of pico?random (8); nearest are 96 and 104"),
        (["--model", "pico?random", "--limit", "0"], "expected at least 1"),
        (["--model", "pico?random", "--seed", "-1"], "--seed -1: expected at least 0"),
        (["--model", "pico?random", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--model", "pico?random", "--workers", "-1"], "--workers -1: expected at least 0"),
        (["--model", "pico?random", "--cache-size", "nan"], "--cache-size nan: expected at least 0"),
        (["--model", "dinov2_vits14", "--weights", "no.pth"], "--weights no.pth: there is no such file"),
        (["--model", "pico?random", "--device", "tpu"], "--device tpu: no such device here"),
        (["--model", "pico?random", "--device", "cuda", "--dataset", "scenes"], "no CUDA device answers"),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_line_and_exit_2(cli, arguments, message):
    done = cli("run", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_a_dataset_all_that_are_ready_are_planned_or_else_scenes(cli):
    plan = ("run", "--model", "mine.py:ColorBackbone", "--protocol", "hummingbird", "--dry-run")
    ready = cli(*plan, "--data-root", "data").stderr
    assert "voc" in ready
    assert "scenes" not in ready
    (cli.folder / "nothing").mkdir()
    alone = cli(*plan, "--data-root", "nothing").stderr
    assert "would run 1 cells" in alone
    assert "scenes_large" not in alone


def break_nothing(folder):
    """The folder is fine; the model is not."""


def empty(folder):
    for file in (folder / "JPEGImages").iterdir():
        file.unlink()


def half_empty(folder):
    for file in sorted((folder / "SegmentationClass").iterdir())[-3:]:
        file.unlink()


def wrong_label(folder):
    path = folder / "SegmentationClass" / "2007_val_0003.png"
    mask = np.array(Image.open(path))
    mask[0, 0] = 77
    Image.fromarray(mask).save(path)


def corrupt(folder):
    path = folder / "JPEGImages" / "2007_val_0003.jpg"
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("harm", "model", "message"),
    [
        (empty, "ColorBackbone", "8 of 8 files of split trainaug are missing"),
        (half_empty, "ColorBackbone", "of 6 files of split val are missing"),
        (wrong_label, "ColorBackbone", "2007_val_0003.png holds label 77 in 1 pixels"),
        (corrupt, "ColorBackbone", "2007_val_0003.jpg cannot be decoded"),
        (break_nothing, "NaNBackbone", "not finite for image 2007_"),
        (break_nothing, "ForgetfulBackbone", "Check `prefix` (registers?)"),
    ],
)
def test_bad_data_and_bad_features_fail_their_cells_and_write_no_number(cli, harm, model, message):
    harm(cli.folder / "data" / "VOCdevkit" / "VOC2012")
    done = cli.run("--protocol", "hummingbird,overclustering", model=f"mine.py:{model}")
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not records_exist(cli.folder)


def test_bad_data_loses_nothing_that_is_finished(cli):
    assert cli.run("--protocol", "hummingbird").returncode == 0
    kept = records(cli.folder)["hummingbird"]
    corrupt(cli.folder / "data" / "VOCdevkit" / "VOC2012")
    failed = cli.run("--protocol", "overclustering")
    assert failed.returncode == 1
    assert records(cli.folder) == {"hummingbird": kept}


def test_corrupt_images_are_left_out_only_on_request_and_are_named(cli):
    corrupt(cli.folder / "data" / "VOCdevkit" / "VOC2012")
    done = cli.run("--protocol", "hummingbird", "--skip-corrupt")
    assert done.returncode == 0, done.stderr
    record = records(cli.folder)["hummingbird"]
    assert record["data"]["skipped"] == ["2007_val_0003"]
    assert record["data"]["val"]["n_images"] == 5
    assert "1 of" in done.stderr


def test_a_split_with_nothing_but_corrupt_images_is_an_error(cli):
    for path in (cli.folder / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages").glob("*val*"):
        path.write_bytes(b"nothing")
    done = cli.run("--protocol", "hummingbird", "--skip-corrupt")
    assert done.returncode == 1
    assert "all 6 images of split val are corrupt" in done.stderr
    assert not records_exist(cli.folder)


def test_an_adapter_that_raises_fails_its_cells_in_words_and_the_rest_goes_on(cli):
    (cli.folder / "mine.py").write_text(
        "from tests.toys import *\n\n\nclass Raises(ColorBackbone):\n"
        "    def tokens(self, pixels, *more):\n        raise ValueError('not today')\n"
    )
    done = cli.run("--protocol", "hummingbird", model="mine.py:Raises,mine.py:ColorBackbone")
    assert done.returncode == 1
    assert "mine.py:Raises raised ValueError: not today (mine.py, line 6)" in done.stderr
    assert "Traceback" not in done.stderr
    assert records(cli.folder)["hummingbird"]["model"]["name"] == "color"
    assert "Traceback" in cli.run("--protocol", "hummingbird", "--debug", model="mine.py:Raises").stderr


def test_a_file_that_vanishes_fails_its_cell_in_words(cli, monkeypatch):
    monkeypatch.setattr(VOC, "digest", lambda data: Path("gone").read_text())
    done = cli.run("--protocol", "hummingbird")
    assert done.returncode == 1
    assert "gone cannot be used (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr


def test_metrics_without_a_value_are_named_and_never_written(cli, monkeypatch):
    measured = PROTOCOLS["hummingbird"].run

    def without(which):
        def run(*arguments):
            found = measured(*arguments)
            assert len({metric.main for metric in found.metrics}) == 2
            lost = [
                metric.model_copy(update={"value": math.nan}) if metric.main in which else metric
                for metric in found.metrics
            ]
            return dataclasses.replace(found, metrics=tuple(lost))

        return run

    monkeypatch.setattr(PROTOCOLS["hummingbird"], "run", without({True}))
    done = cli.run("--protocol", "hummingbird")
    assert done.returncode == 1
    assert "there is nothing in voc val to compute miou@1" in done.stderr
    assert not records_exist(cli.folder)
    monkeypatch.setattr(PROTOCOLS["hummingbird"], "run", without({False}))
    assert cli.run("--protocol", "hummingbird").returncode == 0
    record = records(cli.folder)["hummingbird"]
    assert all(metric["main"] for metric in record["metrics"])
    assert "No value" in record["notes"][-1]
    assert "nothing to do" in cli.run("--protocol", "hummingbird").stderr  # what was written can be read


@pytest.mark.parametrize(("split", "folder"), [("val", "SegmentationClass"), ("trainaug", "SegmentationClassAug")])
def test_a_split_whose_masks_are_all_void_gives_no_score(cli, split, folder):
    for path in (cli.folder / "data" / "VOCdevkit" / "VOC2012" / folder).glob("*.png"):
        Image.fromarray(np.full_like(np.array(Image.open(path)), 255)).save(path)
    protocols = "hummingbird" if split == "trainaug" else "hummingbird,overclustering"
    done = cli.run("--protocol", protocols)
    assert done.returncode == 1
    said = f"voc {split}: of 21 classes the masks hold none, and 100 % of their pixels are of no class"
    assert done.stderr.count(said) >= len(protocols.split(","))
    assert not records_exist(cli.folder)


def test_one_model_that_fails_does_not_stop_the_others(cli):
    done = cli.run("--protocol", "hummingbird", model="mine.py:NaNBackbone,mine.py:ColorBackbone")
    assert done.returncode == 1
    assert records(cli.folder)["hummingbird"]["model"]["name"] == "color"


def test_limit_is_marked_and_stays_off_the_leaderboard(cli):
    done = cli.run("--protocol", "hummingbird", "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert records(cli.folder)["hummingbird"]["data"]["limit"] == 3
    assert "mine.py" not in (cli.folder / "results" / "leaderboard.csv").read_text()


def test_a_dry_run_prints_the_plan_and_writes_nothing(cli):
    done = cli.run("--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"would run {len(SERVED)} cells" in done.stderr
    assert "6 val images at 64x64" in done.stderr
    assert not (cli.folder / "results").exists() or not records_exist(cli.folder)


def test_a_torn_record_is_run_again(cli):
    assert cli.run("--protocol", "hummingbird").returncode == 0
    path = next((cli.folder / "results" / "records").glob("*/*/*.json"))
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    done = cli.run("--protocol", "hummingbird")
    assert done.returncode == 0
    assert "is not a record of schema" in done.stderr
    assert json.loads(path.read_text())["metrics"] == json.loads(whole)["metrics"]


def test_results_that_cannot_be_written_are_an_error_before_any_work(cli):
    (cli.folder / "results").write_text("a file, not a folder")
    done = cli.run("--protocol", "hummingbird")
    assert done.returncode == 1
    assert "choose another" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_protocols_are_those_that_a_dataset_can_serve(cli):
    """`all` leaves out, in words, what needs other ground truth; a protocol asked for by name is refused."""
    done = cli.run("--protocol", "all", "--dry-run")
    assert done.returncode == 0
    assert "not run: correspondence needs keypoints, which voc does not have" in done.stderr
    assert "not run: unsupervised_segmentation needs attention maps, which color does not give" in done.stderr
    asked = cli.run("--protocol", "correspondence")
    assert asked.returncode == 2
    assert "correspondence needs keypoints, which voc does not have" in asked.stderr
    nothing = cli("run", "--model", "mine.py:ColorBackbone", "--protocol", "all", "--dataset", "coco")
    assert nothing.returncode == 2
    assert "nothing can be measured; " in nothing.stderr
    assert "hummingbird needs mask, which coco does not have" in nothing.stderr


class Night(VOC):
    """Other training images with the classes of VOC."""

    info = dataclasses.replace(VOC.info, name="night", train="val")


def test_training_images_may_come_from_another_dataset(cli, monkeypatch):
    """Domain shift: a record of its own, named after both; datasets whose classes differ are refused."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    DATASETS.add("night", Night)
    assert cli.run("--protocol", "hummingbird").returncode == 0
    done = cli.run("--protocol", "hummingbird", "--train-dataset", "night")
    assert done.returncode == 0, done.stderr
    (moved,), (plain,) = (
        [json.loads(p.read_text()) for p in cli.folder.glob(f"results/records/{name}/*/*.json")]
        for name in ("night--voc", "voc")
    )
    assert moved["data"]["name"] == "night->voc"
    assert moved["data"]["val"] == plain["data"]["val"]
    assert moved["data"]["train"]["n_images"] == 6
    assert plain["data"]["train"]["n_images"] == 8
    assert "night->voc" in (cli.folder / "results" / "leaderboard.csv").read_text()
    refused = cli.run("--protocol", "hummingbird", "--train-dataset", "scenes")
    assert refused.returncode == 2
    assert "scenes and voc have different classes (class 1 is " in refused.stderr


def test_every_protocol_runs_on_the_embedded_data_with_the_built_in_model(cli):
    done = cli("run", "--model", "pico", "--protocol", "all", "--dataset", "scenes", "--limit", "4", *QUICK)
    assert done.returncode == 0, done.stderr
    found = records(cli.folder)
    assert set(found) == set(PROTOCOLS.names()) - ({"unsupervised_segmentation"} if not has_infomap() else set())
    for record in found.values():
        assert record["cost"]["bank_bytes"] > 0
        assert set(record["cost"]["seconds"]) > {"total"}


def test_what_reads_no_training_images_runs_without_them(cli):
    (cli.folder / "data/VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt").unlink()
    done = cli.run("--protocol", "overclustering,hummingbird")
    assert done.returncode == 1
    assert "failed: color / hummingbird / voc: " in done.stderr
    assert "trainaug" in done.stderr
    record = records(cli.folder)["overclustering"]
    assert record["data"]["train"] is None
    assert record["data"]["val"]["n_images"] == 6
