"""`densebench run` as a user meets it: a second run, a kill, wrong requests, broken data. One process per command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import toys

REPOSITORY = Path(__file__).parents[2]
QUICK = [
    "--set", "hummingbird.input_size=64", "--set", "hummingbird.fractions=[1]",
    "--set", "overclustering.input_size=64", "--set", "overclustering.clusters=[21]",
    "--set", "overclustering.seeds=[0]", "--set", "overclustering.n_redo=1",
    "--set", "positional_effect.input_size=64", "--set", "positional_effect.steps=20",
    "--set", "positional_effect.clusters=4",
    "--set", "positional_effect.init_batches=2", "--workers", "0",
]  # fmt: skip


def densebench(*arguments, cwd, **changes) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **changes}
    command = [sys.executable, "-m", "densebench.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def place(tmp_path):
    """A folder with toy data and an adapter file, as a user has it."""
    toys.write_voc(tmp_path / "data")
    (tmp_path / "mine.py").write_text("from tests.toys import *\n")
    return tmp_path


def run(place, *arguments, model="mine.py:ColorBackbone", **changes):
    return densebench(
        "run", "--model", model, "--dataset", "voc", "--data-root", "data", *QUICK, *arguments, cwd=place, **changes
    )


def records(place) -> dict[str, dict]:
    found = [json.loads(p.read_text()) for p in sorted((place / "results" / "records").glob("*/*/*.json"))]
    return {r["protocol"]["name"]: r for r in found}


def test_all_protocols_make_records_a_table_and_a_leaderboard_and_a_second_run_does_nothing(place):
    first = run(place)
    assert first.returncode == 0, first.stderr
    found = records(place)
    assert set(found) == {"hummingbird", "overclustering", "positional_effect"}
    assert all(name in first.stdout for name in ("miou@1", "miou@K=21", "nmi"))
    assert (place / "results" / "leaderboard.csv").read_text().count("\n") > 5
    assert list((place / "results" / "plots").glob("*.png"))
    for record in found.values():
        assert record["cost"]["seconds"]["total"] > 0
        assert record["cost"]["peak_memory_bytes"] > 1e7
        assert record["data"]["val"]["n_images"] == 6
        assert record["model"]["weights_sha256"]
        for artifact in record["artifacts"]:
            assert (place / "results/records/voc/positional_effect" / artifact).stat().st_size > 1000
    before = {p: p.stat().st_mtime_ns for p in (place / "results" / "records").rglob("*.json")}
    second = run(place)
    assert second.returncode == 0
    assert "nothing to do: all 3 results" in second.stderr
    assert second.stdout == first.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (place / "results" / "records").rglob("*.json")}


def test_json_goes_to_stdout_and_progress_to_stderr(place):
    done = run(place, "--protocol", "hummingbird", "--json")
    assert [r["protocol"]["name"] for r in json.loads(done.stdout)] == ["hummingbird"]
    assert "memory 1/1" in done.stderr


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(place):
    reference = run(place, "--out", "reference", DENSEBENCH_CACHE=str(place / "other-cache"))
    assert reference.returncode == 0, reference.stderr
    command = [
        sys.executable, "-m", "densebench.cli", "run", "--model", "mine.py:ColorBackbone", "--dataset", "voc",
        "--data-root", "data", *QUICK,
    ]  # fmt: skip
    cache = str(place / "cache")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DENSEBENCH_CACHE": cache}
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.time() + 120
    while not records_exist(place) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = run(place, DENSEBENCH_CACHE=cache)
    assert done.returncode == 0, done.stderr
    assert "were in results already" in done.stderr

    def numbers(folder):
        found = [json.loads(p.read_text()) for p in sorted((place / folder / "records").glob("*/*/*.json"))]
        return [(r["score_hash"], r["metrics"], r["facts"]) for r in found]

    assert len(numbers("results")) == 3
    assert numbers("results") == numbers("reference")


def records_exist(place):
    return any((place / "results" / "records").glob("*/*/*.json")) if (place / "results").exists() else False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "picoo"], "unknown model 'picoo'; did you mean 'pico'?"),
        (["--model", "pico?random", "--protocol", "humingbird"], "did you mean 'hummingbird'?"),
        (["--model", "pico?random", "--dataset", "vok"], "did you mean 'voc'?"),
        (["--model", "pico?random", "--protocol", "hummingbird", "--preset", "papr"], "did you mean 'paper'?"),
        (["--model", "pico?random", "--set", "hummingbird.neighbors=3"], "did you mean 'neighbours'?"),
        (["--model", "pico?random", "--set", "humingbird.neighbours=3"], "did you mean 'hummingbird'?"),
        (["--model", "pico?random", "--set", "hummingbird.neighbours=many"], "valid integer"),
        (["--model", "pico?random", "--protocol", "hummingbird", "--dataset", "scenes", "--set",
          "hummingbird.input_size=100"], "no multiple of the patch size of pico?random (8); nearest are 96 and 104"),
        (["--model", "pico?random", "--limit", "0"], "expected at least 1"),
        (["--model", "pico?random", "--device", "cuda", "--dataset", "scenes"], "no CUDA device answers"),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_line_and_exit_2(tmp_path, arguments, message):
    done = densebench("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


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
def test_bad_data_and_bad_features_fail_their_cells_and_write_no_number(place, harm, model, message):
    harm(place / "data" / "VOCdevkit" / "VOC2012")
    done = run(place, "--protocol", "hummingbird,overclustering", model=f"mine.py:{model}")
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not records_exist(place)


def test_bad_data_loses_nothing_that_is_finished(place):
    assert run(place, "--protocol", "hummingbird").returncode == 0
    kept = records(place)["hummingbird"]
    corrupt(place / "data" / "VOCdevkit" / "VOC2012")
    failed = run(place, "--protocol", "overclustering")
    assert failed.returncode == 1
    assert records(place) == {"hummingbird": kept}


def test_corrupt_images_are_left_out_only_on_request_and_are_named(place):
    corrupt(place / "data" / "VOCdevkit" / "VOC2012")
    done = run(place, "--protocol", "hummingbird", "--skip-corrupt")
    assert done.returncode == 0, done.stderr
    record = records(place)["hummingbird"]
    assert record["data"]["skipped"] == ["2007_val_0003"]
    assert record["data"]["val"]["n_images"] == 5
    assert "1 of" in done.stderr


def test_one_model_that_fails_does_not_stop_the_others(place):
    done = run(place, "--protocol", "hummingbird", model="mine.py:NaNBackbone,mine.py:ColorBackbone")
    assert done.returncode == 1
    assert records(place)["hummingbird"]["model"]["name"] == "mine.py:ColorBackbone"


def test_limit_is_marked_and_stays_off_the_leaderboard(place):
    done = run(place, "--protocol", "hummingbird", "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert records(place)["hummingbird"]["data"]["limit"] == 3
    assert "mine.py" not in (place / "results" / "leaderboard.csv").read_text()


def test_a_dry_run_prints_the_plan_and_writes_nothing(place):
    done = run(place, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would run 3 cells" in done.stderr
    assert "6 val images at 64x64" in done.stderr
    assert not (place / "results").exists() or not records_exist(place)


def test_a_torn_record_is_run_again(place):
    assert run(place, "--protocol", "hummingbird").returncode == 0
    path = next((place / "results" / "records").glob("*/*/*.json"))
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    done = run(place, "--protocol", "hummingbird")
    assert done.returncode == 0
    assert "is no record of schema" in done.stderr
    assert json.loads(path.read_text())["metrics"] == json.loads(whole)["metrics"]


def test_results_that_cannot_be_written_are_an_error_before_any_work(place):
    (place / "results").write_text("a file, not a folder")
    done = run(place, "--protocol", "hummingbird")
    assert done.returncode == 1
    assert "choose another" in done.stderr
    assert "Traceback" not in done.stderr
