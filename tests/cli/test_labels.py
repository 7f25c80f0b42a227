"""What a run says it measured: settings, images, presets and seeds in every output; what counts as a cell's result."""

import csv
import json
import re

from densebench.protocols.overclustering.protocol import Overclustering
from tests.cli.test_run import cli  # noqa: F401  (a fixture)

FAST = ["--set", "hummingbird.fractions=[1]", "--pictures", "0"]
VOC = "voc (6 of 1449, trained on 8 of 10582)"
ONE = "hummingbird"


def paths(place):
    return sorted((place / "results" / "records").glob("*/*/*.json"))


def lines(place):
    with (place / "results" / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def test_settings_and_missing_images_are_said_everywhere(cli):  # noqa: F811
    done = cli.run("--protocol", ONE, *FAST)
    label = "paper + fractions=[1], input_size=64"
    assert done.returncode == 0, done.stderr
    assert f"hummingbird on {VOC}, preset {label}" in " ".join(done.stdout.split())
    assert f"/ hummingbird / {VOC} ({label}): miou@1" in done.stderr
    assert {(line["dataset"], line["data"], line["preset"], line["settings"]) for line in lines(cli.folder)} == {
        ("voc", VOC, "paper", "fractions=[1], input_size=64")
    }
    assert {(line["n_images"], line["n_published"], line["n_train_published"]) for line in lines(cli.folder)} == {
        ("6", "1449", "10582")
    }
    text = (cli.folder / "results" / "leaderboard.md").read_text()
    assert f"## {VOC}" in text
    assert "### hummingbird, preset paper + fractions=\\[1\\], input_size=64" in text
    listed = cli("list", "results").stdout
    assert VOC in listed
    assert label in listed
    (path,) = paths(cli.folder)
    for name in (path.stem.rpartition("--")[2][:6], path):
        page = cli("show", "record", name).stdout
        assert f"{VOC} ({label})" in page
        assert "Per class:" in page
        assert re.search(r"statistics\.npz: 0\.\d{3} MB, what each image adds to the scores", page)
    assert cli("show", "record", "nothing").returncode == 2
    planned = cli.run("--protocol", ONE, *FAST, "--precision", "bfloat16", "--dry-run")
    assert f"({label}, precision=bfloat16)" in planned.stderr


def test_embedded_data_runs_by_a_preset_of_its_own_unless_another_is_asked_for(cli):  # noqa: F811
    for arguments, label in (((), "(embedded)"), (("--preset", "paper"), "(paper)")):
        done = cli(
            "run", "--model", "pico?random", "--protocol", "depth", "--dataset", "scenes", "--dry-run", *arguments
        )
        assert done.returncode == 0, done.stderr
        assert label in done.stderr
    mixed = cli("run", "--model", "pico?random", "--protocol", ONE, "--dataset", "scenes,voc", "--data-root", "data",
                "--dry-run")  # fmt: skip
    assert "hummingbird / scenes (embedded)" in mixed.stderr
    assert "hummingbird / voc (paper)" in mixed.stderr


def test_a_limit_beyond_the_images_is_a_complete_run(cli):  # noqa: F811
    done = cli.run("--protocol", ONE, *FAST, "--limit", "100")
    assert done.returncode == 0, done.stderr
    assert "first" not in done.stdout
    (path,) = paths(cli.folder)
    assert json.loads(path.read_text())["data"]["limit"] is None
    assert "nothing to do: all 1 results" in cli.run("--protocol", ONE, *FAST).stderr
    assert len(lines(cli.folder)) > 1


def test_a_record_of_another_cell_is_not_kept_as_the_result_of_this_one(cli):  # noqa: F811
    assert cli.run("--protocol", ONE, *FAST).returncode == 0
    (path,) = paths(cli.folder)
    good = json.loads(path.read_text())
    other, schema = "is the record of another cell", "is not a record of schema 2"
    for change, said in (
        ({"data": {**good["data"], "limit": 100}}, other),  # as --limit 100 of six images left it
        ({"model": {**good["model"], "name": "another"}}, f"{other}, another / hummingbird"),
        ({"protocol": {**good["protocol"], "name": "depth"}}, other),
        ({"data": {**good["data"], "name": "ade20k"}}, other),
        ({"score_hash": "0" * 16}, other),
        ({"schema_version": 3}, schema),
        ({"metrics": [good["metrics"][0]] * 2}, schema),
    ):
        path.write_text(json.dumps({**good, **change}))
        done = cli.run("--protocol", ONE, *FAST)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(said) == 1
        again = json.loads(path.read_text())
        assert [again[name] for name in ("metrics", "data", "score_hash")] == [
            good[name] for name in ("metrics", "data", "score_hash")
        ]


def test_a_finished_record_of_schema_1_is_kept(cli):  # noqa: F811
    assert cli.run("--protocol", ONE, *FAST).returncode == 0
    (path,) = paths(cli.folder)
    written = json.loads(path.read_text())
    for metric in written["metrics"]:
        assert metric["at"] == {"fraction": "1"}
        metric["name"] += f"@{metric.pop('at')['fraction']}"
    path.write_text(old := json.dumps({**written, "schema_version": 1}))
    assert "nothing to do: all 1 results" in cli.run("--protocol", ONE, *FAST).stderr
    assert path.read_text() == old


def test_rows_are_there_after_every_cell_and_files_come_back(cli, monkeypatch):  # noqa: F811
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Overclustering, "run", stop)
        done = cli.run("--protocol", f"{ONE},overclustering", *FAST)
    assert done.returncode == 130
    assert {line["protocol"] for line in lines(cli.folder)} == {ONE}
    assert not (cli.folder / "results" / "leaderboard.md").exists()
    done = cli.run("--protocol", ONE, *FAST)  # nothing to do but the files that were not written
    assert "nothing to do" in done.stderr
    assert (cli.folder / "results" / "leaderboard.md").exists()
    (cli.folder / "results" / "leaderboard.csv").unlink()
    cli.run("--protocol", ONE, *FAST)
    assert lines(cli.folder)


def test_several_seeds_are_cells_and_one_row(cli):  # noqa: F811
    done, label = cli.run("--protocol", ONE, *FAST, "--seed", "3,1,3"), "paper + fractions=[1], input_size=64"
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(path.read_text())["seed"] for path in paths(cli.folder)) == [1, 3]
    assert done.stdout.count("(sd ") == 1
    for seed in (1, 3):
        assert f"({label}), seed {seed}: miou@1" in done.stderr
    main = [(line["seed"], line["records"]) for line in lines(cli.folder) if line["metric"] == "miou@1"]
    assert main == [("1,3", "2"), ("1", "1"), ("3", "1")]
    planned = cli.run("--protocol", "overclustering", "--seed", "0,1", "--dry-run").stderr
    assert "total: 1 cell " in planned
    assert "overclustering with more than one --seed: it changes nothing there" in planned
    for text in ("one", "1.5", "-1", str(2**63)):
        assert cli.run("--protocol", ONE, "--seed", text).returncode == 2
